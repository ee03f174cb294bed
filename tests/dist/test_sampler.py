"""The stream of samples: every sample once an epoch, the same for any number of ranks."""

import numpy
import pytest

from phalanx.dist.microbatches.sampler import MicroBatches, Stream, permute, share


@pytest.mark.parametrize("size", [1, 2, 3, 4, 5, 7, 16, 17, 63, 64, 65, 1000, 65537])
def test_a_permutation_has_every_place_once(size: int) -> None:
    places = numpy.arange(size, dtype=numpy.uint64)
    assert sorted(permute(places, size, seed=3).tolist()) == list(range(size))


def test_any_place_can_be_asked_for_by_itself() -> None:
    whole = permute(numpy.arange(1000, dtype=numpy.uint64), 1000, seed=9)
    for place in (0, 1, 499, 999):
        assert permute(numpy.array([place], dtype=numpy.uint64), 1000, seed=9)[0] == whole[place]


def test_every_sample_comes_to_every_place_about_as_often() -> None:
    size, epochs = 8, 4000
    counts = numpy.zeros((size, size))
    for epoch in range(epochs):
        places = permute(numpy.arange(size, dtype=numpy.uint64), size, seed=epoch)
        counts[numpy.arange(size), places.astype(int)] += 1
    expected = epochs / size
    chi_squared = ((counts - expected) ** 2 / expected).sum()
    assert chi_squared < 86  # 49 degrees of freedom: above it once in a thousand


def test_orders_differ_by_epoch_and_seed() -> None:
    first, other_seed = Stream(100, 1, 10, 5), Stream(100, 2, 10, 5)
    epochs = [[d.sample for d in first.draws(e * 100, (e + 1) * 100)] for e in range(3)]
    assert len({tuple(e) for e in epochs}) == 3
    assert [d.sample for d in other_seed.draws(0, 100)] != epochs[0]


@pytest.mark.parametrize("world", [1, 2, 3, 4, 5, 8])
def test_all_ranks_together_take_the_stream(world: int) -> None:
    # 100 samples, steps of 24: batches straddle epochs.
    stream = Stream(100, seed=5, global_batch=24, micro_batch=3)
    shares = [share(8, rank, world) for rank in range(world)]
    assert [s.first for s in shares] == [0] + [s.last for s in shares[:-1]] and shares[-1].last == 8
    assert max(s.size for s in shares) - min(s.size for s in shares) <= 1
    taken = [list(MicroBatches(stream, mine, 0, 25)) for mine in shares]
    flat = []
    for step in range(25):
        for parts, mine in zip(taken, shares, strict=True):
            flat += [draw for part in parts[step * mine.size : (step + 1) * mine.size] for draw in part]
    assert flat == stream.draws(0, 600)
    for epoch in range(6):
        assert sorted(d.sample for d in flat if d.epoch == epoch) == list(range(100))


def test_the_stream_can_be_entered_at_any_step() -> None:
    stream = Stream(50, seed=5, global_batch=12, micro_batch=4)
    mine = share(3, 1, 2)
    whole, later = list(MicroBatches(stream, mine, 0, 10)), list(MicroBatches(stream, mine, 7, 10))
    assert whole[7 * mine.size :] == later
