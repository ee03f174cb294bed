"""Two ranks on one device: DDP, exact sums and joint BatchNorm against one process in plain torch on the CPU."""

from typing import Any

import torch

from benchmarks import grid
from benchmarks import parity_cases as cases
from benchmarks.gpu_checks import gloo_ranks
from benchmarks.gpu_checks.check import Bench
from benchmarks.gpu_checks.formats import MICRO_BATCHES, differences, steps, within
from phalanx.dist.comm.process_group import World

_EXACT = "dist.reduce=exact"
WAYS = {"ddp": ["dist.sync_bn=off"], "exact": [_EXACT], "joint BatchNorm": ["dist.sync_bn=all"]}
_CLOSE = 1e-10  # in float64


def _reports(world: World, count: int, ways: list[list[str]]) -> list[dict[int, dict[str, Any]]]:
    """What each way's training leaves on this rank."""
    found = []
    for overrides in ways:
        config = cases.config(str(grid.RECIPE), MICRO_BATCHES, *overrides)
        found.append(cases.trained(world, config, "cnn", "sgd", (count,)))
    return found


def equal_one_process(bench: Bench) -> tuple[bool, dict[str, Any]]:
    """In float64. The pretended device has no DDP: its reducer is compiled, and hands such tensors no gradients."""
    count = steps(bench)
    shown = {name: overrides for name, overrides in WAYS.items() if name == "exact" or not bench.way.pretended}
    ways = [["dist.precision=fp64", *overrides] for overrides in shown.values()]
    ranks = gloo_ranks.run(bench.device, _reports, count, ways)
    figures = {}
    for number, (name, overrides) in enumerate(shown.items()):
        joint = overrides[0].partition("=")[2] if "sync_bn" in overrides[0] else "off"
        expected = cases.by_hand("cnn", MICRO_BATCHES, joint, "sgd", torch.float64, (count,))[count]
        found = cases.assembled([reports[number] for reports in ranks], count)
        figures[name] = differences(found, expected)
    held = all(within(found, _CLOSE) for found in figures.values())
    return held, figures | {"not shown": [name for name in WAYS if name not in shown]}


def exact_sums_are_bitwise_equal(bench: Bench) -> tuple[bool, dict[str, Any]]:
    """With `dist.reduce=exact` two ranks end with the bits of one, in float32 with deterministic kernels."""
    count = steps(bench)
    torch.use_deterministic_algorithms(True)
    (alone,) = gloo_ranks.run(bench.device, _reports, count, [[_EXACT]], ranks=1)
    both = gloo_ranks.run(bench.device, _reports, count, [[_EXACT]])
    one, two = cases.assembled([alone[0]], count), cases.assembled([reports[0] for reports in both], count)
    found = differences(two, one)
    return bool(found["bitwise"]) and one[0] == two[0], found
