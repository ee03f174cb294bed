"""However ranks are launched, the same number of them trains the same weights. (srun: tests/slurm/test_srun.py.)"""

import sys
from pathlib import Path

import pytest

from tests.support.running import DIGITS, FEW_EVALUATED, assert_bitwise, lines, phalanx, run

BIN = Path(sys.executable).parent
MODULE = ["-m", "phalanx.launch.train"]
RECIPE = [
    DIGITS,
    FEW_EVALUATED,
    "train.global_batch=16",
    "train.micro_batch=8",
    "train.steps=3",
    "train.log_every=1",
    "data.workers=1",
]

# A user's folder has modules of the same names as ours, and as other people's; none may be taken for another.
OWN_MODULES = ("train.py", "models/__init__.py", "data/__init__.py", "dist/__init__.py", "launch/__init__.py")

# A task that notes the process of every rank.
OWN_TASK = """
import os
from phalanx.train.tasks.classification import Classification

class Noting(Classification):
    def __init__(self, config, data, folder):
        super().__init__(config, data)
        open(f"{folder}/{os.environ.get('RANK', '0')}", "w").write(str(os.getpid()))
"""


def _torchrun(ranks: int) -> list[str]:
    return [str(BIN / "torchrun"), "--nproc_per_node", str(ranks), *MODULE]


def _accelerate(ranks: int) -> list[str]:
    several = ["--multi_gpu"] if ranks > 1 else []
    fixed = ["--num_machines", "1", "--mixed_precision", "no", "--dynamo_backend", "no", "--main_process_port", "0"]
    return [str(BIN / "accelerate"), "launch", *several, "--num_processes", str(ranks), *fixed, *MODULE]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in OWN_MODULES:
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_text('raise ImportError("this is a module of the user\'s own")\n')
    (tmp_path / "my_task.py").write_text(OWN_TASK)
    return tmp_path


def _processes(folder: Path) -> set[int]:
    """Process ids that the ranks noted."""
    return {int(p.read_text()) for p in folder.iterdir()}


# As in a step of srun with three tasks, and in a script that exports ranks by hand: --nproc wins over it.
SCHEDULER = {"SLURM_JOB_ID": "7", "SLURM_STEP_ID": "0", "SLURM_STEP_NUM_TASKS": "3", "SLURM_PROCID": "0"}
SCHEDULER |= {"RANK": "0", "WORLD_SIZE": "3"}


@pytest.mark.parametrize("ranks", [1, 2])
def test_every_way_of_launching_gives_the_same_bits(folder: Path, ranks: int) -> None:
    ways = {"accelerate": _accelerate(ranks)}
    ways |= {"alone": [sys.executable, *MODULE]} if ranks == 1 else {"torchrun": _torchrun(ranks)}
    task = ["task.name=./my_task.py:Noting"]
    for way in ["phalanx", *ways]:
        notes = folder / f"processes-{way}"
        notes.mkdir()
        arguments = [*RECIPE, *task, f"task.options.folder={notes}", "name=" + way]
        if way == "phalanx":
            result = phalanx("train", *arguments, "--nproc", ranks, cwd=folder, **SCHEDULER)
        else:
            result = run([*ways[way], *arguments], folder)
        assert result.output.splitlines()[0] == f"runs/{way}"
        assert len(_processes(notes)) == ranks
        start = lines(folder / f"runs/{way}/events.jsonl")[0]
        assert (start["event"], start["world_size"]) == ("start", ranks)
    for way in ways:
        assert_bitwise(folder / "runs" / way, folder / "runs/phalanx")


def test_accelerate_launch_that_starts_one_process_for_two_is_refused(tmp_path: Path) -> None:
    command = [str(BIN / "accelerate"), "launch", "--cpu", "--num_processes", "2", *MODULE]
    refused = run([*command, *RECIPE], tmp_path, expect=1)
    assert "asked for several processes but started one" in refused.errors
    assert not (tmp_path / "runs").exists()


def test_a_half_set_environment_is_refused(tmp_path: Path) -> None:
    refused = run([sys.executable, *MODULE, *RECIPE], tmp_path, expect=2, RANK="0", WORLD_SIZE="2")
    assert "RANK, WORLD_SIZE but not LOCAL_RANK" in refused.errors and "Traceback" not in refused.errors


def test_phalanx_is_installed_as_a_command(tmp_path: Path) -> None:
    shown = run([BIN / "phalanx", "--version"], tmp_path)
    assert shown.output.startswith("phalanx ")
