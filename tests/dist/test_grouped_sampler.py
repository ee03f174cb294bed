"""Micro-batches of one group: every sample once an epoch all the same, and a function of seed, epoch and place."""

from itertools import pairwise

import numpy
import pytest

from phalanx.dist.microbatches.grouped_sampler import GroupedStream
from phalanx.dist.microbatches.sampler import MicroBatches, share


def _stream(samples: int, groups: int, micro_batch: int, seed: int = 3) -> tuple[GroupedStream, list[int]]:
    """A stream and the group of each sample, drawn at random."""
    of = numpy.random.default_rng(samples + groups).integers(0, groups, samples)
    members = tuple(numpy.flatnonzero(of == group) for group in range(groups))
    return GroupedStream(samples, seed, 6 * micro_batch, micro_batch, groups=members), of.tolist()


@pytest.mark.parametrize("micro_batch", [1, 2, 4, 8])
@pytest.mark.parametrize("groups", [1, 2, 3])
@pytest.mark.parametrize("samples", [1, 3, 8, 21, 64, 101])
def test_every_sample_comes_once_an_epoch_and_few_micro_batches_are_mixed(samples: int, groups: int, micro_batch: int) -> None:
    stream, of = _stream(samples, groups, micro_batch)
    for epoch in range(9):  # each begins at another place of a micro-batch
        draws = stream.draws(epoch * samples, (epoch + 1) * samples)
        assert {draw.epoch for draw in draws} == {epoch}
        assert sorted(draw.sample for draw in draws) == list(range(samples))
        head = -epoch * samples % micro_batch
        whole = [draws[start : start + micro_batch] for start in range(head, samples - micro_batch + 1, micro_batch)]
        mixed = [part for part in whole if len({of[draw.sample] for draw in part}) > 1]
        assert len(mixed) < groups


def test_any_place_can_be_asked_for_by_itself_and_a_step_by_any_rank() -> None:
    stream, _ = _stream(101, 2, 4)
    whole = stream.draws(0, 480)
    assert [stream.draws(place, place + 1)[0] for place in range(480)] == whole
    taken = [list(MicroBatches(stream, share(6, rank, 4), 0, 20)) for rank in range(4)]
    sizes = [share(6, rank, 4).size for rank in range(4)]
    flat = [
        draw
        for step in range(20)
        for parts, size in zip(taken, sizes, strict=True)
        for part in parts[step * size : (step + 1) * size]
        for draw in part
    ]
    assert flat == whole


def test_orders_differ_by_epoch_and_seed_and_groups_come_mingled() -> None:
    stream, of = _stream(400, 2, 4)
    epochs = [tuple(draw.sample for draw in stream.draws(e * 400, (e + 1) * 400)) for e in range(3)]
    assert len(set(epochs)) == 3
    assert tuple(draw.sample for draw in _stream(400, 2, 4, seed=4)[0].draws(0, 400)) not in epochs
    together = [{of[number] for number in epochs[0][start : start + 4]} for start in range(0, 400, 4)]
    changes = sum(one != other for one, other in pairwise(together))
    assert 30 < changes < 70  # of 99, were every micro-batch's group drawn by itself about 49


def test_every_sample_comes_to_every_place_about_as_often() -> None:
    samples, epochs = 8, 4000
    stream = GroupedStream(samples, 1, 2, 2, groups=(numpy.arange(4), numpy.arange(4, 8)))
    counts = numpy.zeros((samples, samples))
    for epoch in range(epochs):
        counts[numpy.arange(samples), [draw.sample for draw in stream.draws(epoch * samples, (epoch + 1) * samples)]] += 1
    expected = epochs / samples
    assert ((counts - expected) ** 2 / expected).sum() < 86  # 49 degrees of freedom: above it once in a thousand
