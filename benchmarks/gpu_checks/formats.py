"""Number formats: what is computed in which, and that a network learns the same in all of them."""

from typing import Any

import torch

from benchmarks import grid
from benchmarks import parity_cases as cases
from benchmarks.gpu_checks.check import Bench
from benchmarks.gpu_checks.training import world
from phalanx.dist import precision

MICRO_BATCHES = 4
_KINDS = ("loss", "gradients", "weights", "buffers")


def trained(bench: Bench, model: str, steps: int, *overrides: str) -> tuple[float, cases.Tensors]:
    """The loss after some steps of SGD by the engine, and everything that a checkpoint would hold."""
    config = cases.config(str(grid.RECIPE), MICRO_BATCHES, f"dist.device={bench.device}", *overrides)
    report = cases.trained(world(bench.device), config, model, "sgd", (steps,))
    if torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()
    return cases.assembled([report], steps)


def differences(one: tuple[float, cases.Tensors], other: tuple[float, cases.Tensors]) -> dict[str, Any]:
    """The worst of each kind, relative; and whether all bits are equal."""
    found = cases.differences(one, other)
    return {kind: found[kind] for kind in (*_KINDS, "bitwise")}


def within(found: dict[str, Any], allowed: float) -> bool:
    return all(found[kind] <= allowed for kind in _KINDS)


def steps(bench: Bench) -> int:
    return 20 if bench.full else 2


def products(bench: Bench) -> tuple[bool, dict[str, Any]]:
    """float32 products have float32's error; under tf32, where there is any, a thousand times more."""
    device = world(bench.device).device
    torch.manual_seed(0)
    a, b = torch.randn(512, 512, device=device), torch.randn(512, 512, device=device)
    exact = a.double() @ b.double()
    formats, _ = precision._formats(device)
    errors = {}
    for name in [name for name in ("fp32", "tf32") if name in formats]:
        precision.check(name, device)
        errors[name] = float(((a @ b).double() - exact).abs().max() / exact.abs().max())
    precision.check("fp32", device)
    rounds = errors.get("tf32", 1.0) > 1e-5 or not bench.on_gpu  # the pretended device has no tensor cores
    return errors["fp32"] < 1e-6 and rounds, errors


def fp64_equals_the_cpu(bench: Bench) -> tuple[bool, dict[str, Any]]:
    """The engine on this device against a loop in plain torch on the CPU."""
    count = steps(bench)
    figures = {}
    for model in ("cnn", "transformer"):
        by_hand = cases.by_hand(model, MICRO_BATCHES, "off", "sgd", torch.float64, (count,))[count]
        figures[model] = differences(trained(bench, model, count, "dist.precision=fp64"), by_hand)
    return all(within(found, 1e-10) for found in figures.values()), figures


def learn_the_same(bench: Bench) -> tuple[bool, dict[str, Any]]:
    """After five steps the loss of each format is that of fp32 to a percent; weights differ by more, as rounding grows."""
    formats, _ = precision._formats(world(bench.device).device)
    expected = trained(bench, "cnn", 5)
    names = [name for name in ("tf32", "bf16", "fp16") if name in formats]
    figures = {name: differences(trained(bench, "cnn", 5, f"dist.precision={name}"), expected) for name in names}
    return all(found["weights"] <= 0.2 and found["loss"] <= 1e-2 for found in figures.values()), figures


def an_overflow_is_skipped(bench: Bench) -> tuple[bool, dict[str, Any]]:
    """fp16: a scale beyond its range overflows until it has halved often enough; the weights stay finite."""
    loss, tensors = trained(bench, "cnn", 5, "dist.precision=fp16", f"dist.loss_scale={2.0**24}")
    finite = all(bool(torch.isfinite(torch.from_numpy(t.astype("float64"))).all()) for t in tensors.values())
    return finite, {"loss": loss}


def channels_last(bench: Bench) -> tuple[bool, dict[str, Any]]:
    """Equals channels_first to rounding."""
    count = min(5, steps(bench))
    found = differences(trained(bench, "cnn", count, "dist.channels_last=true"), trained(bench, "cnn", count))
    return within(found, 1e-4), found
