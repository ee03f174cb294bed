"""Training of a network as a run does it, without its loop: by the engine, from batches that the loader has made."""

import functools
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from benchmarks import grid
from benchmarks.gpu_checks.check import Bench
from phalanx.dist.comm.process_group import World, join
from phalanx.dist.processes.environment import Ranks
from phalanx.train.setup import build

if TYPE_CHECKING:
    from phalanx.configs.schema import RunConfig


@functools.cache
def world(device: str) -> World:
    """This process, alone."""
    from phalanx.configs.sections.dist import DistConfig

    return join(Ranks(), DistConfig(device=device), Path("unused"), threads=1)


def recipe(network: str, precision: str, device: str, *overrides: str) -> "RunConfig":
    """Two micro-batches of two small images, of what the network learns."""
    own = ["train.global_batch=4", "data.workers=0", "data.augment.mosaic=0", f"dist.device={device}", *overrides]
    return grid.config(grid.Cell(network, grid.PARITY, precision), own)  # type: ignore[no-any-return]


def config_of(bench: Bench, overrides: Sequence[str]) -> "RunConfig":
    """A run of nothing but overrides, on the bench's device."""
    from phalanx.configs.load import load

    empty = bench.folder / "recipe.yaml"
    empty.write_text("{}\n")
    return load([str(empty)], [*overrides, f"dist.device={bench.device}", f"runs={bench.folder}"])


class Training:
    """A network, its task and its batches.

    Args:
        batches: so many are made at the start, and used again and again.
    """

    def __init__(self, bench: Bench, config: "RunConfig", batches: int):
        self._number = 0
        parts = build.build_distributed(config, build.build_local(config), world(bench.device))
        self.engine, self.task = parts.engine, parts.task
        self.engine.warm_up(self.task.losses, parts.loader.examples(0, self.engine.warm_up_share))
        self.batches: Sequence[Any] = list(parts.loader.from_step(0, batches))

    def step(self) -> None:
        """As `phalanx.train.loop` has it."""
        batch = self.batches[self._number % len(self.batches)]
        weights = [self.task.weights(micro_batch) for micro_batch in batch.micro_batches]
        for micro_batch in self.engine.micro_batches(self._number, batch.micro_batches, weights):
            self.engine.backward(self.task.losses(self.engine.model, micro_batch))
        self.engine.step()
        self._number += 1

    def losses(self) -> dict[str, float]:
        """Of the last step; waits for the device."""
        return self.engine.settle()[-1].losses

    def state(self) -> dict[str, torch.Tensor]:
        """Weights, statistics and the optimizer's state, on the host, by their names in a checkpoint."""
        return {entry.name: entry.tensor.detach().cpu().clone() for entry in self.engine.entries()}
