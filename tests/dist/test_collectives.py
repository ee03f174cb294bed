"""Small messages between ranks: what arrives is what was given, short or long, told directly or by broadcast."""

from typing import Any

from benchmarks.support.rank_pool import Pool
from phalanx.dist.comm import collectives
from phalanx.dist.comm.process_group import World

SHORT, LONG = {"step": 3, "words": ["ä", None, 1.5]}, ["x" * 1000] * 500


def told(world: World, direct_ranks: int) -> list[Any]:
    own = [SHORT, LONG] if world.ranks.is_main else [None, "nobody's"]
    before, collectives._DIRECT_RANKS = collectives._DIRECT_RANKS, direct_ranks
    try:
        return [collectives.broadcast_object(world, value) for value in own]
    finally:
        collectives._DIRECT_RANKS = before


def gathered(world: World) -> tuple[list[Any], list[Any]]:
    own = [world.ranks.rank, LONG if world.ranks.rank == 1 else SHORT]
    return collectives.gather_json(world, own), list(collectives.gather_to_main(world, own))


def test_rank_0_tells_all_directly_and_by_broadcast(pool: Pool) -> None:
    for world in 1, 4:
        for direct_ranks in 1, 16:
            assert pool.run(world, told, direct_ranks) == [[SHORT, LONG]] * world


def test_everybody_s_values_arrive_in_the_order_of_ranks(pool: Pool) -> None:
    everything = [[0, SHORT], [1, LONG], [2, SHORT]]
    found = pool.run(3, gathered)
    assert [values for values, _ in found] == [everything] * 3
    assert [values for _, values in found] == [everything, [], []]
