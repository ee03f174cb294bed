"""Figures of finished steps (loss, learning rate, gradient norm), brought to the host and to all ranks without waiting.

A step's loss sums are copied to the host as it runs and travel with the message of a later step: the next one on CPU, the
second next on a GPU, so that the host does not wait for the device. They are needed for the log, and to notice a loss that is
not finite before a checkpoint could be made of it.
"""

import math
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from phalanx.dist.comm.collectives import sum_exactly
from phalanx.dist.comm.process_group import World
from phalanx.dist.host_copy import HostCopies
from phalanx.dist.microbatches.sampler import Share


@dataclass(frozen=True)
class Figures:
    """The figures of a step that are known as soon as it is launched.

    Attributes:
        step: number of steps finished before it.
        weights: by which the sum of each loss over the global batch is divided; None if the step did not compute it.
        learning_rate: the step's.
        norm: of the full gradient before clipping, on the device; None for a step without clipping that is not logged.
        loss_scale: the step's; None except for fp16.
        skipped: whether an overflow made it change nothing.
    """

    step: int
    weights: dict[str, float | None]
    learning_rate: float
    norm: Tensor | None
    loss_scale: float | None
    skipped: bool


@dataclass(frozen=True)
class StepFigures:
    """The figures of a finished step, equal on all ranks.

    Attributes:
        step: number of steps finished after it: the first step is 1.
        losses: each over the global batch; those that the step computed.
        loss_scale: the step's; None except for fp16.
        skipped: whether an overflow made it change nothing; its losses may then not be finite.
        broken: numbers of the micro-batches with a loss that is not finite though the step was not skipped.
    """

    step: int
    losses: dict[str, float]
    learning_rate: float
    norm: float | None
    loss_scale: float | None
    skipped: bool
    broken: tuple[int, ...]


@dataclass
class _Step:
    figures: Figures
    copies: HostCopies  # the sums of its losses, [micro-batches here, losses], and the norm, if there is one


class StepMetrics:
    """The steps whose figures are on their way."""

    def __init__(self, world: World, mine: Share):
        self._world, self._mine = world, mine
        self._lag = 2 if world.device.type == "cuda" else 1
        self._running: dict[int, dict[str, Tensor]] = {}
        self._finished: deque[_Step] = deque()
        self._sent: _Step | None = None
        self._known: list[StepFigures] = []

    def add(self, sums: Mapping[str, Tensor], first: int, last: int) -> None:
        """The loss sums of the micro-batches that just ran forward, `last` exclusive; merged ones count for the first."""
        for number in range(first, last):
            # The others get zero, or NaN: then all of them are suspect.
            own = {name: value.detach() if number == first else value.detach() * 0 for name, value in sums.items()}
            self._running.setdefault(number, {}).update(own)

    def finish(self, figures: Figures) -> None:
        """Closes the current step: all of its work is launched."""
        rows = [self._running[number] for number in sorted(self._running)]
        # Losses that this step does not compute are zero.
        values = [row[n] if n in row else torch.zeros_like(next(iter(row.values()))) for row in rows for n in figures.weights]
        sums = torch.stack(values).view(len(rows), len(figures.weights)).to(torch.float64)
        self._running = {}
        self._finished.append(_Step(figures, HostCopies([sums] if figures.norm is None else [sums, figures.norm])))

    def to_send(self) -> Tensor | None:
        """The sums to send with the next message; of the same step on every rank."""
        self._sent = self._finished.popleft() if len(self._finished) >= self._lag else None
        return self._sent.copies.read()[0] if self._sent else None

    def received(self, sums: Tensor | None) -> None:
        """All ranks' sums of the step that was sent, `[V, losses]`."""
        if self._sent is not None and sums is not None:
            self._known.append(self._figures(self._sent, sums))
            self._sent = None

    def _figures(self, step: _Step, sums: Tensor) -> StepFigures:
        f = step.figures
        columns = zip(f.weights.items(), sums.T.tolist(), strict=True)
        losses = {n: sum(column) / weight if weight else 0.0 for (n, weight), column in columns if weight is not None}
        broken = tuple(v for v, row in enumerate(sums.tolist()) if not f.skipped and not all(map(math.isfinite, row)))
        norm = float(step.copies.read()[1]) if f.norm is not None else None
        return StepFigures(f.step + 1, losses, f.learning_rate, norm, f.loss_scale, f.skipped, broken)

    def take_known(self) -> list[StepFigures]:
        """The figures that became known since the last call, oldest first."""
        known, self._known = self._known, []
        return known

    def settle(self) -> list[StepFigures]:
        """Exchanges all outstanding sums. All ranks call together."""
        while self._finished:
            step = self._finished.popleft()
            table = torch.zeros(self._mine.total, len(step.figures.weights), dtype=torch.float64)
            table[self._mine.first : self._mine.last] = step.copies.read()[0]
            self._known.append(self._figures(step, sum_exactly(self._world, table)))
        return self.take_known()
