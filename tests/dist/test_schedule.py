"""The schedule of turns: every micro-batch once, joint ones at the same time, no rank waiting for one that waits for it."""

import pytest

from phalanx.dist.microbatches.forward_passes import ForwardPass, forward_passes, stats_group_size

CASES = [(v, n, w) for v in range(1, 17) for w in range(1, v + 1) for n in range(1, v + 1) if v % n == 0]


def test_every_micro_batch_runs_once_on_the_rank_whose_share_it_is_in() -> None:
    for micro_batches, joint, world in CASES:
        for rank, own in enumerate(forward_passes(micro_batches, joint, world)):
            numbers = sorted(v for turn in own for v in range(turn.first, turn.last))
            assert numbers == list(range(rank * micro_batches // world, (rank + 1) * micro_batches // world))


def test_ranks_that_synchronize_statistics_run_them_in_the_same_forward_pass() -> None:
    for micro_batches, joint, world in CASES:
        everyone = forward_passes(micro_batches, joint, world)
        assert len({len(own) for own in everyone}) == 1
        for place in range(len(everyone[0])):
            for rank, turn in enumerate(own[place] for own in everyone):
                partners = [everyone[other][place] for other in turn.ranks]
                if turn.is_filler:
                    continue
                assert rank in turn.ranks and all(p.ranks == turn.ranks for p in partners)
                numbers = sorted(v for p in partners for v in range(p.first, p.last))
                start = numbers[0]
                assert start % joint == 0 and numbers == list(range(start, start + joint))


def test_no_more_passes_than_the_busiest_rank_needs() -> None:
    for micro_batches, joint, world in CASES:
        everyone = forward_passes(micro_batches, joint, world)
        assert len(everyone[0]) == max(sum(not turn.is_filler for turn in own) for own in everyone)


def test_a_group_that_spans_ranks_is_shared_and_one_within_a_rank_is_merged() -> None:
    first, second, third = forward_passes(8, 2, 3)  # shares: 0 1, 2 3 4, 5 6 7
    assert first[0] == ForwardPass(0, 2, (0,)) and first[1].is_filler
    assert second == [ForwardPass(2, 4, (1,)), ForwardPass(4, 5, (1, 2))]
    assert third == [ForwardPass(6, 8, (2,)), ForwardPass(5, 6, (1, 2))]


@pytest.mark.parametrize(("sync_bn", "expected"), [("off", 1), ("all", 8), (2, 2), (4, 4)])
def test_the_setting_says_how_many_share_statistics(sync_bn: int | str, expected: int) -> None:
    assert stats_group_size(sync_bn, 8) == expected
