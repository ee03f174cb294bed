"""Who a process is, from what launchers leave in the environment."""

import pytest

from phalanx.configs.errors import UserError
from phalanx.configs.sections.dist import DistConfig
from phalanx.dist.processes.environment import Ranks, find, without_ranks
from phalanx.dist.processes.threads import choose_threads

TORCHRUN = {"RANK": "5", "WORLD_SIZE": "8", "LOCAL_RANK": "1", "LOCAL_WORLD_SIZE": "4", "GROUP_RANK": "1"}
TORCHRUN |= {"MASTER_ADDR": "10.0.0.1", "MASTER_PORT": "29500"}
SRUN = {"SLURM_JOB_ID": "7", "SLURM_STEP_ID": "0", "SLURM_STEP_NUM_TASKS": "7", "SLURM_PROCID": "6", "SLURM_LOCALID": "0"}
SRUN |= {"SLURM_NODEID": "3", "SLURM_STEP_TASKS_PER_NODE": "2(x3),1"}


def test_nothing_set_means_alone() -> None:
    assert find({}) == Ranks()


def test_torchrun() -> None:
    assert find(TORCHRUN) == Ranks(rank=5, world=8, local_rank=1, local_world=4, node=1, launcher="torchrun")


def test_srun() -> None:
    assert find(SRUN) == Ranks(rank=6, world=7, local_rank=0, local_world=1, node=3, launcher="slurm")


@pytest.mark.parametrize("step", [None, "4294967291", "4294967290"])
def test_a_batch_script_and_an_interactive_step_are_alone(step: str | None) -> None:
    shell = {k: v for k, v in SRUN.items() if k != "SLURM_STEP_ID"} | ({"SLURM_STEP_ID": step} if step else {})
    assert find(shell) == Ranks()


def test_ranks_started_inside_a_step_of_srun_are_torchrun_s() -> None:
    assert find(SRUN | TORCHRUN).launcher == "torchrun"


@pytest.mark.parametrize("missing", ["RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"])
def test_a_half_set_environment_names_what_is_missing(missing: str) -> None:
    with pytest.raises(UserError, match=f"but not {missing}"):
        find({k: v for k, v in TORCHRUN.items() if k != missing})


@pytest.mark.parametrize("wrong", [{"RANK": "8"}, {"LOCAL_RANK": "4"}, {"LOCAL_WORLD_SIZE": "9"}, {"WORLD_SIZE": "x"}])
def test_numbers_that_cannot_be_are_refused(wrong: dict[str, str]) -> None:
    with pytest.raises(UserError):
        find(TORCHRUN | wrong)


def test_an_address_alone_makes_no_rank() -> None:
    assert find({"MASTER_ADDR": "10.0.0.1", "MASTER_PORT": "29500"}) == Ranks()


def test_a_launcher_starts_from_an_environment_without_ranks() -> None:
    assert find(without_ranks(TORCHRUN | {"TORCHELASTIC_RUN_ID": "x", "PATH": "/bin"})) == Ranks()
    assert without_ranks(TORCHRUN | {"PATH": "/bin"}) == {"PATH": "/bin"}


def test_threads_are_as_configured_then_as_recorded_then_as_the_environment_says() -> None:
    assert choose_threads(DistConfig(threads=3), 2, {"OMP_NUM_THREADS": "5"}) == 3
    assert choose_threads(DistConfig(), 2, {"OMP_NUM_THREADS": "5"}) == 2
    assert choose_threads(DistConfig(), None, {"OMP_NUM_THREADS": "5"}) == 5
    assert choose_threads(DistConfig(), None, {}) == 1
