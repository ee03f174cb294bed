"""Figures through kills: each step once in every file, one W&B run."""

import json
from pathlib import Path

import pytest

from phalanx.configs.load import load
from phalanx.dist.processes.environment import Ranks
from phalanx.dist.step.step_metrics import StepFigures
from phalanx.dist.storage.run_directory import RunDirectory
from phalanx.train.tracking.tracker import Tracker
from phalanx.train.tracking.wandb_pieces import pieces, rows
from tests.support.running import DIGITS, FEW_EVALUATED, PHALANX, lines, phalanx, start

RECIPE = [
    DIGITS,
    FEW_EVALUATED,
    "train.global_batch=8",
    "train.micro_batch=4",
    "train.log_every=1",
    "data.workers=0",
    "name=tracked",
]
RECIPE += ["checkpoint.every_steps=3", "train.eval_every=4", "track.wandb=offline", "track.tensorboard=true"]


def tensorboard_steps(folder: Path, tag: str) -> list[int]:
    """The steps that TensorBoard shows of a tag, over all event files."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(folder), size_guidance={"scalars": 0})
    events.Reload()
    return [event.step for event in events.Scalars(tag)]


def test_every_step_stands_once_in_every_place_through_a_kill(tmp_path: Path) -> None:
    run_directory = tmp_path / "runs/tracked"
    running = start([*PHALANX, "train", *RECIPE, "train.steps=12"], tmp_path)
    running.until(lambda: len(lines(run_directory / "metrics.jsonl")) >= 7)
    running.kill_all()
    reached = max(line["step"] for line in lines(run_directory / "metrics.jsonl"))
    shown = phalanx("resume", "runs/tracked", cwd=tmp_path)
    assert "resumes at step" in shown.output

    logged = lines(run_directory / "metrics.jsonl")
    assert [line["step"] for line in logged] == list(range(1, 13))
    assert all({"step", "time", "train/loss", "train/lr"} <= line.keys() for line in logged)
    assert [line["step"] for line in logged if "val/top1" in line] == [4, 8, 12]

    events = {e["event"]: e for e in lines(run_directory / "events.jsonl")}
    assert events["resume"]["step"] % 3 == 0 and events["resume"]["step"] > 0
    assert reached == events["resume"]["step"] or events["cut_back"]["logged"] == reached

    assert tensorboard_steps(run_directory / "tensorboard", "train/loss") == list(range(1, 13))

    identity = json.loads((run_directory / "run.json").read_text())["wandb"]
    there = pieces(run_directory)
    assert len(there) == 2 and all(piece.stem == f"run-{identity}" for piece in there)
    # What the killed process had not handed over, the next one did.
    found = [row for piece in there for row in rows(piece)]
    assert [int(row["_step"]) for row in found] == list(range(1, 13))
    assert [int(row["_step"]) for row in found if "val/top1" in row] == [4, 8, 12]  # the last came after its step's checkpoint
    by_step = {line["step"]: line for line in logged}
    assert all(row["train/loss"] == by_step[int(row["_step"])]["train/loss"] for row in found)


def test_the_first_and_the_last_step_are_logged_however_short_the_run_is(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    settings = load([DIGITS], [f"runs={tmp_path}", "name=short", "train.log_every=5"])
    run = RunDirectory.of(settings)
    run.create(settings, 1)
    tracker = Tracker(settings, run, Ranks(0, 1, 0, 1), 0, 7)
    for step in range(1, 8):
        tracker.training([StepFigures(step, {"ce": 1.0 / step}, 0.1, None, None, False, ())])
    tracker.close(0)
    assert [line["step"] for line in lines(run.metrics)] == [1, 5, 7]
    assert "step 1/7  loss 1 " in capsys.readouterr().out


def test_figures_that_come_after_a_checkpoint_join_the_line_of_their_step(tmp_path: Path) -> None:
    settings = load([DIGITS], [f"runs={tmp_path}", "name=joined", "train.log_every=1"])
    run = RunDirectory.of(settings)
    run.create(settings, 1)
    tracker = Tracker(settings, run, Ranks(0, 1, 0, 1), 0, 3)
    for step in range(1, 4):
        tracker.training([StepFigures(step, {"ce": 1.0}, 0.1, None, None, False, ())])
        tracker.sync()  # a checkpoint
        assert [line["step"] for line in lines(run.metrics)] == list(range(1, step + 1))
        if step > 1:
            tracker.evaluation(step, {"top1": 0.5})
            tracker.sync()
            tracker.sync()
    tracker.close(0)
    logged = lines(run.metrics)
    assert [line["step"] for line in logged] == [1, 2, 3] and all("train/loss" in line for line in logged)
    assert ["val/top1" in line for line in logged] == [False, True, True]


def test_online_without_a_key_goes_offline_and_says_so(tmp_path: Path) -> None:
    nowhere = {"NETRC": str(tmp_path / "none"), "WANDB_BASE_URL": "http://127.0.0.1:9"}
    shown = phalanx("train", *RECIPE, "track.wandb=online", "train.steps=1", cwd=tmp_path, **nowhere)
    assert "W&B goes offline: there is no key" in shown.output
    again = phalanx("resume", "runs/tracked", "train.steps=2", cwd=tmp_path, WANDB_API_KEY="x" * 40, **nowhere)
    assert "W&B goes offline: 127.0.0.1 cannot be reached" in again.output
    assert "x" * 40 not in "".join(p.read_text(errors="ignore") for p in (tmp_path / "runs").rglob("*") if p.is_file())


def test_while_the_disk_is_full_figures_wait_in_memory_and_come_once_there_is_room(small_disk: Path) -> None:
    config = load([DIGITS], [f"runs={small_disk}/runs", "name=full", "train.log_every=1"])
    directory, filler = RunDirectory.of(config), small_disk / "filler"
    directory.create(config, threads=1)
    tracker = Tracker(config, directory, Ranks(), 0, 1000)
    tracker.event("start", 0)
    with pytest.raises(OSError), open(filler, "wb", buffering=0) as file:  # no space left
        while file.write(bytes(4096)):
            pass
    for step in range(1, 101):
        tracker.training([StepFigures(step, {"ce": float("nan")}, 0.1, None, None, False, ())])
        tracker.event("evaluate", step, text="x" * 100)
    with pytest.raises(OSError, match="No space left"):  # so that no checkpoint is made: it would come before its figures
        tracker.sync()
    assert all(path.read_bytes()[-1:] in (b"", b"\n") for path in (directory.metrics, directory.events))
    filler.unlink()
    tracker.sync()
    tracker.close(0)
    assert [line["step"] for line in lines(directory.metrics)] == list(range(1, 101))
    assert [line["step"] for line in lines(directory.events)] == list(range(101))
