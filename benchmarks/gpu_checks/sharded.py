"""FSDP2 and HSDP on one rank, over NCCL on a GPU: equal to the plain model; offloaded to the host too."""

from typing import Any

from benchmarks.gpu_checks.check import Bench, NotShown
from benchmarks.gpu_checks.formats import differences, steps, trained

_FP64, _BF16 = "dist.precision=fp64", "dist.precision=bf16"
# Model, what is set, and how far the weights may be from those of the plain model in the same precision.
WAYS: dict[str, tuple[str, list[str], float]] = {
    "fsdp": ("transformer", ["dist.strategy=fsdp", _FP64], 1e-10),
    "fsdp, exact": ("transformer", ["dist.strategy=fsdp", "dist.reduce=exact", _FP64], 1e-10),
    "hsdp": ("cnn", ["dist.strategy=hsdp", _FP64], 1e-10),
    "fsdp, offload": ("cnn", ["dist.strategy=fsdp", "dist.offload=true", _FP64], 1e-10),
    "fsdp, offload, clipped": ("cnn", ["dist.strategy=fsdp", "dist.offload=true", "train.clip_norm=0.1", _FP64], 1e-10),
    "fsdp, exact, offload, clipped": (
        "cnn",
        ["dist.strategy=fsdp", "dist.reduce=exact", "dist.offload=true", "train.clip_norm=0.1", _FP64],
        1e-10,
    ),
    "fsdp, bf16": ("transformer", ["dist.strategy=fsdp", _BF16], 1e-2),
    "fsdp, gather=half": ("cnn", ["dist.strategy=fsdp", "dist.gather=half", _BF16], 5e-2),
}
_SMOKE = ("fsdp", "fsdp, offload")


def equal_the_plain_model(bench: Bench) -> tuple[bool, dict[str, Any]]:
    if bench.way.pretended:
        raise NotShown("the pretended device has no NCCL, nor what FSDP2 asks of CUDA's allocator")
    count, wrong = steps(bench), []
    for name in WAYS if bench.way.size != "smoke" else _SMOKE:
        model, overrides, allowed = WAYS[name]
        shared = [one for one in overrides if one.startswith(("dist.precision", "train."))]
        found = differences(trained(bench, model, count, *overrides), trained(bench, model, count, *shared))
        bench.tell(name, found)
        if not found["weights"] <= allowed:
            wrong.append(name)
    return not wrong, {"wrong": wrong}
