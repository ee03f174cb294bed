"""`phalanx resume RUN --fork NAME`: a new run from another's checkpoint, whole or not there; the other stays as it is."""

import itertools
import json
import os
import re
import shutil
import signal
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from shutil import copytree
from tempfile import TemporaryDirectory
from typing import Any

import pytest

from phalanx.configs.errors import UserError
from phalanx.configs.schema import digest
from phalanx.dist.checkpoint import directory, manifest, reader
from phalanx.dist.checkpoint.tools import choose
from phalanx.dist.checkpoint.tools.fork import fork
from phalanx.dist.storage.run_directory import RunDirectory
from phalanx.launch.arguments import forked
from phalanx.launch.verbs import resume
from tests.support.running import DIGITS, FEW_EVALUATED, ROOT, assert_bitwise, lines, phalanx, run, sample_ids

SMALL = [DIGITS, "train.global_batch=8", "train.micro_batch=4", "train.steps=4", "train.log_every=1", "data.workers=0"]
SMALL += ["model.stem=small", "data.image_size=16", "data.ledger=true", "checkpoint.every_steps=2", "model.dropout=0.2"]
SMALL += [FEW_EVALUATED]


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of four steps, with checkpoints of the second and the last."""
    folder = tmp_path_factory.mktemp("trained")
    phalanx("train", *SMALL, "name=old", cwd=folder)
    return folder / "runs/old"


@pytest.fixture
def old(trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of that run, `runs/old` in the folder in which the test runs."""
    copytree(trained, tmp_path / "runs/old")
    monkeypatch.chdir(tmp_path)
    return Path("runs/old")


def contents(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def test_a_fork_resumes_as_another_experiment_and_the_old_run_stays_byte_for_byte(old: Path) -> None:
    before = contents(old)
    changes = ["optim.lr=0.001", "model.freeze=[layer1.*]", "checkpoint.keep=1", "checkpoint.every_steps=1", "train.steps=6"]
    said = phalanx("resume", old, *changes, "--fork", "new", cwd=Path())
    assert "resumes at step 4 of 6, on 1 rank (ddp)" in said.output
    new = RunDirectory(Path("runs/new"))
    assert directory.steps(new.checkpoints) == [6]  # the one that it started from is pruned
    assert contents(old) == before
    assert reader.newest_valid(old / "checkpoints") == (old / "checkpoints/step-00000004", [])

    assert [line["step"] for line in lines(new.metrics)] == [5, 6]
    assert new.read_config().optim.lr == 0.001
    mine, theirs = new.read_identity(), RunDirectory(old).read_identity()
    assert mine["run"].startswith("new-") and mine["wandb"] != theirs["wandb"]
    assert mine["experiment"] == digest(new.read_config()) != theirs["experiment"]
    assert mine["forked_from"] == {"run": theirs["run"], "step": 4, "experiment": theirs["experiment"]}
    phalanx("resume", new.path, "train.steps=7", cwd=Path())


def test_a_fork_of_an_earlier_step_that_changes_nothing_is_the_same_run_to_the_last_bit(old: Path) -> None:
    phalanx("resume", old, "--fork", "again", "--step", "2", cwd=Path())
    assert_bitwise(Path("runs/again"), old)
    ids = sample_ids(old)
    assert sample_ids(Path("runs/again")) == {step: ids[step] for step in (3, 4)}


def make(old: Path, *arguments: str) -> Path:
    """Forks without starting, as `new`."""
    assert resume.main([str(old), *arguments, "--fork", "new", "--no-start"]) == 0
    return old.parent / "new"


def test_shards_are_shared_and_only_the_manifest_is_written_anew(old: Path) -> None:
    new = make(old, "optim.lr=0.5", "--step", "2")
    theirs, mine = (manifest.read(path / "checkpoints/step-00000002") for path in (old, new))
    for name in theirs.files:
        assert (new / "checkpoints/step-00000002" / name).samefile(old / "checkpoints/step-00000002" / name)
    assert mine.tensors == theirs.tensors and mine.experiment == digest(RunDirectory(new).read_config()) != theirs.experiment
    assert sorted(p.name for p in new.iterdir()) == ["checkpoints", "config.yaml", "data.json", "run.json"]


def test_shards_are_copied_where_there_are_no_links(old: Path) -> None:
    with TemporaryDirectory(dir="/dev/shm") as memory:
        assert Path(memory).stat().st_dev != old.stat().st_dev
        shutil.move(old, Path(memory) / "old")
        old.symlink_to(Path(memory) / "old")
        new = make(old, "optim.lr=0.5")
        assert reader.newest_valid(new / "checkpoints") == (new / "checkpoints/step-00000004", [])
        assert contents(new / "checkpoints/step-00000004/shards") == contents(old / "checkpoints/step-00000004/shards")


def test_half_precision_finds_the_state_of_its_loss_scale(old: Path) -> None:
    new = make(old, "dist.precision=fp16")
    assert manifest.read(new / "checkpoints/step-00000004").state["loss_scale"]["value"] == 65536


REFUSED = {
    "another global batch": (
        ["train.global_batch=16", "--fork", "new"],
        "fork cannot change train.global_batch (there 8, here 16)",
    ),
    "another micro-batch": (["train.micro_batch=2", "--fork", "new"], "consolidate the weights"),
    "another optimizer": (
        ["optim.name=adamw", "--fork", "new"],
        "cannot change optim.name (there sgd, here adamw), as the optimizer's state would not fit",
    ),
    "weights of its own": (["model.weights=other.safetensors", "--fork", "new"], "has no effect in a fork"),
    "a name that is there": (["--fork", "old"], "runs/old exists already. Fork under another name, or resume it"),
    "a path": (["--fork", "../new"], "a folder's name: letters"),
    "no name": (["--fork", ""], "a folder's name: letters"),
    "no such step": (["--fork", "new", "--step", "3"], "no checkpoint of step 3. It has: 2, 4."),
    "a step alone": (["--step", "2"], "--step needs --fork NAME"),
    "no start alone": (["--no-start"], "--no-start needs --fork NAME"),
    "too many ranks": (["--fork", "new", "--nproc", "3"], "3 ranks were asked for"),
    "without fork": (["optim.lr=0.5"], "start a new run from this checkpoint with `phalanx resume runs/old ... --fork NAME`"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_forked_is_refused_with_a_remedy(old: Path, case: str) -> None:
    arguments, sentence = REFUSED[case]
    with pytest.raises(UserError, match=re.escape(sentence)):
        resume.main([str(old), *arguments])
    assert [p.name for p in Path("runs").iterdir()] == ["old"]


def test_ranks_of_a_launcher_do_not_fork(old: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    names = {"RANK": 0, "WORLD_SIZE": 2, "LOCAL_RANK": 0, "LOCAL_WORLD_SIZE": 2, "MASTER_ADDR": "localhost", "MASTER_PORT": 1}
    for name, value in names.items():
        monkeypatch.setenv(name, str(value))
    with pytest.raises(UserError, match="every rank that torchrun started would fork"):
        resume.main([str(old), "--fork", "new"])


def test_a_broken_checkpoint_is_skipped(old: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (old / "checkpoints/step-00000004/manifest.json").unlink()
    new = make(old)
    assert directory.steps(new / "checkpoints") == [2]
    assert "the checkpoint of step 4 was skipped: it has no manifest" in capsys.readouterr().err


# -- killed at every instant

_TOUCHES = ("open", "os.link", "os.mkdir", "os.rename", "os.remove", "os.rmdir", "os.listdir", "os.scandir", "subprocess.Popen")


def _die_at(number: int) -> None:
    """kill -9 of this process when it touches the disk for the so many-th time."""
    count = itertools.count()

    def hook(event: str, _: Any) -> None:
        if event in _TOUCHES and next(count) == number:
            os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(hook)


def _in_a_child(work: Callable[[], Any]) -> bool:
    """Whether a forked process did the work to its end."""
    child = os.fork()
    if not child:
        work()
        os._exit(0)
    return os.waitpid(child, 0)[1] == 0


def _killed_forks(old: Path) -> Iterator[bool]:
    """Forks, killed at one touch of the disk after another until one ends by itself; whether each left a run."""
    config = forked(str(old), ["optim.lr=0.5"], "new")
    run_directory, new = RunDirectory(old), RunDirectory.of(config)
    checkpoint = choose.newest_checkpoint(run_directory).path

    def work(number: int) -> None:
        _die_at(number)
        fork(run_directory, checkpoint, config)

    for number in itertools.count():
        ended = _in_a_child(lambda number=number: work(number))  # type: ignore[misc]
        if new.path.exists():
            path, skipped = reader.newest_valid(new.checkpoints)
            assert path is not None and not skipped and new.read_identity()["forked_from"]["step"] == 4
            assert manifest.read(path).experiment == digest(new.read_config()) == digest(config)
            shutil.rmtree(new.path)  # what is left aside stays for the next to find
            yield True
        else:
            yield False
        if ended:
            return


def kill_forks(old: Path) -> None:
    """For a process of its own, as processes with threads should not be forked."""
    before = contents(old)
    print(json.dumps(list(_killed_forks(old))))
    assert contents(old) == before
    assert [p.name for p in old.parent.iterdir()] == ["old"]


def test_a_fork_killed_at_any_instant_left_a_whole_run_or_none(old: Path) -> None:
    program = "from pathlib import Path; from tests.launch.test_fork import kill_forks; kill_forks(Path('runs/old'))"
    left_a_run = json.loads(run([sys.executable, "-c", program], Path(), PYTHONPATH=str(ROOT)).output)
    assert len(left_a_run) > 15 and not left_a_run[0] and left_a_run[-1]
    assert left_a_run == sorted(left_a_run)  # none up to some instant, a whole one from there on
