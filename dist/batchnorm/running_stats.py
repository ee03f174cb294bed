"""BatchNorm's running statistics, kept for each numbered micro-batch of the step: the same on any number of ranks.

A micro-batch's statistics belong to its number `v`, not to the rank that runs it: `V` chains of running means and variances,
each updated once per step. Synchronized ones have equal chains. Evaluation and export use the mean of all,
added in the order of `v`.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase

from phalanx.dist.checkpoint.entries import Entry, EntryKind
from phalanx.dist.comm.collectives import sum_exactly
from phalanx.dist.comm.process_group import World
from phalanx.dist.microbatches.forward_passes import ForwardPass
from phalanx.dist.microbatches.sampler import Share

_FLOATS = ("running_mean", "running_var")
_COUNT = "num_batches_tracked"


def layers(model: nn.Module) -> dict[str, _NormBase]:
    """The layers that keep running statistics, by name: BatchNorm, and InstanceNorm with `track_running_stats`."""
    return {n: m for n, m in model.named_modules() if isinstance(m, _NormBase) and m.running_mean is not None}


@dataclass(frozen=True)
class _Row:
    """One layer's buffers while one micro-batch runs."""

    buffers: dict[str, Tensor | None]
    running_mean: Tensor
    running_var: Tensor
    num_batches_tracked: Tensor


class MicroBatchStatistics:
    """The running statistics of this rank's micro-batches.

    They are two packed tensors, one row per micro-batch, so that copying, gathering and restoring are one operation each:
    floats `[micro-batches here, sum over layers of 2 * channels]` and counts `[micro-batches here, layers]`.
    """

    def __init__(self, model: nn.Module, mine: Share):
        self.layers = layers(model)
        self.mine = mine
        self._floats = self._packed(torch.cat([self._of(n, b) for n, b in self._names()]) if self.layers else torch.zeros(0))
        counts = [self._of(name, _COUNT).reshape(1) for name in self.layers]
        self._counts = self._packed(torch.cat(counts) if counts else torch.zeros(0, dtype=torch.int64))
        self._rows = [self._row_views(self._floats[i], self._counts[i]) for i in range(mine.size)]
        # Fillers and the warm-up write here; it is never read.
        self._scratch = self._row_views(self._floats[0].clone(), self._counts[0].clone())
        self._merged: ForwardPass | None = None

    def _names(self) -> Iterator[tuple[str, str]]:
        return ((layer, buffer) for layer in self.layers for buffer in _FLOATS)

    def _of(self, layer: str, buffer: str) -> Tensor:
        tensor = getattr(self.layers[layer], buffer)
        assert isinstance(tensor, Tensor)
        return tensor.detach()

    def _packed(self, initial: Tensor) -> Tensor:
        return initial.repeat(self.mine.size, 1)

    def _row_views(self, floats: Tensor, counts: Tensor) -> list[_Row]:
        rows, offset = [], 0
        for index, module in enumerate(self.layers.values()):
            channels = module.num_features
            mean, variance = floats[offset : offset + channels], floats[offset + channels : offset + 2 * channels]
            rows.append(_Row(module._buffers, mean, variance, counts[index]))
            offset += 2 * channels
        return rows

    @staticmethod
    def _use(rows: list[_Row]) -> None:
        for row in rows:
            row.buffers["running_mean"] = row.running_mean
            row.buffers["running_var"] = row.running_var
            row.buffers[_COUNT] = row.num_batches_tracked

    def select(self, forward_pass: ForwardPass) -> None:
        """Selects what the layers read and update in a forward pass: its first micro-batch's chain; none for a filler."""
        self._level()
        if forward_pass.is_filler:
            self.select_scratch()
            return
        self._use(self._rows[forward_pass.first - self.mine.first])
        self._merged = forward_pass if forward_pass.size > 1 else None

    def select_micro_batch(self, number: int) -> None:
        """Selects what the layers read and update in the forward of one micro-batch, which is merged with no other."""
        self._use(self._rows[number - self.mine.first])

    def select_scratch(self) -> None:
        """The next forwards leave no statistics."""
        for row, own in zip(self._scratch, self._rows[0], strict=True):
            row.running_mean.copy_(own.running_mean)
            row.running_var.copy_(own.running_var)
            row.num_batches_tracked.copy_(own.num_batches_tracked)
        self._use(self._scratch)

    def _level(self) -> None:
        """Copies the statistics of the first of merged micro-batches to the others."""
        if self._merged is not None:
            first, last = self._merged.first - self.mine.first, self._merged.last - self.mine.first
            others = slice(first + 1, last)
            self._floats[others], self._counts[others] = self._floats[first], self._counts[first]
            self._merged = None

    def floats(self) -> Tensor:
        """Running means and variances of this rank's micro-batches, packed: `[micro-batches here, ...]`."""
        self._level()
        return self._floats

    def mean(self, world: World, floats: Tensor | None = None) -> None:
        """Sets the layers' statistics to the mean over all micro-batches of the step, on every rank. All ranks call together.

        Args:
            floats: statistics to use instead, packed as `floats` gives them.
        """
        own = self.floats() if floats is None else floats
        everyone = torch.zeros(self.mine.total, own.shape[1], dtype=own.dtype)
        everyone[self.mine.first : self.mine.last] = own.cpu()
        sum_exactly(world, everyone)
        total = everyone[0].clone()
        for row in everyone[1:]:
            total += row
        mean = (total / self.mine.total).to(self._floats.device)
        self._use(self._row_views(mean, self._counts[0].clone()))

    def rows(self) -> Iterator[tuple[str, Tensor]]:
        """This rank's rows of every buffer, for a checkpoint: its name and a view `[micro-batches here, ...]`."""
        floats = dict(self.unpacked(self.floats()))
        for index, layer in enumerate(self.layers):
            for buffer in _FLOATS:
                yield f"{layer}.{buffer}", floats[f"{layer}.{buffer}"]
            yield f"{layer}.{_COUNT}", self._counts[:, index]

    def unpacked(self, floats: Tensor) -> Iterator[tuple[str, Tensor]]:
        """The name and the rows of each buffer, as views into statistics packed as `floats` gives them."""
        offset = 0
        for layer, module in self.layers.items():
            for buffer in _FLOATS:
                yield f"{layer}.{buffer}", floats[:, offset : offset + module.num_features]
                offset += module.num_features

    def entry(self, name: str, kind: EntryKind, rows: Tensor, changes_in_forward: bool) -> Entry:
        """The checkpoint entry of this rank's rows, `[micro-batches here, ...]`: each row is saved by the rank that ran it."""
        shape = (self.mine.total, *rows.shape[1:])
        start = self.mine.first * (rows.numel() // self.mine.size)
        return Entry(name, kind, rows, shape, start, replicated=False, changes_in_forward=changes_in_forward)
