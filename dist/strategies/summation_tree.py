"""The fixed binary tree by which `dist.reduce=exact` adds up the gradients of a step's micro-batches. Pure functions.

Leaves are the micro-batches `0` to `V-1`. Node `i` of level `l + 1` is the sum of nodes `2i` and `2i + 1` of level `l`, left
to right; without a right one, the left one moves up unchanged. Floating point sums depend on their order; this order
depends on `V` alone, so that any division of the work among ranks gives the same bits.
"""

from collections.abc import Callable
from typing import NamedTuple, TypeVar

from phalanx.dist.microbatches.sampler import Share

T = TypeVar("T")


class TreeNode(NamedTuple):
    """A sum: of the micro-batches `place * 2**level` up to `(place + 1) * 2**level`, as far as they exist."""

    level: int
    place: int


def root(total: int) -> TreeNode:
    """The sum of all `total` micro-batches."""
    return TreeNode((total - 1).bit_length(), 0)


def _parent(node: TreeNode) -> TreeNode:
    return TreeNode(node.level + 1, node.place // 2)


def _has_right_sibling(node: TreeNode, total: int) -> bool:
    """Whether a left node has a sibling: whether there is any micro-batch to the right of it."""
    return (node.place + 1) << node.level < total


def add(sums: dict[TreeNode, T], node: TreeNode, value: T, total: int, plus: Callable[[T, T], T]) -> None:
    """Adds a node's sum to the others, and combines siblings as far as they are present.

    Args:
        sums: nodes that wait for their siblings; changed in place.
        plus: adds the right sum to the left one.
    """
    while node != root(total):
        if node.place % 2:
            left = TreeNode(node.level, node.place - 1)
            if left not in sums:
                break
            value = plus(sums.pop(left), value)
        elif _has_right_sibling(node, total):
            right = TreeNode(node.level, node.place + 1)
            if right not in sums:
                break
            value = plus(value, sums.pop(right))
        node = _parent(node)
    sums[node] = value


def held(mine: Share) -> list[TreeNode]:
    """The few nodes that remain on a rank after its own micro-batches are added, from left to right."""
    sums: dict[TreeNode, int] = {}
    for number in range(mine.first, mine.last):
        add(sums, TreeNode(0, number), number, mine.total, lambda left, right: left)
    return [node for node, _ in sorted(sums.items(), key=lambda item: item[1])]
