"""The pretended device notices what a GPU would refuse or get wrong, and nothing else."""

import pytest

from tests.fake_cuda.asking import Worker
from tests.fake_cuda.programs import MISBEHAVING, PROGRAMS

_PLACE = "tests.fake_cuda.programs:run"


@pytest.mark.parametrize("program", PROGRAMS)
def test_a_fault_is_noticed_and_its_absence_too(worker: Worker, program: str) -> None:
    answer = worker.ask(_PLACE, name=program)
    assert answer.error is None, answer.traceback


def test_a_program_that_fails_leaves_the_next_ones_alone() -> None:
    own = Worker()
    try:
        for program, error in zip(
            MISBEHAVING, ("ValueError: as it should", "TooLong", "the process ended with 3"), strict=True
        ):
            assert error in (own.ask(_PLACE, limit_s=5, name=program.__name__).error or "")
            assert own.ask(_PLACE, name="host_memory_can_be_registered").error is None
    finally:
        own.close()
