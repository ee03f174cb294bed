"""Whatever became of a run's own files, every verb answers, or says one sentence; and local states are true."""

import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from phalanx.configs.errors import UserError
from phalanx.configs.load import load
from phalanx.dist.ownership import owner_record
from phalanx.dist.ownership.owner_record import Owner
from phalanx.dist.ownership.run_owner import RunOwner
from phalanx.dist.processes.environment import Ranks
from phalanx.dist.storage.run_directory import Events, RunDirectory
from phalanx.launch.main import main
from phalanx.slurm import submit
from phalanx.slurm.status import status
from tests.support.running import DIGITS, ranks


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of two steps that has ended."""
    folder = tmp_path_factory.mktemp("trained")
    small = ["model.stem=small", "data.image_size=16", "data.workers=0", "data.val_fraction=0.03", "dist.device=cpu"]
    small += ["train.global_batch=8", "train.micro_batch=8", "train.steps=2", "train.log_every=1", "data.ledger=true"]
    ranks(1, DIGITS, "name=one", *small, cwd=folder)
    slurm = folder / "runs/one/slurm"
    slurm.mkdir()
    job = {"job": "0", "where": "local", "time": 1.0, "config": "config-1.yaml", "nodes": 1, "ranks": 1}
    (slurm / "jobs.jsonl").write_text(json.dumps(job) + "\n")
    (folder / "runs/one/errors").mkdir(exist_ok=True)
    report = {"rank": 0, "host": "a", "time": time.time() + 9, "type": "E", "message": "m", "traceback": ["t"], "echo": False}
    (folder / "runs/one/errors/rank-0.json").write_text(json.dumps(report))
    return folder / "runs/one"


@pytest.fixture
def run(trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> RunDirectory:
    """A copy, in the folder where the test is."""
    monkeypatch.chdir(tmp_path)
    shutil.copytree(trained, tmp_path / "runs/one")
    return RunDirectory(Path("runs/one"))


LOOKING = ("status", "status --json", "logs", "logs --json", "cancel", "checkpoint ls", "checkpoint verify")
READERS = {  # of what the verbs that only look read besides run.json and config.yaml
    "run.json": ("status",),
    "config.yaml": ("status", "checkpoint ls"),
    "metrics.jsonl": ("status", "status --json"),
    "events.jsonl": ("status", "logs"),
    "slurm/jobs.jsonl": ("status", "logs", "cancel"),
    "errors/rank-0.json": ("logs", "logs --json"),
    "checkpoints/step-00000002/manifest.json": ("checkpoint ls", "checkpoint verify"),
    ".trainer/claim-000001.json": ("status",),
}
WRONG = (None, True, -1, 1e400, 10**30, "\ud800\x1b[2J", [[]])


def _changed(document: object) -> "list[object]":
    """Each value of a document in turn replaced by something wrong; and each key left out."""
    found: list[object] = list(WRONG)
    if isinstance(document, dict):
        for key in document:
            found += [{**document, key: value} for value in WRONG]
            found.append({name: value for name, value in document.items() if name != key})
    return found


def _raw(content: bytes) -> list[bytes]:
    half = content[: len(content) // 2]
    return [
        b"",
        b"\0" * 50,
        b"\xff\xfe{}",
        "größe".encode("latin-1"),
        half,
        half + b"\n",
        b"[" * 100_000,
        content + b"\0\0",
        b"\n\n" + content,
    ]


@pytest.mark.parametrize("name", READERS)
def test_whatever_stands_in_a_file_of_the_run_verbs_that_look_answer_or_say_one_sentence(
    name: str, run: RunDirectory, capsys: pytest.CaptureFixture[str]
) -> None:
    path = run.path / name
    path.parent.mkdir(exist_ok=True)
    if not path.exists():
        path.write_text(json.dumps(Owner.this_process(run).to_json()))
    before = path.read_bytes()
    contents = _raw(before)
    if name.endswith(("json", "jsonl")):
        first, *others = before.splitlines() if name.endswith("jsonl") else [before]
        contents += [b"\n".join([*others, json.dumps(value).encode()]) + b"\n" for value in _changed(json.loads(first))]
    for content in contents:
        path.write_bytes(content)
        for verb in READERS[name]:
            code = main([*verb.split(), "runs/one"])
            said = capsys.readouterr()
            assert code in (0, 2), (verb, content[:200])
            assert code == 0 or said.err or said.out
            if verb.endswith("--json") and code == 0:
                json.loads(said.out, parse_constant=lambda word: pytest.fail(f"{word} is not JSON"))


@pytest.mark.parametrize(
    "content", [b"[]", b"{}", b'{"run": 3}', b'{"run": "a", "wandb": "b", "threads": "2"}', b"\0", b"[" * 10**5]
)
def test_a_broken_run_json_is_one_sentence_for_verbs_that_train_or_ask(
    content: bytes, run: RunDirectory, capsys: pytest.CaptureFixture[str]
) -> None:
    run.identity.write_bytes(content)
    with pytest.raises(UserError, match=r"run\.json: this file is broken\. Restore it"):
        run.read_identity()


def test_a_rank_that_evaluates_fails_where_what_it_found_is_lost(run: RunDirectory) -> None:
    """Of several ranks, the command that started them hears it from nobody else."""
    from phalanx.launch import evaluate

    process = os.fork()
    if process == 0:
        code = 99
        try:
            os.dup2(os.open("/dev/full", os.O_WRONLY), 1)
            sys.stdout = os.fdopen(1, "w", closefd=False)
            code = evaluate.main([str(run.path), "data.workers=0"])
        finally:
            os._exit(code)
    assert os.waitstatus_to_exitcode(os.waitpid(process, 0)[1]) == 1


def _as_nobody(action: Callable[[], int]) -> tuple[int, str]:
    """Does something as another user than root, in a process of its own."""
    reading, writing = os.pipe()
    process = os.fork()
    if process == 0:
        code = 99
        try:
            os.dup2(writing, 1)
            os.dup2(writing, 2)
            sys.stdout, sys.stderr = (os.fdopen(number, "w", closefd=False) for number in (1, 2))
            os.setgroups([])
            os.setgid(65534)
            os.setuid(65534)
            code = action()
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(code)
    os.close(writing)
    with open(reading) as output:
        said = output.read()
    return os.waitstatus_to_exitcode(os.waitpid(process, 0)[1]), said


ASKING = (*LOOKING, "resume", "evaluate", "predict -o out --json a.png", "checkpoint consolidate -o out.safetensors")
ASKING += ("checkpoint diff runs/one",)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")
@pytest.mark.parametrize(
    ("shut", "verb"),
    [
        *((".", verb) for verb in ASKING),
        *(("checkpoints", verb) for verb in ("status", "resume", "checkpoint ls", "predict -o out --json a.png")),
        *((name, verb) for name in ("config.yaml", "run.json", "metrics.jsonl", "events.jsonl") for verb in ("status", "logs")),
    ],
)
def test_a_run_that_one_may_not_read_is_one_sentence_with_its_owner(verb: str, shut: str, run: RunDirectory) -> None:
    below = Path(tempfile.gettempdir()).resolve()
    for folder in (Path.cwd(), *Path.cwd().parents):
        if below in folder.parents:
            folder.chmod(0o755)  # pytest's own are shut
    (run.path / shut).chmod(0o700 if (run.path / shut).is_dir() else 0o600)
    words = verb.split()
    place = [*words[:2], "runs/one", *words[2:]] if words[0] == "checkpoint" else [words[0], "runs/one", *words[1:]]
    code, said = _as_nobody(lambda: main(place))
    assert "Traceback" not in said, said
    if shut == ".":
        assert code == 2 and "ermission denied (" in said and "belongs to root" in said, said
        assert len([line for line in said.splitlines() if line.startswith("phalanx:")]) == 1


# -- states


@pytest.fixture
def fresh(tmp_path: Path) -> RunDirectory:
    run = RunDirectory(tmp_path / "runs/fresh")
    config = load([str(DIGITS)], [f"runs={tmp_path}/runs", "name=fresh"])
    run.create(config, 1)
    return run


def _happened(run: RunDirectory, *events: str) -> None:
    written = Events(run)
    for event in events:
        written.write(event, 3, reason=f"because of {event}")
    written.close()


def test_states_of_local_runs_are_true(fresh: RunDirectory) -> None:
    assert status(fresh).state == "UNKNOWN"
    with RunOwner(fresh, Ranks()) as owner:
        owner.claim()
        found = status(fresh)
        assert (found.state, found.reason) == ("RUNNING", str(Owner.this_process(fresh)))
        _happened(fresh, "start")
        assert status(fresh).state == "RUNNING"
        with pytest.raises(UserError, match="trains this run already"):
            submit.refuse_under_way(fresh)
    for event, state in (("done", "COMPLETED"), ("failure", "FAILED"), ("hang", "FAILED"), ("preempt", "STOPPED")):
        _happened(fresh, "resume", event)
        assert (status(fresh).state, status(fresh).reason) == (state, f"because of {event}")


def test_a_run_that_was_killed_is_distinguished_from_one_that_runs_elsewhere(fresh: RunDirectory) -> None:
    _happened(fresh, "start", "preempt")
    folder = owner_record.folder_of(fresh)
    folder.mkdir()
    ended = subprocess.Popen(["true"])
    ended.wait()
    dead = replace(Owner.this_process(fresh), process=ended.pid, born=1, started=time.time() + 1)
    owner_record.claim_path(folder, 1).write_text(json.dumps(dead.to_json()))
    assert status(fresh).state == "KILLED" and f"process {ended.pid} on" in status(fresh).lines()[0]
    _happened(fresh, "resume")
    assert status(fresh).state == "KILLED"

    elsewhere = replace(dead, host="node7", machine="another")
    owner_record.claim_path(folder, 2).write_text(json.dumps(elsewhere.to_json()))
    beat = owner_record.beat_path(folder, elsewhere.token)
    beat.write_text("1")
    assert status(fresh).state == "RUNNING" and "on node7" in status(fresh).lines()[0]
    os.utime(beat, (1, 1))
    assert status(fresh).state == "KILLED"


def test_a_loss_that_is_not_a_number_is_shown_as_what_it_is(fresh: RunDirectory, capsys: pytest.CaptureFixture[str]) -> None:
    fresh.metrics.write_text('{"step": 7, "time": 1.0, "train/loss": "nan", "train/lr": 0.1, "val/loss": 1e999, "odd": [1]}\n')
    assert "train/loss nan  train/lr 0.1  val/loss inf" in "\n".join(status(fresh).lines())
    assert main(["status", str(fresh.path), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["metrics"] == {"train/loss": "nan", "train/lr": 0.1, "val/loss": "inf"}


# -- the folder of jobs


def test_the_folder_of_jobs_is_shut_for_others_and_refused_where_others_wrote(tmp_path: Path) -> None:
    folder = tmp_path / "slurm"
    submit._make_private(folder)
    assert folder.stat().st_mode & 0o777 == 0o700
    (folder / "job.pkl").touch()
    folder.chmod(0o777)
    submit._make_private(folder)
    assert folder.stat().st_mode & 0o777 == 0o700 and [path.name for path in folder.iterdir()] == ["job.pkl"]
    folder.rename(tmp_path / "elsewhere")
    folder.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(UserError, match="not a folder"):
        submit._make_private(folder)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a file away")
@pytest.mark.parametrize("name", [".", "4711_0_result.pkl"])
def test_what_others_put_into_the_folder_of_jobs_is_named(tmp_path: Path, name: str) -> None:
    folder = tmp_path / "slurm"
    folder.mkdir()
    if name != ".":
        (folder / name).touch()
    os.chown(folder / name, 65534, 65534)
    with pytest.raises(UserError, match=f"{folder / name}: this is another user's"):
        submit._make_private(folder)
