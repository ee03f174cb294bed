"""Learning to detect: what a network is given, what losses are divided by, and where its detections lie in the image itself."""

from collections.abc import Mapping, Sequence
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from phalanx.configs.errors import UserError
from phalanx.configs.load import load
from phalanx.configs.schema import RunConfig
from phalanx.data.loading.loader import Samples, collate
from phalanx.data.open import open_split
from phalanx.data.transforms.pipeline import pipeline
from phalanx.dist.microbatches.sampler import Draw
from phalanx.models import registry
from phalanx.models.detection.inference import Inference
from phalanx.train.setup.build import data_info, network
from phalanx.train.setup.checks import check_model
from phalanx.train.tasks import DataInfo, build
from tests.support.running import DIGITS

CLASSES = 8


def configured(*settings: str) -> RunConfig:
    """A run that learns the objects of `shapes`."""
    given = ["task.name=instance", "data.name=shapes", "data.image_size=64", "data.augment.shift=0"]
    given += [
        "data.options={target: boxes, train: 12, val: 4, size: 64}",
        "model.name=mask_rcnn",
        "model.backbone=./resnet18.py:Backbone",
    ]
    return load([DIGITS], [*given, *settings])


def batch_of(config: RunConfig, epoch: int, *ids: int) -> dict[str, Any]:
    """Samples of the training split as the network sees them."""
    training = open_split(config.data, "train", config.seed)
    samples = Samples(training, pipeline(config.data, training, "train"), config.seed)
    return collate([samples[Draw(epoch, i)] for i in ids], samples.ragged)


def task_of(config: RunConfig, **more: Any) -> Any:
    return build(config, DataInfo(**{"classes": tuple("abcdefgh"), "channels": 3, "kind": "detection", "samples": 12} | more))


class Keeps(nn.Module):
    """A detector that keeps what it is given, and sees what it is told to."""

    def __init__(self, found: Sequence[Mapping[str, Tensor]] = ()) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(1, dtype=torch.float64))
        self.found, self.images, self.targets = list(found), [], []  # type: ignore[var-annotated]
        self.wanted: Inference | None = None

    def forward(self, images: Any, targets: Any = None, inference: Inference | None = None) -> Any:
        self.images, self.targets, self.wanted = images, targets, inference
        return self.found if targets is None else {"rpn_boxes": (self.weight.sum(), 1.0)}


# -- training


def test_a_network_is_given_the_objects_of_each_image_and_a_seed_that_is_the_draw_s_own() -> None:
    config = configured()
    task, keeps = task_of(config), Keeps()
    seeds = []
    for epoch, ids in ((0, (3, 5, 7)), (0, (7, 9)), (1, (3,))):
        batch = batch_of(config, epoch, *ids)
        task.losses(keeps, batch)
        seeds.append([target["seed"] for target in keeps.targets])
        for place, target in enumerate(keeps.targets):
            assert target.keys() == {"boxes", "labels", "masks", "seed", "epoch"}
            assert all(target[entry] is batch[entry][place] for entry in ("boxes", "labels", "masks"))
    assert seeds[0][2] == seeds[1][0] and len({*seeds[0], *seeds[1], *seeds[2]}) == 5


def test_without_masks_to_learn_none_are_given() -> None:
    config, keeps = configured("task.name=detection", "model.name=faster_rcnn"), Keeps()
    task_of(config).losses(keeps, batch_of(config, 0, 1))
    assert keeps.targets[0].keys() == {"boxes", "labels", "seed", "epoch"}


def test_images_of_several_sizes_come_in_the_format_of_the_network() -> None:
    config, keeps = configured(), Keeps()
    batch = batch_of(config, 0, 0, 1)
    batch["image"] = [batch["image"][0], batch["image"][1, :, :40]]
    task_of(config).losses(keeps, batch)
    assert [tuple(image.shape) for image in keeps.images] == [(3, 64, 64), (3, 40, 64)]
    assert {image.dtype for image in keeps.images} == {torch.float64}


@pytest.mark.parametrize("name", ["faster_rcnn", "mask_rcnn"])
def test_losses_are_divided_by_what_the_batch_tells_where_it_tells_it(name: str) -> None:
    config = configured(f"model.name={name}", f"task.name={'instance' if name == 'mask_rcnn' else 'detection'}")
    task, batch = task_of(config), batch_of(config, 0, 0, 1)
    known = task.weights(batch)
    losses = task.losses(network(config, data_info(open_split(config.data, "train", config.seed), config)).train(), batch)
    for loss, (total, weight) in losses.items():
        assert total.dim() == 0 and total > 0 and weight > 0
        assert loss not in known or known[loss] == weight == 2 * 256
    assert losses.keys() - known.keys() == {"classes", "boxes", "masks"} & losses.keys()


def test_data_without_masks_is_refused_where_they_are_learnt() -> None:
    config = configured()
    batch = batch_of(config, 0, 0)
    del batch["masks"]
    with pytest.raises(UserError, match=r"task.name=instance learns masks, but the objects of data.name=shapes have none"):
        task_of(config).losses(Keeps(), batch)


# -- detections in the image itself


def seen(boxes: Sequence[Sequence[float]], filled: float = 1.0) -> dict[str, Tensor]:
    count = len(boxes)
    scores = torch.linspace(0.9, 0.6, count)
    masks = torch.full((count, 28, 28), filled)
    return {
        "boxes": torch.tensor(boxes).reshape(-1, 4),
        "scores": scores,
        "labels": torch.arange(count) % CLASSES,
        "masks": masks,
    }


def test_boxes_and_masks_are_brought_back_to_the_image_that_was_padded_and_clipped_there() -> None:
    # An image of 30 x 60 pixels lies in 64 x 64 from row 16 on, 32 x 64 pixels large.
    config = configured("data.fit=pad", "evaluate.score=0.3", "evaluate.nms_iou=0.6", "evaluate.detections=9")
    keeps = Keeps([seen([[9.0, 20.0, 25.0, 36.0], [50.0, 41.0, 70.0, 60.0], [10.0, 2.0, 20.0, 12.0]])])
    batch = {"image": torch.zeros(1, 3, 64, 64, dtype=torch.float64), "size": torch.tensor([[30, 60]])}
    (found,) = task_of(config).predict(keeps, batch)
    assert keeps.wanted == Inference(0.3, 0.6, 9) and keeps.targets is None
    factor = 60 / 64
    expected = [[9 * factor, 4 * factor, 25 * factor, 20 * factor], [50 * factor, 25 * factor, 60.0, 30.0]]
    assert len(found["objects"]) == 2  # the third lies in the padding
    for one, box in zip(found["objects"], expected, strict=True):
        assert one["box"] == pytest.approx(box)
    assert [one["class"] for one in found["objects"]] == [0, 1] and found["objects"][0]["label"] == "a"
    assert found["objects"][0]["score"] == pytest.approx(0.9)
    masks = torch.zeros(2, 30, 60, dtype=torch.bool)
    masks[0, 4:19, 8:23] = masks[1, 23:, 47:] = True  # the pixels whose centres lie within
    assert torch.equal(found["masks"], masks)


def test_a_batch_without_detections_or_objects_measures_nothing() -> None:
    config = configured()
    empty = {"boxes": torch.zeros(0, 4), "labels": torch.zeros(0, dtype=torch.int64)}
    batch: dict[str, Any] = {"image": torch.zeros(1, 3, 64, 64), "size": torch.tensor([[64, 64]]), "id": torch.tensor([4])}
    batch |= {name: [value] for name, value in (empty | {"masks": torch.zeros(0, 64, 64, dtype=torch.bool)}).items()}
    task = task_of(config)
    sums = task.measure(Keeps([seen([])]), batch)
    assert {len(rows.values) for name, rows in sums.items() if name != "confusion"} == {0}
    metrics = task.metrics({name: value if name == "confusion" else value.values for name, value in sums.items()})
    assert metrics["ap"] == metrics["mask_ap"] == -1


# -- what does not go together


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        (["model.name=faster_rcnn"], "model.name=faster_rcnn: this network predicts no masks.*Set model.name=mask_rcnn"),
        (["task.name=detection"], "model.name=mask_rcnn: task.name=detection has no masks.*model.name=faster_rcnn"),
        (["model.name=resnet18", "model.backbone=null"], "Set model.name=mask_rcnn model.backbone=resnet18"),
        (["model.name=unet", "task.name=detection"], "is a network for segmentation.*Set model.name=faster_rcnn, or another"),
        (["task.name=classification"], "is a network for detection, but.*Set task.name=detection or instance"),
        (["model.options.norm=frozen"], "BatchNorm of its backbone is frozen, but without weights"),
        (["model.name=maskrcnn_resnet50_fpn", "model.backbone=null"], "is frozen, but without weights"),
        (["model.backbone=resnet18", "model.backbone_weights=torchvision/V9"], "torchvision has no such weights of resnet18"),
    ],
)
def test_networks_that_do_not_go_with_the_task_are_refused_before_anything_is_built(settings: list[str], sentence: str) -> None:
    with pytest.raises(UserError, match=sentence):
        check_model(configured(*settings))


def test_networks_that_go_with_the_task_are_taken() -> None:
    for name in registry.names("detection"):
        backbone = [] if "backbone" in registry.MODELS[name].takes else ["model.backbone=null"]
        weights = ["model.weights=w.pth"] if registry.get(name).has_frozen_batchnorm({}) else []
        task = "instance" if registry.get(name).masks else "detection"
        check_model(configured(f"model.name={name}", f"task.name={task}", *backbone, *weights))


def test_classes_count_the_background_where_the_network_does() -> None:
    assert (
        network(
            configured(), data_info(open_split(configured().data, "train"), configured())
        ).roi_heads.box_predictor.cls_score.out_features
        == CLASSES + 1
    )  # type: ignore[union-attr]
    with pytest.raises(UserError, match=r"model.num_classes=8, but the data has 8 classes and the background. Set at"):
        task_of(configured("model.num_classes=8"))


@pytest.mark.parametrize("setting", ["loss.name=focal", "loss.label_smoothing=0.1"])
def test_losses_that_are_not_a_detector_s_are_refused(setting: str) -> None:
    with pytest.raises(UserError, match=r"a detector has its own losses"):
        configured(setting)
