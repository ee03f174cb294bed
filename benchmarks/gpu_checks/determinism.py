"""With deterministic kernels the same training ends with the same bits: with max-pooling, proposals and RoIAlign too."""

import traceback
from typing import Any

import torch

from benchmarks.gpu_checks.check import Bench
from benchmarks.gpu_checks.training import Training, recipe
from phalanx.dist import determinism

NETWORKS = {
    "resnet18": "fp32",
    "vit_b_32": "bf16",
    "unet": "bf16",
    "deeplabv3plus": "fp32",
    "yolov8n": "bf16",
    "faster_rcnn": "fp32",
    "mask_rcnn": "fp32",
}
_SMALL = {"resnet18", "faster_rcnn"}
_HEADS = ["model.options.hidden=64", "model.options.samples=16"]
_OVERRIDES = {
    "unet": ["model.options={width: 8, batch_norm: true}"],
    "deeplabv3plus": ["model.backbone=resnet18"],
    "faster_rcnn": _HEADS,
    "mask_rcnn": [*_HEADS, "model.options.mask_channels=[32]"],
}


def bitwise(bench: Bench) -> tuple[bool, dict[str, Any]]:
    """The same steps twice; a network that torch refuses counts as wrong, and the others are tried."""
    determinism.apply(True)
    if bench.way.pretended:
        # torchvision compiles a deterministic RoIAlign, and the pretended device runs nothing that is compiled.
        torch.compiler.set_stance("force_eager")
    wrong = []
    for network, precision in NETWORKS.items():
        if not bench.full and network not in _SMALL:
            continue
        try:
            figures = _twice(bench, network, precision)
        except Exception as error:
            traceback.print_exc()
            figures = {"bitwise": False, "error": f"{type(error).__name__}: {str(error)[:500]}"}
        bench.tell(network, {"precision": precision} | figures)
        if not figures["bitwise"]:
            wrong.append(network)
    return not wrong, {"wrong": wrong}


def _twice(bench: Bench, network: str, precision: str) -> dict[str, Any]:
    states = []
    for _ in range(2):
        config = recipe(network, precision, bench.device, "train.deterministic=true", *_OVERRIDES.get(network, []))
        training = Training(bench, config, 2)
        for _ in range(3 if bench.full else 1):
            training.step()
        states.append(training.state())
    one, two = states
    differing = [name for name in one if one[name].numpy().tobytes() != two[name].numpy().tobytes()]
    return {"bitwise": not differing, "tensors": len(one), "differing": differing[:5]}
