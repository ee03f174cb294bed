"""Every family of networks takes three steps, and waits for the device no more often than the pretended device has counted."""

import json
import math
import traceback
import warnings
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import torch

from benchmarks.gpu_checks import pretending
from benchmarks.gpu_checks.check import Bench
from benchmarks.gpu_checks.machine import ROOT
from benchmarks.gpu_checks.training import Training, config_of
from benchmarks.support.fake_cuda.cases import CHOSEN, NETWORKS, STEPS, Case, recipe

GOLDEN = ROOT / "tests/fake_cuda/host_syncs.json"
_YOLO = {name for name in NETWORKS if name.startswith("yolo")}
# What two CPU cores do in seconds.
_SMALL = {"resnet", "unet", "deeplabv3plus", "retinanet", "faster_rcnn", "mask_rcnn", "yolov5", "yolox", "yolov8"}
_SMOKE = {"resnet", "unet", "yolov8"}


def classification(bench: Bench) -> tuple[bool, dict[str, Any]]:
    return _three_steps_each(bench, {name for name, network in NETWORKS.items() if network.task == "classification"})


def segmentation(bench: Bench) -> tuple[bool, dict[str, Any]]:
    return _three_steps_each(bench, {name for name, network in NETWORKS.items() if network.task == "segmentation"})


def regions(bench: Bench) -> tuple[bool, dict[str, Any]]:
    """Detectors with torchvision's parts."""
    return _three_steps_each(
        bench, {name for name, network in NETWORKS.items() if network.task in ("detection", "instance")} - _YOLO
    )


def yolo(bench: Bench) -> tuple[bool, dict[str, Any]]:
    return _three_steps_each(bench, _YOLO)


def _three_steps_each(bench: Bench, networks: set[str]) -> tuple[bool, dict[str, Any]]:
    """One network that fails does not keep the others from being tried."""
    few = {"full": networks, "small": _SMALL, "smoke": _SMOKE}[bench.way.size]
    wrong = []
    cases = [case for case in CHOSEN if case.network in networks & few]
    if not bench.full:  # few CPUs have fp16, and the others are slow
        cases = [replace(case, precision="bf16") if case.precision == "fp16" else case for case in cases]
    for case in cases:
        try:
            held, figures = _three_steps(bench, case)
        except Exception as error:
            held, figures = False, {"error": f"{type(error).__name__}: {str(error)[:500]}"}
            traceback.print_exc()
        bench.tell(str(case), {"held": held} | figures)
        if not held:
            wrong.append(str(case))
    return not wrong, {"wrong": wrong}


def _three_steps(bench: Bench, case: Case) -> tuple[bool, dict[str, Any]]:
    given = [*recipe(NETWORKS[case.network].task, images=1), *case.overrides]
    training = Training(bench, config_of(bench, given), STEPS)
    counts = []
    for _ in range(STEPS if bench.full else 2):
        with waits(bench) as found:
            training.step()
        counts.append(found)
    losses = training.losses()
    held = all(math.isfinite(loss) for loss in losses.values())
    figures: dict[str, Any] = {"losses": {name: round(loss, 4) for name, loss in losses.items()}}
    if bench.device == "cuda":
        most, golden = max(counts, key=Counter.total), _golden(case)
        held &= golden is None or most.total() <= golden
        figures |= {"waits": most.total(), "golden": golden, "where": dict(most.most_common(5))}
    return held, figures


def _golden(case: Case) -> int | None:
    """What the pretended device has counted in a step of the network, if that is written down."""
    if not GOLDEN.exists():
        return None
    counts = json.loads(GOLDEN.read_text())["counts"]
    known = next((counts[name] for name in counts if name.split()[0] == case.network), None)
    return None if known is None else known["step"]


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
