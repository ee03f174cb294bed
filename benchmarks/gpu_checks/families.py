"""Every family of networks takes three steps in bf16 and channels_last, and waits for the device as seldom as is promised."""

import math
import traceback
import warnings
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch

from benchmarks.gpu_checks import pretending
from benchmarks.gpu_checks.check import Bench
from benchmarks.gpu_checks.training import Training, recipe

STEPS = 3
_HEADS = ["model.options.hidden=64", "model.options.samples=16"]
_NARROW = {
    "faster_rcnn": _HEADS,
    "mask_rcnn": [*_HEADS, "model.options.mask_channels=[32]"],
    "yolov3": ["model.options.channels=8"],
    "fcn8s": ["model.options.hidden=64", "model.backbone=vgg11"],
    "fcn": ["model.backbone=resnet18"],
    "unet": ["model.options={width: 8, batch_norm: true}"],
    "unetpp": ["model.options={width: 8, batch_norm: true}"],
    "attention_unet": ["model.options.width=8"],
    "pspnet": ["model.backbone=resnet18"],
    "deeplabv2": ["model.backbone=resnet18"],
    "deeplabv3": ["model.backbone=resnet18"],
    "deeplabv3plus": ["model.backbone=resnet18"],
}
CLASSIFICATION = ["resnet18", "vgg11_bn", "googlenet", "inception_v3", "swin_t", "swin_v2_t", "convnext_tiny", "vit_b_32"]
SEGMENTATION = ["fcn8s", "fcn", "segnet", "unet", "unetpp", "attention_unet", "pspnet", "deeplabv1", "deeplabv2", "deeplabv3"]
SEGMENTATION += ["deeplabv3plus"]
REGIONS = ["faster_rcnn", "mask_rcnn", "retinanet", "fcos"]
YOLO = ["yolov3", "yolov5n", "yolox_nano", "yolov8n"]
# What two CPU cores do in seconds.
_SMALL = {"resnet18", "swin_t", "unet", "deeplabv3plus", "faster_rcnn", "mask_rcnn", "retinanet", "fcos", *YOLO[1:]}
_SMOKE = {"resnet18", "unet", "mask_rcnn", "yolov8n"}


def classification(bench: Bench) -> tuple[bool, dict[str, Any]]:
    return _three_steps_each(bench, CLASSIFICATION)


def segmentation(bench: Bench) -> tuple[bool, dict[str, Any]]:
    return _three_steps_each(bench, SEGMENTATION)


def regions(bench: Bench) -> tuple[bool, dict[str, Any]]:
    return _three_steps_each(bench, REGIONS)


def yolo(bench: Bench) -> tuple[bool, dict[str, Any]]:
    return _three_steps_each(bench, YOLO)


def _three_steps_each(bench: Bench, networks: Sequence[str]) -> tuple[bool, dict[str, Any]]:
    """One network that fails does not keep the others from being tried."""
    few = {"full": networks, "small": _SMALL, "smoke": _SMOKE}[bench.way.size]
    wrong = []
    for network in [network for network in networks if network in few]:
        try:
            held, figures = _three_steps(bench, network)
        except Exception as error:
            held, figures = False, {"error": f"{type(error).__name__}: {str(error)[:500]}"}
            traceback.print_exc()
        bench.tell(network, {"held": held} | figures)
        if not held:
            wrong.append(network)
    return not wrong, {"wrong": wrong}


def _three_steps(bench: Bench, network: str) -> tuple[bool, dict[str, Any]]:
    overrides = [*_NARROW.get(network, []), "dist.channels_last=true"]
    training = Training(bench, recipe(network, "bf16", bench.device, *overrides), STEPS)
    for _ in range(STEPS - 1):
        training.step()
    with waits(bench) as found:
        training.step()
    losses = training.losses()
    held = all(math.isfinite(loss) for loss in losses.values())
    figures: dict[str, Any] = {"losses": {name: round(loss, 4) for name, loss in losses.items()}}
    if bench.device == "cuda":
        figures |= {"waits": found.total(), "where": dict(found.most_common(5))}
    return held, figures


@contextmanager
def waits(bench: Bench) -> Iterator[Counter[str]]:
    """Counts what waits for the device, by its place; nothing on a CPU, which has nothing to wait for."""
    if bench.way.pretended:
        with pretending.waits() as found:
            yield found
        return
    found = Counter()
    if not bench.on_gpu:
        yield found
        return
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        torch.cuda.set_sync_debug_mode("warn")
        try:
            yield found
        finally:
            torch.cuda.set_sync_debug_mode("default")
    found.update(f"{w.filename}:{w.lineno}" for w in caught if "synchronizing CUDA operation" in str(w.message))
