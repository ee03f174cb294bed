"""The tree of sums depends on the number of micro-batches alone."""

import pytest

from phalanx.dist.microbatches.sampler import share
from phalanx.dist.strategies.summation_tree import TreeNode, add, held, root


def _bracket(left: str, right: str) -> str:
    return f"({left}+{right})"


def whole(total: int, world: int) -> str:
    """The sum of all micro-batches, written with its brackets, as so many ranks form it."""
    everybody: dict[TreeNode, str] = {}
    for rank in range(world):
        mine, sums = share(total, rank, world), dict[TreeNode, str]()
        for number in range(mine.first, mine.last):
            add(sums, TreeNode(0, number), str(number), total, _bracket)
        assert sorted(sums) == sorted(held(mine))
        for node, value in sums.items():
            add(everybody, node, value, total, _bracket)
    assert set(everybody) == {root(total)}
    return everybody[root(total)]


def test_siblings_left_to_right_and_an_odd_one_out_rises() -> None:
    assert whole(1, 1) == "0"
    assert whole(4, 1) == "((0+1)+(2+3))"
    assert whole(7, 1) == "(((0+1)+(2+3))+((4+5)+6))"
    assert whole(5, 1) == "(((0+1)+(2+3))+4)"


@pytest.mark.parametrize("total", [*range(1, 18), 31, 64])
def test_any_division_among_ranks_gives_the_same_sum(total: int) -> None:
    assert len({whole(total, world) for world in range(1, total + 1)}) == 1


@pytest.mark.parametrize(("total", "world"), [(8, 2), (8, 4), (8, 8), (64, 16)])
def test_ranks_that_divide_by_powers_of_two_hold_one_sum_each(total: int, world: int) -> None:
    assert all(len(held(share(total, rank, world))) == 1 for rank in range(world))
