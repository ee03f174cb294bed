"""A stream whose micro-batches hold samples of one group each, as far as numbers allow: images that are wide, or high.

Like the plain one it is a pure function of seed, epoch and place, and has every sample once an epoch. An epoch may begin within
a micro-batch and end within one: its whole micro-batches are in random order, and what is left of each group fills the rest.
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

    Of `k` groups, at most `k - 1` whole micro-batches of an epoch hold several, and the one that it shares with the next epoch.

    Attributes:
        groups: the samples of each group; each sample is in one of them.
    """

    groups: tuple[Numbers, ...] = field(repr=False, compare=False, default=())

    def order(self, epoch: int, places: NDArray[numpy.uint64]) -> Numbers:
        """The samples at some places of an epoch. Shape: [n] to [n]."""
        return self._samples(epoch, self._laid_out(epoch, places.astype(numpy.int64)))

    def _laid_out(self, epoch: int, places: Numbers) -> Numbers:
        """Where in a row of all samples the places are: first the whole micro-batches of each group, then what is left."""
        size = self.micro_batch
        whole = sum(len(group) // size for group in self.groups)
        head = min(-epoch * self.samples % size, self.samples)  # these end a micro-batch of the epoch before
        slots = (self.samples - head) // size
        tail = head + slots * size  # from here on, a micro-batch that the next epoch ends
        slot, within = numpy.divmod(places - head, size)
        inside = (slot >= 0) & (slot < slots)
        chosen = numpy.where(inside, self._chosen(epoch, numpy.where(inside, slot, 0), max(slots, whole)), -1)
        # What is left goes to the head, then to the tail, then to the slots that get no whole micro-batch of a group.
        left = numpy.where(slot < 0, places, head + places - tail)
        left = numpy.where(inside, self.samples - slots * size + (chosen - whole) * size + within, left)
        if whole > slots:  # by one, which is taken apart
            apart = int(self._chosen(epoch, numpy.array([slots]), whole)[0])
            rest = numpy.where(left < size, apart * size + left, (whole - 1) * size + left)
        else:
            rest = whole * size + left
        return numpy.where(inside & (chosen < whole), chosen * size + within, rest)

    def _chosen(self, epoch: int, slots: Numbers, count: int) -> Numbers:
        """Which of the whole micro-batches come in some slots. Shape: [n] to [n]."""
        if count == 0:
            return slots
        return permute(slots.astype(numpy.uint64), count, key(self.seed, "slots", epoch)).astype(numpy.int64)

    def _samples(self, epoch: int, laid_out: Numbers) -> Numbers:
        """The samples at some places of the row. Shape: [n] to [n]."""
        size, found = self.micro_batch, numpy.empty_like(laid_out)
        first, left = 0, sum(len(group) // size for group in self.groups) * size
        for number, group in enumerate(self.groups):
            whole, rest = len(group) // size * size, len(group) % size
            for start, count, before in ((first, whole, 0), (left, rest, whole)):
                here = (laid_out >= start) & (laid_out < start + count)
                if here.any():
                    places = (laid_out[here] - start + before).astype(numpy.uint64)
                    found[here] = group[permute(places, len(group), key(self.seed, "order", epoch, number)).astype(numpy.int64)]
            first, left = first + whole, left + rest
        return found
