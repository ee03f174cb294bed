"""A recipe for data that was found in a folder, which trains as it is: network, sizes, batch and length that suit it.

The numbers are starting points, not results: those of recipes that were tried on small data sets on CPUs (docs/bccd.md,
docs/camvid.md) and of the published ones for GPUs (docs/references.md).
"""

import math
from dataclasses import dataclass
from typing import Any

import yaml

from phalanx.data.inspect.found_data import FoundData

_STRIDE = 32  # of the networks' deepest maps
# Seconds on two CPU cores are few, and GPUs are idle on small images: the long side that images are seen at, and the steps.
_LONGEST = {"classification": (128, 224), "segmentation": (240, 768), "detection": (384, 640)}
_STEPS = {"classification": (1500, 30_000), "segmentation": (700, 40_000), "detection": (1500, 40_000)}
_MICRO_BATCH = {"classification": (16, 64), "segmentation": (4, 4), "detection": (4, 8)}
_EPOCHS = {"classification": 100, "segmentation": 300, "detection": 100}  # at most
_SMALL = 64  # pixels: the stem of ResNets for large images would leave too little of such


@dataclass(frozen=True)
class Machine:
    """What trains.

    Attributes:
        gpus: their number; 0 for CPUs.
        cores: of the machine.
    """

    gpus: int
    cores: int

    @property
    def ranks(self) -> int:
        return self.gpus or min(2, self.cores)


def proposal(found: FoundData, machine: Machine) -> str:
    """The recipe as YAML, with a comment for what one might want to change."""
    task, on_gpu = found.layout.task, machine.gpus > 0
    size = _image_size(found, on_gpu)
    micro_batch = _MICRO_BATCH[task][on_gpu]
    while micro_batch > 1 and micro_batch * machine.ranks > found.train:
        micro_batch //= 2
    batch = micro_batch * max(1, min(machine.ranks, found.train // micro_batch))
    if task == "classification" and not on_gpu and batch * 2 <= found.train:
        batch *= 2
    an_epoch = found.train / batch
    epochs = max(3, min(_EPOCHS[task], round(_STEPS[task][on_gpu] / an_epoch)))
    steps = math.ceil(epochs * an_epoch)
    every = max(1, min(round(an_epoch * max(1, epochs // 20)), steps))
    parts = [
        f"# A recipe for {found.layout.root}, written by `phalanx init`.",
        f"# {found.train:,} samples to train on, {found.val:,} to validate on, {len(found.classes)} classes; about {steps:,} "
        f"steps on {_machine(machine)}.",
        "#   phalanx train THIS_FILE          trains here; phalanx submit THIS_FILE on a SLURM cluster",
        "#   phalanx data THIS_FILE           shows what the network sees",
        "#   phalanx config --keys            every key and its meaning",
        "seed: 1  # everything random follows from it",
        f"task:\n  name: {task}",
        _section(
            "data", found.data | {"image_size": list(size) if size[0] != size[1] else size[0]} | _fit(task), _DATA_COMMENTS
        ),
        _augmentation(task, found, epochs),
        f"  workers: {max(1, min(8, machine.cores // machine.ranks - 1))}  # loader processes of each rank",
        _model(found, size, on_gpu),
        *(["loss:\n  name: bce  # an image has several labels"] if found.kind == "multilabel" else []),
        _optimization(task, batch, an_epoch),
        f"train:\n  global_batch: {batch}  # samples of a step, over all ranks: part of the experiment\n"
        f"  micro_batch: {micro_batch}  # samples at a time on a rank; less needs less memory\n"
        f"  epochs: {epochs}\n  eval_every: {every}  # steps\n"
        f"  ema: {0.998 if steps > 5000 else 0.99}  # evaluation uses averaged weights\n  ema_ramp: {max(20, steps // 10)}",
        *_dist(task, found, on_gpu),
        f"checkpoint:\n  every_steps: {every}\n  best: {_metric(found)}  # the best checkpoint is kept by this metric",
    ]
    return "\n".join(parts) + "\n"


_DATA_COMMENTS = {
    "root": "the folder; another machine may have it elsewhere: data.root=FOLDER",
    "val_fraction": "the share of the training split that is held out",
    "ignore_index": "these pixels are neither learnt nor counted",
    "image_size": "height and width that the network sees",
    "mode": "channels of the images",
    "fit": "how an image of another aspect becomes that size",
}


def _section(name: str, keys: dict[str, Any], comments: dict[str, str]) -> str:
    lines = (f"  {_line(key, value)}" + (f"  # {comments[key]}" if key in comments else "") for key, value in keys.items())
    return "\n".join([f"{name}:", *lines])


def _line(key: str, value: Any) -> str:
    text = yaml.safe_dump(value, default_flow_style=True, sort_keys=False, allow_unicode=True, width=10_000)
    return f"{key}: {text.removesuffix('...' + chr(10)).strip()}"


def _machine(machine: Machine) -> str:
    if machine.gpus:
        return f"{machine.gpus} GPU{'s' if machine.gpus > 1 else ''}"
    return f"{machine.cores} CPU core{'s' if machine.cores > 1 else ''} (there is no GPU here)"


def _image_size(found: FoundData, on_gpu: bool) -> tuple[int, int]:
    """Height and width: the median image's, made smaller where it is large; a square for classification."""
    height, width = found.median
    longest = _LONGEST[found.layout.task][on_gpu]
    if found.layout.task == "classification":
        side = min(longest, max(height, width))
        return (side, side) if side <= _SMALL else (_multiple(side, _STRIDE), _multiple(side, _STRIDE))
    factor = min(1.0, longest / max(height, width))
    unit = _STRIDE if found.layout.task == "detection" else 1
    return _multiple(height * factor, unit), _multiple(width * factor, unit)


def _multiple(side: float, unit: int) -> int:
    return max(unit, round(side / unit) * unit)


def _fit(task: str) -> dict[str, Any]:
    return {"fit": "pad"} if task == "detection" else {}


def _augmentation(task: str, found: FoundData, epochs: int) -> str:
    keys: dict[str, Any] = {"flip": 0.5}
    if task == "classification":
        keys |= {"shift": max(1, min(found.median) // 10)} if max(found.median) <= _SMALL else {"area": [0.25, 1.0]}
    elif task == "segmentation":
        keys |= {"scale": [0.75, 1.75]}
    else:
        keys |= {"mosaic": 0.5, "mosaic_epochs": math.ceil(0.8 * epochs)}
    if found.data.get("mode", "rgb") == "rgb":
        keys |= {"brightness": 0.2, "saturation": 0.2}
    listed = "\n".join(f"    {_line(key, value)}" for key, value in keys.items())
    return f"  augment:  # no flip where left and right, as of letters, differ\n{listed}"


def _model(found: FoundData, size: tuple[int, int], on_gpu: bool) -> str:
    task = found.layout.task
    resnet = "resnet50" if on_gpu else "resnet18"
    weights = "# {key}: torchvision  # starts from weights that were trained on other images; downloaded once"
    if task == "classification":
        stem = "  stem: small  # for small images\n" if max(size) <= _SMALL else ""
        return f"model:\n  name: {resnet}  # phalanx models lists others\n{stem}  {weights.format(key='weights')}"
    if task == "segmentation":
        network = "  name: deeplabv3plus  # phalanx models lists others"
        return f"model:\n{network}\n  backbone: {resnet}\n  {weights.format(key='backbone_weights')}"
    return f"model:\n  name: {'yolov8s' if on_gpu else 'yolov8n'}  # phalanx models lists others"


def _optimization(task: str, batch: int, an_epoch: float) -> str:
    rate = {"classification": 1e-3, "segmentation": 1e-3, "detection": 2e-3}[task]
    warm_up = max(10, min(500, round(2 * an_epoch)))
    return (
        f"optim:\n  name: adamw\n  lr: {rate}  # for {batch} samples a step; `phalanx find-lr` looks for a better one\n"
        f"  weight_decay: 0.05\n  no_decay: [norm, bias]\n"
        f"schedule:\n  name: cosine\n  warmup_steps: {warm_up}\n  final: 0.01"
    )


def _dist(task: str, found: FoundData, on_gpu: bool) -> list[str]:
    lines = (
        ["  sync_bn: all  # BatchNorm sees the samples of all ranks: a micro-batch alone is small"]
        if task != "classification"
        else []
    )
    if on_gpu:
        lines += ["  precision: bf16", "  channels_last: true"]
    return ["dist:", *lines] if lines else []


def _metric(found: FoundData) -> str:
    if found.kind == "multilabel":
        return "val/map"
    return {"classification": "val/top1", "segmentation": "val/miou", "detection": "val/ap50"}[found.layout.task]
