"""Images a second, model FLOP utilisation and peak memory of our engine beside loops by hand, in one process, alternating.

All train in bf16 on the same batches, which are made before: no loader is measured. A round is a block of steps of each;
figures are medians over the rounds, and a ratio is that of our images a second to theirs in the same round.
"""

import importlib.util
import math
import statistics
import time
from collections.abc import Callable
from typing import Any, NamedTuple, Protocol

import torch
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.gpu_checks import contenders
from benchmarks.gpu_checks.check import Bench
from benchmarks.gpu_checks.contenders import ByHand
from benchmarks.gpu_checks.training import Training, recipe

# Of dense bf16 products, FLOP a second, as NVIDIA's data sheets have them; the first name that fits.
PEAK = {"H100 PCIe": 756e12, "H100 NVL": 835e12, "H100": 989.4e12, "H200": 989.4e12, "A100": 312e12, "B200": 2250e12}
_BATCHES = 2  # different ones
_CLASSES = 1000
_SHAPES = 8  # classes of `shapes`, without the ground


class Scale(NamedTuple):
    """A network on images of `side` pixels, `batch` at a time."""

    network: str
    side: int
    batch: int
    overrides: tuple[str, ...] = ()


class Contender(Protocol):
    """Trains, a step at a time."""

    def step(self) -> None:
        """Takes a step; does not wait for the device."""
        ...

    def losses(self) -> dict[str, float]:
        """Of the last step."""
        ...


class _Measured:
    """A contender, what it holds on the device, and what was measured of it."""

    def __init__(self, bench: Bench, make: Callable[[], Contender], warm_up: int):
        before = _held(bench)
        self.contender, self._bench = make(), bench
        for _ in range(warm_up):
            self.contender.step()
        _finish(bench)
        self._own, self._peak = _held(bench) - before, 0
        self.rates: list[float] = []

    def block(self, steps: int, images: int) -> None:
        """Measures some steps, of `images` each."""
        if self._bench.on_gpu:
            torch.cuda.reset_peak_memory_stats()
        held = _held(self._bench)
        begun = time.perf_counter()
        for _ in range(steps):
            self.contender.step()
        _finish(self._bench)
        self.rates.append(steps * images / (time.perf_counter() - begun))
        if self._bench.on_gpu:
            self._peak = max(self._peak, torch.cuda.max_memory_allocated() - held + self._own)

    def figures(self) -> dict[str, Any]:
        found: dict[str, Any] = {"images_per_s": round(statistics.median(self.rates), 1)}
        return found | ({"peak_gib": round(self._peak / 2**30, 2)} if self._bench.on_gpu else {})


def _held(bench: Bench) -> int:
    return torch.cuda.memory_allocated() if bench.on_gpu else 0


def _finish(bench: Bench) -> None:
    if bench.device == "cuda":
        torch.cuda.synchronize()


def _flops(training: Training) -> int:
    """Of a step, forward and backward: of products and convolutions, two for each multiplication and addition."""
    with FlopCounterMode(display=False) as counted:
        training.step()
    return counted.get_total_flops()


def _peak_rate() -> float | None:
    name = torch.cuda.get_device_name(0)
    return next((rate for part, rate in PEAK.items() if part in name), None)


def _measure(
    bench: Bench, scale: Scale, rivals: Callable[[Training], dict[str, Callable[[], Contender]]], channels_last: bool
) -> tuple[bool, dict[str, Any]]:
    """Ours beside its rivals. Holds if all losses are finite: what is fast enough is for the reader to judge."""
    torch.backends.cudnn.benchmark = True  # as a user's loop has it
    rounds, steps, warm_up = (5, 5, 5) if bench.full else (1, 1, 1)
    sizes = [f"data.image_size={scale.side}", f"data.options.size={scale.side}", f"train.micro_batch={scale.batch}"]
    sizes += [f"train.global_batch={scale.batch}", f"data.options.train={_BATCHES * scale.batch}", "data.augment.flip=0"]
    sizes += [f"dist.channels_last={str(channels_last).lower()}"]
    made: list[Training] = []

    def ours() -> Training:
        made.append(Training(bench, recipe(scale.network, "bf16", bench.device, *sizes, *scale.overrides), _BATCHES))
        return made[0]

    measured = {"ours": _Measured(bench, ours, warm_up)}
    training = made[0]
    for name, make in rivals(training).items():
        measured[name] = _Measured(bench, make, warm_up)
    for _ in range(rounds):
        for one in measured.values():
            one.block(steps, scale.batch)
    losses = {name: one.contender.losses() for name, one in measured.items()}
    flops = None if bench.way.pretended else _flops(training) / scale.batch
    figures: dict[str, Any] = scale._asdict() | {"rounds": rounds, "steps": steps}
    if flops is not None:
        figures["gflop_per_image"] = round(flops / 1e9, 2)
    for name, one in measured.items():
        own = one.figures() | {"loss": round(sum(losses[name].values()), 3)}
        if flops is not None and bench.on_gpu and (peak := _peak_rate()) is not None and "another network" not in name:
            own["mfu"] = round(own["images_per_s"] * flops / peak, 3)
        if name != "ours":
            ratios = [mine / theirs for mine, theirs in zip(measured["ours"].rates, one.rates, strict=True)]
            own["ours_to_it"] = round(statistics.median(ratios), 3)
        bench.tell(name, own)
    return all(math.isfinite(loss) for found in losses.values() for loss in found.values()), figures


def _has_timm() -> bool:
    return importlib.util.find_spec("timm") is not None


def resnet(bench: Bench) -> tuple[bool, dict[str, Any]]:
    """ResNet-50, 224 pixels."""
    large = Scale("resnet50", 224, 256, (f"model.num_classes={_CLASSES}",))
    scale = large if bench.full else Scale("resnet18", 32, 2, (f"model.num_classes={_CLASSES}",))

    def rivals(training: Training) -> dict[str, Callable[[], Contender]]:
        found: dict[str, Callable[[], Contender]] = {
            "torchvision": lambda: ByHand(
                training, contenders.torchvision_network(scale.network, num_classes=_CLASSES), contenders.classes, True
            )
        }
        if _has_timm():
            found["timm"] = lambda: ByHand(training, contenders.timm_network(scale.network, _CLASSES), contenders.classes, True)
        return found

    return _measure(bench, scale, rivals, channels_last=True)


def vit(bench: Bench) -> tuple[bool, dict[str, Any]]:
    """ViT-B/16, 224 pixels."""
    large = Scale("vit_b_16", 224, 128, (f"model.num_classes={_CLASSES}",))
    scale = large if bench.full else Scale("vit_b_32", 64, 2, (f"model.num_classes={_CLASSES}",))

    def rivals(training: Training) -> dict[str, Callable[[], Contender]]:
        options = {"num_classes": _CLASSES, "image_size": scale.side}
        found: dict[str, Callable[[], Contender]] = {
            "torchvision": lambda: ByHand(
                training, contenders.torchvision_network(scale.network, **options), contenders.classes, False
            )
        }
        if _has_timm():
            name = {"vit_b_16": "vit_base_patch16_224", "vit_b_32": "vit_base_patch32_224"}[scale.network]
            found["timm"] = lambda: ByHand(
                training, contenders.timm_network(name, _CLASSES, img_size=scale.side), contenders.classes, False
            )
        return found

    return _measure(bench, scale, rivals, channels_last=False)


def deeplab(bench: Bench) -> tuple[bool, dict[str, Any]]:
    """DeepLabV3+ on a ResNet-50, 512 pixels; torchvision has DeepLabV3 only, which computes on maps twice as fine."""
    scale = Scale("deeplabv3plus", 512, 16) if bench.full else Scale("deeplabv3plus", 64, 2, ("model.backbone=resnet18",))

    def rivals(training: Training) -> dict[str, Callable[[], Contender]]:
        found: dict[str, Callable[[], Contender]] = {
            "by hand": lambda: ByHand(training, _again(training), contenders.of_our_task(training), True)
        }
        if bench.full:
            options = {"num_classes": _SHAPES + 1, "weights_backbone": None, "aux_loss": False}
            found["torchvision's deeplabv3_resnet50, another network"] = lambda: ByHand(
                training, contenders.torchvision_network("deeplabv3_resnet50", **options), contenders.pixels, True
            )
        return found

    return _measure(bench, scale, rivals, channels_last=True)


def yolo(bench: Bench) -> tuple[bool, dict[str, Any]]:
    """YOLOv8m, 640 pixels, which neither library has: a loop by hand around the same network."""
    scale = Scale("yolov8m", 640, 16) if bench.full else Scale("yolov8n", 64, 2)

    def rivals(training: Training) -> dict[str, Callable[[], Contender]]:
        return {"by hand": lambda: ByHand(training, _again(training), contenders.of_our_task(training), True)}

    return _measure(bench, scale, rivals, channels_last=True)


def mask_rcnn(bench: Bench) -> tuple[bool, dict[str, Any]]:
    """Mask R-CNN on a ResNet-50 with BatchNorm, 800 pixels."""
    plain = ("model.options={}",)  # the paper's anchors and number of proposals
    large = Scale("mask_rcnn", 800, 4, ("model.backbone=resnet50", *plain))
    small = Scale("mask_rcnn", 64, 2, ("model.options={hidden: 64, samples: 16}",))
    scale, backbone = (large, "resnet50") if bench.full else (small, "resnet18")

    def rivals(training: Training) -> dict[str, Callable[[], Contender]]:
        return {
            "torchvision": lambda: ByHand(
                training,
                contenders.torchvision_mask_rcnn(backbone, scale.side, _SHAPES),
                contenders.torchvision_objects,
                False,
            )
        }

    return _measure(bench, scale, rivals, channels_last=False)


def _again(training: Training) -> torch.nn.Module:
    """A network like that of a training, with weights of its own."""
    from phalanx.data.open import open_split
    from phalanx.train.setup import build

    config = training.engine.config
    return build.network(config, build.data_info(open_split(config.data, "train", config.seed), config))
