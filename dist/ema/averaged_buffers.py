"""Averaged buffers: BatchNorm's running statistics, and any other floating point buffers of a model.

Statistics belong to the weights that made them: those of the trained weights do not fit the averaged ones, so both are averaged
alike, as timm and Ultralytics do, who average everything in floating point of a model's `state_dict`. Statistics are kept for
each numbered micro-batch, and so are their averages: the same on any number of ranks, to the last bit.
"""

from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from phalanx.dist.batchnorm.running_stats import MicroBatchStatistics
from phalanx.dist.checkpoint.entries import Entry, full_entry
from phalanx.dist.checkpoint.layout import EMA, MICRO_BATCHES

if TYPE_CHECKING:
    from phalanx.dist.checkpoint.manifest import Manifest


class AveragedBuffers:
    """The averages, which start as copies of the buffers.

    Args:
        recomputes: whether BatchNorm's statistics are not averaged but computed again, once they are no more those of the
            weights.

    Attributes:
        statistics: averages of this rank's running statistics, packed as `MicroBatchStatistics.floats` gives them.
    """

    def __init__(self, model: nn.Module, statistics: MicroBatchStatistics, recomputes: bool = False):
        self._model, self._own, self._recomputes = model, statistics, recomputes
        self.statistics = statistics.floats().clone()
        of_statistics = {name for name, _ in statistics.rows()}
        persistent = model.state_dict().keys()
        self._averages = {
            name: buffer.detach().clone()
            for name, buffer in model.named_buffers()
            if buffer.is_floating_point() and name in persistent and name not in of_statistics
        }
        self._not_stored: set[str] = set()

    def update(self, share: float) -> None:
        """`average += share * (buffer - average)`."""
        if not self._recomputes or share == 1:
            self.statistics.lerp_(self._own.floats(), share)
        for buffer, average in self.pairs():
            # An infinity that does not change would otherwise become NaN.
            average.copy_(torch.where(average == buffer, average, average.lerp(buffer, share)))

    def pairs(self) -> list[tuple[Tensor, Tensor]]:
        """Each buffer that is not a running statistic, and its average."""
        return [(self._model.get_buffer(name).detach(), average) for name, average in self._averages.items()]

    def entries(self) -> list[Entry]:
        """The checkpoint's entries: views, to be read and filled."""
        rows = [
            self._own.entry(name + MICRO_BATCHES + EMA, "ema_buffers", rows, changes_in_forward=False)
            for name, rows in self._own.unpacked(self.statistics)
        ]
        others = [full_entry(name + EMA, "ema_buffers", average) for name, average in self._averages.items()]
        return [entry for entry in rows + others if entry.name not in self._not_stored]

    def allocate_state(self, stored: "Manifest") -> None:
        """Leaves out of `entries` what the checkpoint lacks."""
        self._not_stored = set()
        self._not_stored = {entry.name for entry in self.entries() if entry.name not in stored.tensors}

    def after_load(self) -> None:
        """After buffers and averages were loaded: averages that the checkpoint lacked start as its buffers."""
        for (name, rows), (_, own) in zip(
            self._own.unpacked(self.statistics), self._own.unpacked(self._own.floats()), strict=True
        ):
            if name + MICRO_BATCHES + EMA in self._not_stored:
                rows.copy_(own)
        for name, average in self._averages.items():
            if name + EMA in self._not_stored:
                average.copy_(self._model.get_buffer(name))
        self._not_stored = set()
