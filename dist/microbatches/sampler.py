"""Which samples a step and each rank takes: a pure function of seed, position and sizes, nothing stored.

Position `p` of the endless stream is place `p mod N` in the permutation of epoch `p div N`. Step `k` takes the positions
`k*G` to `(k+1)*G`, cut into `V` micro-batches of `m`; rank `r` of `W` runs the micro-batches `r*V div W` to `(r+1)*V div W`.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, NamedTuple

import numpy
from numpy.typing import NDArray

from phalanx.dist.microbatches.randomness import key

_ROUNDS = 6


def _mix(values: NDArray[numpy.uint64]) -> NDArray[numpy.uint64]:
    """The finalizer of SplitMix64 (Steele, Lea and Flood, OOPSLA 2014): every input bit changes every output bit."""
    values = (values ^ (values >> numpy.uint64(30))) * numpy.uint64(0xBF58476D1CE4E5B9)
    values = (values ^ (values >> numpy.uint64(27))) * numpy.uint64(0x94D049BB133111EB)
    return values ^ (values >> numpy.uint64(31))


@lru_cache(maxsize=64)
def _round_keys(seed: int) -> tuple[numpy.uint64, ...]:
    return tuple(numpy.uint64(key(seed, "round", i)) for i in range(_ROUNDS))


def permute(places: NDArray[numpy.uint64], size: int, seed: int) -> NDArray[numpy.uint64]:
    """Where a pseudorandom permutation of `range(size)` sends the given places, in constant time and memory per place.

    A Feistel network over the next power of four, walked on while outside `range(size)` (cycle walking:
    Black and Rogaway, CT-RSA 2002). Less than four rounds of walking are needed on average.

    Shape: [n] to [n], both uint64.
    """
    half = numpy.uint64(max(1, ((size - 1).bit_length() + 1) // 2))
    mask = (numpy.uint64(1) << half) - numpy.uint64(1)
    result = places.astype(numpy.uint64)
    outside = numpy.ones(result.shape, dtype=bool)
    while outside.any():
        left, right = result[outside] >> half, result[outside] & mask
        for round_key in _round_keys(seed):
            left, right = right, left ^ (_mix(right ^ round_key) & mask)
        result[outside] = (left << half) | right
        outside &= result >= size
    return result


@dataclass(frozen=True)
class Share:
    """The micro-batches `first` up to `last` (exclusive) of a step's `total`, that one rank runs."""

    first: int
    last: int
    total: int

    @property
    def size(self) -> int:
        return self.last - self.first


def share(micro_batches: int, rank: int, world: int) -> Share:
    """Rank `rank`'s share of the numbered micro-batches: contiguous, sizes differing by one at most."""
    return Share(rank * micro_batches // world, (rank + 1) * micro_batches // world, micro_batches)


class Draw(NamedTuple):
    """One sample of the stream: its epoch, its id in the dataset, and which copy of it in the epoch, if it has several."""

    epoch: int
    sample: int
    copy: int = 0


@dataclass(frozen=True)
class Stream:
    """The endless stream of samples of an experiment.

    Attributes:
        samples: size of the dataset, `N`.
        seed: the experiment's.
        global_batch, micro_batch: `G` and `m`.
    """

    samples: int
    seed: int
    global_batch: int
    micro_batch: int

    def draws(self, start: int, stop: int) -> list[Draw]:
        """The samples at positions `start` to `stop`, which may span epochs."""
        result: list[Draw] = []
        while start < stop:
            epoch, place = divmod(start, self.samples)
            count = min(stop - start, self.samples - place)
            places = numpy.arange(place, place + count, dtype=numpy.uint64)
            result += [Draw(epoch, i) for i in self.order(epoch, places).tolist()]
            start += count
        return result

    def order(self, epoch: int, places: NDArray[numpy.uint64]) -> NDArray[Any]:
        """The samples at some places of an epoch. Shape: [n] to [n]."""
        return permute(places, self.samples, key(self.seed, "order", epoch))

    def micro_batches(self, step: int, first: int, last: int) -> list[list[Draw]]:
        """The samples of the micro-batches `first` to `last` (exclusive) of the step that follows `step` finished ones."""
        start = step * self.global_batch
        draws = self.draws(start + first * self.micro_batch, start + last * self.micro_batch)
        return [draws[i : i + self.micro_batch] for i in range(0, len(draws), self.micro_batch)]


class MicroBatches:
    """A batch sampler for torch's loader: the draws of a rank's micro-batches, step by step, from any step."""

    def __init__(self, stream: Stream, mine: Share, start_step: int, stop_step: int):
        self.stream, self.mine, self.start_step, self.stop_step = stream, mine, start_step, stop_step

    def __iter__(self) -> Iterator[Sequence[Draw]]:
        for step in range(self.start_step, self.stop_step):
            yield from self.stream.micro_batches(step, self.mine.first, self.mine.last)

    def __len__(self) -> int:
        return (self.stop_step - self.start_step) * self.mine.size
