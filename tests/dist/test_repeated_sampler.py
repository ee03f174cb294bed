"""Repeated augmentation: a step has several copies of each of its samples, the same on any number of ranks."""

from collections import Counter

import pytest
import torch

from phalanx.configs.errors import UserError
from phalanx.configs.load import load
from phalanx.data.loading.loader import Samples
from phalanx.dist.microbatches.repeated_sampler import RepeatedStream
from phalanx.dist.microbatches.sampler import Draw, MicroBatches, Stream, share
from tests.support.running import DIGITS

STREAM = RepeatedStream(50, seed=5, global_batch=24, micro_batch=4, repeats=3)


def test_each_step_has_every_one_of_its_samples_as_often_in_different_micro_batches() -> None:
    for step in range(20):
        micro_batches = STREAM.micro_batches(step, 0, 6)
        draws = [draw for part in micro_batches for draw in part]
        assert len(draws) == 24 and set(Counter((d.epoch, d.sample) for d in draws).values()) == {3}
        assert {d.copy for d in draws} == {0, 1, 2}
        for part in micro_batches:
            assert len({(d.epoch, d.sample) for d in part}) == len(part)


def test_in_an_epoch_every_sample_comes_as_often() -> None:
    draws = [draw for step in range(100) for part in STREAM.micro_batches(step, 0, 6) for draw in part]
    for epoch in range(10):
        assert Counter(d.sample for d in draws if d.epoch == epoch) == Counter(dict.fromkeys(range(50), 3))


@pytest.mark.parametrize("world", [1, 2, 3, 4, 6])
def test_all_ranks_together_take_it_and_it_can_be_entered_at_any_step(world: int) -> None:
    shares = [share(6, rank, world) for rank in range(world)]
    taken = [list(MicroBatches(STREAM, mine, 3, 9)) for mine in shares]
    flat = []
    for step in range(6):
        for parts, mine in zip(taken, shares, strict=True):
            flat += [draw for part in parts[step * mine.size : (step + 1) * mine.size] for draw in part]
    assert flat == [draw for step in range(3, 9) for part in STREAM.micro_batches(step, 0, 6) for draw in part]


@pytest.mark.parametrize(("batch", "repeats"), [(16, 3), (10, 4), (7, 7), (8, 5)])
def test_copies_that_no_step_holds_all_of_are_shared_by_two(batch: int, repeats: int) -> None:
    stream = RepeatedStream(11, seed=5, global_batch=batch, micro_batch=1, repeats=repeats)
    draws = stream.draws(0, batch * 11 * repeats)
    assert Counter((d.epoch, d.sample) for d in draws) == Counter(
        {(epoch, sample): repeats for epoch in range(batch) for sample in range(11)}
    )
    assert len(set(draws)) == len(draws)
    for step in range(11 * repeats):
        own = Counter((d.epoch, d.sample) for d in draws[step * batch : (step + 1) * batch])
        assert sum(count < repeats for count in own.values()) <= 2


def test_one_copy_is_the_plain_stream() -> None:
    plain, once = Stream(50, 5, 24, 4), RepeatedStream(50, seed=5, global_batch=24, micro_batch=4, repeats=1)
    assert plain.draws(0, 240) == once.draws(0, 240)


class Noise:
    """A data set that draws; `transform` draws too."""

    def __len__(self) -> int:
        return 4

    def __getitem__(self, number: int) -> dict[str, torch.Tensor]:
        return {"image": torch.rand(3), "target": number}  # type: ignore[dict-item]


def test_each_copy_has_random_numbers_of_its_own_and_the_first_those_of_a_sample_alone() -> None:
    def transform(sample: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        return sample | {"image": sample["image"] + torch.rand(3)}

    alone, repeated = (Samples(Noise(), transform, 1, None, flag) for flag in (False, True))  # type: ignore[arg-type]
    images = [repeated[Draw(2, 3, copy)]["image"] for copy in range(3)]
    assert torch.equal(images[0], alone[Draw(2, 3)]["image"])
    assert torch.equal(images[2], repeated[Draw(2, 3, 2)]["image"])
    assert not torch.equal(images[0], images[1]) and not torch.equal(images[1], images[2])


def test_what_does_not_fit_is_refused() -> None:
    with pytest.raises(UserError, match=r"data.repeats=65 is more than train.global_batch=64"):
        load([DIGITS], ["train.global_batch=64", "data.repeats=65"])
    with pytest.raises(UserError, match=r"data.repeats and data.augment.mosaic choose samples"):
        load([DIGITS], ["train.global_batch=64", "data.repeats=2", "data.augment.mosaic=1"])
