"""docs/references.md shows what the recipes say, key by key, as they say it."""

from typing import Any

import pytest

from phalanx.configs.load import load
from phalanx.configs.schema import RunConfig
from tests.support.running import ROOT

PAGE = (ROOT / "docs/references.md").read_text()
_IMAGENET = "resnet50 resnet50_v2 resnet50_a1 resnet50_a2 resnet50_a3 swin_t convnext_tiny vit_b_16"
_CITYSCAPES, _ADE = "cityscapes_deeplabv3plus cityscapes_pspnet cityscapes_upernet", "deeplabv3plus pspnet upernet_swin_t"
TABLES: dict[str, tuple[list[str], list[str]]] = {
    "ImageNet-1K": (
        [f"imagenet_{name}" for name in _IMAGENET.split()],
        [
            *("train.epochs", "train.global_batch", "optim.name", "optim.lr", "optim.weight_decay"),
            *("optim.no_decay", "schedule.name", "schedule.warmup_epochs", "schedule.final", "loss.name"),
            *("loss.label_smoothing", "data.augment.mixup", "data.augment.cutmix", "data.augment.erasing"),
            *(
                "data.augment.trivialaugment",
                "data.augment.randaugment",
                "data.augment.timm",
                "data.repeats",
                "model.drop_path",
            ),
            *("train.clip_norm", "train.ema", "data.image_size", "evaluate.size", "data.crop_share", "data.interpolation"),
            "dist.precision",
        ],
    ),
    "Segmentation": (
        [*_CITYSCAPES.split(), *(f"ade20k_{name}" for name in _ADE.split())],
        [
            *("train.steps", "train.global_batch", "train.micro_batch", "data.image_size", "data.size_rounding"),
            *("data.augment.scale",),
            *("data.augment.scale_of", "data.augment.scale_longest", "data.augment.crop_most", "data.augment.flip"),
            *("data.augment.colour", "optim.name", "optim.lr", "optim.momentum", "optim.weight_decay", "schedule.name"),
            *("schedule.power", "schedule.final", "schedule.warmup_steps", "loss.auxiliary", "model.backbone", "model.stem"),
            *("model.output_stride", "model.drop_path", "dist.sync_bn", "evaluate.size", "evaluate.fit"),
        ],
    ),
    "COCO": (
        [f"coco_{name}" for name in ["maskrcnn_resnet50_fpn", "fasterrcnn_resnet50_fpn", "yolox_s", "yolov8n"]],
        [
            *("train.epochs", "train.global_batch", "train.micro_batch", "data.image_size", "data.size_rounding"),
            *("data.resize_dtype", "train.eval_last_epochs", "checkpoint.best", "optim.name", "optim.lr"),
            *("optim.momentum", "optim.nesterov", "optim.weight_decay", "optim.no_decay", "schedule.name"),
            *("schedule.milestones", "schedule.final", "schedule.warmup_steps", "schedule.warmup_epochs", "train.clip_norm"),
            *("train.ema", "train.ema_ramp", "data.augment.flip", "data.augment.brightness", "data.augment.saturation"),
            *("data.augment.hue", "data.augment.mosaic", "data.augment.mosaic_scale", "data.augment.mosaic_shift"),
            *("data.augment.mosaic_rotate", "data.augment.mosaic_shear", "data.augment.mosaic_mixup"),
            *("data.augment.mosaic_mixup_scale", "data.augment.mosaic_epochs", "data.augment.sizes_every"),
            *("data.aspect_bins", "evaluate.score", "evaluate.nms_iou", "evaluate.detections", "dist.precision"),
        ],
    ),
}


def shown(value: Any) -> str:
    """A value as the page shows it; `-` for what is off."""
    if value is None or value is False or value in (0, [], ()) or value == "off":
        return "-"
    if isinstance(value, list | tuple):
        return ", ".join(map(shown, value))
    return f"{value:g}" if isinstance(value, float) else str(value).lower() if value is True else str(value)


def value_of(config: RunConfig, key: str) -> Any:
    found: Any = config
    for part in key.split("."):
        found = getattr(found, part)
    return found


def row(section: str, key: str) -> str:
    names, _ = TABLES[section]
    values = [shown(value_of(load([str(ROOT / f"configs/recipes/{name}.yaml")], []), key)) for name in names]
    return f"| `{key}` | {' | '.join(values)} |"


@pytest.mark.parametrize(("section", "key"), [(section, key) for section, (_, keys) in TABLES.items() for key in keys])
def test_the_page_has_the_recipes_values(section: str, key: str) -> None:
    assert row(section, key) in PAGE.splitlines()
