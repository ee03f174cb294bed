"""A checkpoint of any strategy on any ranks is read under any other, to the last bit: some pairs of the whole matrix."""

from pathlib import Path

import pytest

from benchmarks import checkpoint_matrix, parity
from benchmarks.checkpoint_matrix import EXACT, Matrix, Pair
from benchmarks.support.rank_pool import Pool
from phalanx.configs.strategies import STRATEGIES


def test_the_measurements_leave_no_strategy_out() -> None:
    assert set(STRATEGIES) < set(checkpoint_matrix.STRATEGIES) and set(STRATEGIES) < set(parity.STRATEGIES)


@pytest.mark.parametrize(
    "pair",
    [
        Pair("sgd", "single", 1, "fsdp", 3),
        Pair("sgd", "ddp", 4, EXACT, 3),
        Pair("sgd", EXACT, 3, "hsdp", 4),
        Pair("sgd", "hsdp", 4, "ddp", 2),
        Pair("sgd", "fsdp", 3, "zero3", 4),
        Pair("sgd", "zero3", 3, "zero2", 2),
        Pair("sgd", "zero1", 4, "fsdp", 1),
        Pair("adamw", "ddp", 3, "fsdp", 4),
        Pair("adamw", "fsdp", 4, "ddp", 3),
        Pair("adamw", "zero2", 4, "zero1", 3),
        Pair("adamw", "zero3", 4, "single", 1),
        Pair("adamw", "hsdp", 3, "zero2", 4),
    ],
    ids=str,
)
def test_what_one_strategy_saved_another_reads_and_resumes_as_the_unbroken_run(pool: Pool, tmp_path: Path, pair: Pair) -> None:
    found = Matrix(pool, tmp_path).measure(pair)
    assert found["ok"], found


@pytest.mark.parametrize("strategy", [EXACT, "fsdp", "zero2"])
def test_the_same_ranks_and_strategy_continue_to_the_last_bit(pool: Pool, tmp_path: Path, strategy: str) -> None:
    found = Matrix(pool, tmp_path).measure(Pair("adamw", strategy, 3, strategy, 3))
    assert found["ok"] and found["same_bits"], found
