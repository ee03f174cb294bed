"""A stream in which each sample comes several times in a step: repeated augmentation.

Hoffer et al., Augment Your Batch, CVPR 2020 (arXiv:1901.09335); Berman et al., MultiGrain, 2019 (arXiv:1902.05509), as DeiT and
timm's recipes use it. Like the plain stream it is a pure function of seed and position.
"""

from dataclasses import dataclass

import numpy
from numpy.typing import NDArray

from phalanx.dist.microbatches.sampler import Draw, Stream

Numbers = NDArray[numpy.int64]


@dataclass(frozen=True)
class RepeatedStream(Stream):
    """The endless stream of samples of an experiment, each `repeats` times in a row, and then spread within its step.

    The copies of a sample lie as far from each other within the step as can be: in different micro-batches, whose BatchNorm
    statistics they would otherwise narrow. Where `repeats` does not divide the global batch, the copies of a sample between two
    steps are shared by them. An epoch, in which every sample occurs `repeats` times, has `repeats` times as many draws.

    Attributes:
        repeats: copies of each sample.
    """

    repeats: int = 1

    def draws(self, start: int, stop: int) -> list[Draw]:
        """The samples at positions `start` to `stop`, which may span steps and epochs."""
        rows = self._in_rows(numpy.arange(start, stop, dtype=numpy.int64))
        numbers, copies = numpy.divmod(rows, self.repeats)
        epochs, places = numpy.divmod(numbers, self.samples)
        found = numpy.empty_like(places)
        for epoch in numpy.unique(epochs):
            chosen = epochs == epoch
            found[chosen] = self.order(int(epoch), places[chosen].astype(numpy.uint64))
        return [Draw(*numbers) for numbers in zip(epochs.tolist(), found.tolist(), copies.tolist(), strict=True)]

    def _in_rows(self, positions: Numbers) -> Numbers:
        """Where positions of the stream are in the row of all samples, each `repeats` times: a step has all first copies that
        fall into it, then all second ones, and so on. Shape: [n] to [n].
        """
        begin = positions // self.global_batch * self.global_batch
        left, found = positions - begin, numpy.full_like(positions, -1)
        for copy in range(self.repeats):
            first = (copy - begin) % self.repeats  # the first place of the step that holds this copy
            count = numpy.maximum(0, -((first - self.global_batch) // self.repeats))
            here = (found < 0) & (left < count)
            found[here] = (begin + first + left * self.repeats)[here]
            left = numpy.where(found < 0, left - count, left)
        return found
