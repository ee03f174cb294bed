"""Which rank runs which micro-batches when: one schedule for all ranks. Pure functions.

Micro-batches with synchronized BatchNorm statistics (`dist.sync_bn`) run at the same time: those of one rank merged into one
larger batch, those of several ranks in the same forward pass (and its backward). Where forwards wait for all ranks (fsdp,
zero), every rank has the same number of passes, and a rank without micro-batches in one runs a filler.
"""

from dataclasses import dataclass, field

from phalanx.dist.microbatches.sampler import share


@dataclass(frozen=True)
class ForwardPass:
    """One forward and backward of one rank.

    Attributes:
        first, last: its micro-batches, `last` exclusive; equal for a filler.
        ranks: that synchronize statistics in this pass, this rank included; empty for a filler.
        sizes: how many micro-batches each of them has in it.
    """

    first: int
    last: int
    ranks: tuple[int, ...]
    sizes: tuple[int, ...] = field(default=(), compare=False)

    @property
    def size(self) -> int:
        return self.last - self.first

    @property
    def numbers(self) -> range:
        """Those of its micro-batches."""
        return range(self.first, self.last)

    @property
    def is_filler(self) -> bool:
        return self.first == self.last

    @property
    def is_shared(self) -> bool:
        """Whether its statistics are synchronized with another rank's."""
        return len(self.ranks) > 1


FILLER = ForwardPass(0, 0, ())


def forward_passes(micro_batches: int, group_size: int, world: int) -> list[list[ForwardPass]]:
    """The forward passes of every rank, all lists of one length.

    Stats groups are intervals of ranks, taken from left to right; each gets the first pass in which all of its ranks are
    free. For intervals this needs no more passes than the rank with the most groups has.

    Args:
        micro_batches: of a step, `V`.
        group_size: micro-batches that synchronize statistics; divides `V`.
    """
    taken: list[dict[int, ForwardPass]] = [{} for _ in range(world)]
    shares = [share(micro_batches, rank, world) for rank in range(world)]
    for start in range(0, micro_batches, group_size):
        parts = {
            rank: (max(mine.first, start), min(mine.last, start + group_size))
            for rank, mine in enumerate(shares)
            if mine.first < start + group_size and mine.last > start
        }
        when = next(place for place in range(micro_batches) if all(place not in taken[rank] for rank in parts))
        sizes = tuple(last - first for first, last in parts.values())
        for rank, (first, last) in parts.items():
            taken[rank][when] = ForwardPass(first, last, tuple(parts), sizes)
    count = max(max(own) for own in taken) + 1
    return [[own.get(place, FILLER) for place in range(count)] for own in taken]


def stats_group_size(sync_bn: int | str, micro_batches: int) -> int:
    """Micro-batches that share one BatchNorm statistic, from `dist.sync_bn`."""
    return {"off": 1, "all": micro_batches}.get(str(sync_bn)) or int(sync_bn)
