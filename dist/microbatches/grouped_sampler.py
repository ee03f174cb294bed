"""A stream whose micro-batches hold samples of one group each, as far as possible: images in landscape, or in portrait.

Like the plain one it is a pure function of seed, epoch and place, and has every sample once per epoch. An epoch may begin and
end within a micro-batch: its full micro-batches are in random order, and the remainder of each group fills the others.
"""

from dataclasses import dataclass, field

import numpy
from numpy.typing import NDArray

from phalanx.dist.microbatches.randomness import key
from phalanx.dist.microbatches.sampler import Stream, permute

Numbers = NDArray[numpy.int64]


@dataclass(frozen=True)
class GroupedStream(Stream):
    """The endless stream of samples of an experiment, group by group.

    With `k` groups, at most `k - 1` full micro-batches of an epoch mix groups, and the one shared with the next epoch.

    Attributes:
        groups: the samples of each group; each sample is in one of them.
    """

    groups: tuple[Numbers, ...] = field(repr=False, compare=False, default=())

    def order(self, epoch: int, places: NDArray[numpy.uint64]) -> Numbers:
        """The samples at some places of an epoch. Shape: [n] to [n]."""
        return self._samples(epoch, self._laid_out(epoch, places.astype(numpy.int64)))

    def _laid_out(self, epoch: int, places: Numbers) -> Numbers:
        """Indices of the places in a row of all samples: the full micro-batches of each group, then the remainders."""
        size = self.micro_batch
        full = sum(len(group) // size for group in self.groups)
        head = min(-epoch * self.samples % size, self.samples)  # these complete a micro-batch of the previous epoch
        slots = (self.samples - head) // size
        tail = head + slots * size  # from here on, a micro-batch that the next epoch completes
        slot, within = numpy.divmod(places - head, size)
        inside = (slot >= 0) & (slot < slots)
        chosen = numpy.where(inside, self._chosen(epoch, numpy.where(inside, slot, 0), max(slots, full)), -1)
        # The remainder goes to the head, then to the tail, then to the slots without a full micro-batch of one group.
        left = numpy.where(slot < 0, places, head + places - tail)
        left = numpy.where(inside, self.samples - slots * size + (chosen - full) * size + within, left)
        if full > slots:  # by one, which is split
            apart = int(self._chosen(epoch, numpy.array([slots]), full)[0])
            rest = numpy.where(left < size, apart * size + left, (full - 1) * size + left)
        else:
            rest = full * size + left
        return numpy.where(inside & (chosen < full), chosen * size + within, rest)

    def _chosen(self, epoch: int, slots: Numbers, count: int) -> Numbers:
        """Which of the full micro-batches are in some slots. Shape: [n] to [n]."""
        if count == 0:
            return slots
        return permute(slots.astype(numpy.uint64), count, key(self.seed, "slots", epoch)).astype(numpy.int64)

    def _samples(self, epoch: int, laid_out: Numbers) -> Numbers:
        """The samples at some places of the row. Shape: [n] to [n]."""
        size, found = self.micro_batch, numpy.empty_like(laid_out)
        first, left = 0, sum(len(group) // size for group in self.groups) * size
        for number, group in enumerate(self.groups):
            full, rest = len(group) // size * size, len(group) % size
            for start, count, before in ((first, full, 0), (left, rest, full)):
                here = (laid_out >= start) & (laid_out < start + count)
                if here.any():
                    places = (laid_out[here] - start + before).astype(numpy.uint64)
                    found[here] = group[permute(places, len(group), key(self.seed, "order", epoch, number)).astype(numpy.int64)]
            first, left = first + full, left + rest
        return found
