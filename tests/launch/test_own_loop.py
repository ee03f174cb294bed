"""A script with a loop of its own: as torchrun starts it, and by accelerate launch; killed, stopped and resumed."""

import json
import signal
import sys
from pathlib import Path

from phalanx.dist.checkpoint.directory import steps
from tests.support.running import ROOT, assert_bitwise, forked_script, lines, phalanx, run, run_script

BIN = Path(sys.executable).parent
SCRIPT = str(ROOT / "examples/own_loop/train.py")
SHORT = ["train.steps=24", "dist.reduce=exact", "checkpoint.every_steps=4", "train.log_every=1", "data.workers=0"]
ACCELERATE = [
    *(BIN / "accelerate", "launch", "--multi_gpu", "--num_processes", "2", "--num_machines", "1"),
    *("--mixed_precision", "no", "--dynamo_backend", "no", "--main_process_port", "0", SCRIPT),
]


def test_it_is_the_same_run_on_two_ranks_that_were_killed_and_under_another_launcher(tmp_path: Path) -> None:
    run_script(SCRIPT, *SHORT, "name=one", cwd=tmp_path)
    killed = tmp_path / "runs/killed"
    running = forked_script(SCRIPT, *SHORT, "name=killed", cwd=tmp_path, count=2)
    running.until(lambda: len(steps(killed / "checkpoints")) > 0)
    running.kill_all()
    run([*ACCELERATE, *SHORT, "name=killed", "dist.strategy=fsdp"], tmp_path)
    assert [event["event"] for event in lines(killed / "events.jsonl")].count("resume") == 1
    assert_bitwise(tmp_path / "runs/one", killed)
    assert lines(killed / "metrics.jsonl")[-1]["val/accuracy"] == lines(tmp_path / "runs/one/metrics.jsonl")[-1]["val/accuracy"]
    refused = phalanx("resume", "runs/one", "train.steps=30", cwd=tmp_path, expect=2)
    assert "the loop of this run is in the script" in refused.errors and "Traceback" not in refused.errors


def test_asked_to_stop_it_saves_and_the_same_command_resumes_it(tmp_path: Path) -> None:
    running = forked_script(SCRIPT, "train.steps=100000", "train.log_every=1", "name=long", cwd=tmp_path)
    running.until(lambda: len(lines(tmp_path / "runs/long/metrics.jsonl")) >= 3)
    running.signal(signal.SIGTERM)
    assert running.wait() == 75, running.errors
    events = lines(tmp_path / "runs/long/events.jsonl")
    assert [event["event"] for event in events] == ["start", "save", "preempt"]
    steps_of_all = events[-1]["step"] + 2
    again = run_script(SCRIPT, f"train.steps={steps_of_all}", "name=long", cwd=tmp_path)
    assert f"done: {steps_of_all} steps" in again.output


def test_what_is_wrong_is_said_in_a_sentence_and_errors_of_the_script_keep_their_traceback(tmp_path: Path) -> None:
    refused = run_script(SCRIPT, "train.micro_batch=7", cwd=tmp_path, expect=2)
    assert "train.micro_batch=7" in refused.errors and "Traceback" not in refused.errors
    assert not (tmp_path / "runs").exists()
    broken = tmp_path / "broken.py"
    elsewhere = "import os\n\nos.mkdir('elsewhere')\nos.chdir('elsewhere')\n"  # the run names the script's functions
    broken.write_text(elsewhere + Path(SCRIPT).read_text().replace("        training.update()\n", ""))
    failed = run_script("broken.py", *SHORT, "name=broken", cwd=tmp_path, expect=1)
    assert "without training.update()" in failed.errors and "Traceback" in failed.errors
    report = json.loads((tmp_path / "elsewhere/runs/broken/errors/rank-0.json").read_text())
    assert "training.update()" in json.dumps(report)
