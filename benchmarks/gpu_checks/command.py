"""`phalanx train` as a command: loader processes, asynchronous saves, SIGTERM, resume; bitwise equal to the unbroken run."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from benchmarks.gpu_checks import machine
from benchmarks.gpu_checks.check import Bench
from benchmarks.support.forking import fork
from benchmarks.support.run_files import lines, tensors

_RECIPE = """\
seed: 1
data:
  name: shapes
  image_size: 32
  options: {size: 32, train: 64, val: 4}
  augment: {flip: 0.5}
  workers: 2
model:
  name: resnet18
  stem: small
optim:
  name: sgd
  lr: 0.01
  momentum: 0.9
train:
  global_batch: 8
  micro_batch: 4
  log_every: 1
  deterministic: true
checkpoint:
  every_steps: 2
"""
_STOPPED = 75  # the exit code of a run that was asked to stop


class _Started(NamedTuple):
    """A command under way."""

    process: int
    errors: Path

    def wait(self) -> int:
        """Its exit code."""
        return os.waitstatus_to_exitcode(os.waitpid(self.process, 0)[1])

    def has_ended(self) -> bool:
        return os.waitid(os.P_PID, self.process, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None


def stops_and_resumes(bench: Bench) -> tuple[bool, dict[str, Any]]:
    """Two runs of one recipe, of which one gets SIGTERM in the middle and is resumed."""
    steps = 200 if bench.full else 9
    recipe = bench.folder / "recipe.yaml"
    recipe.write_text(_RECIPE)
    given = [str(recipe), f"train.steps={steps}", f"dist.device={bench.device}", f"runs={bench.folder}"]
    runs = {name: bench.folder / name for name in ("unbroken", "stopped")}
    started = {name: _start(bench, ["train", *given, f"name={name}", "--nproc", "1"], f"{name}.log") for name in runs}
    reached = _steps_taken(runs["stopped"], 3, started["stopped"])
    os.kill(started["stopped"].process, signal.SIGTERM)
    codes = [started["stopped"].wait()]
    if codes == [_STOPPED]:
        codes.append(_start(bench, ["resume", str(runs["stopped"]), "--nproc", "1"], "resumed.log").wait())
    codes.append(started["unbroken"].wait())
    figures: dict[str, Any] = {"signalled_at": reached, "exit_codes": codes}
    if codes != [_STOPPED, 0, 0]:
        logs = [f"{log.name}:\n{log.read_text(errors='replace')[-1000:]}" for log in sorted(bench.folder.glob("*.log"))]
        return False, figures | {"logs": logs}
    events = lines(runs["stopped"] / "events.jsonl")
    figures["stopped_at"] = next(event["step"] for event in events if event["event"] == "preempt")
    figures["saves"] = sum(event["event"] == "save" for event in events)
    one, two = tensors(runs["unbroken"]), tensors(runs["stopped"])
    differing = [name for name in one if name not in two or one[name].tobytes() != two[name].tobytes()]
    figures |= {"tensors": len(one), "differing": differing[:5]}
    return not differing and one.keys() == two.keys() and figures["stopped_at"] < steps, figures


def _steps_taken(run: Path, steps: int, started: _Started) -> int:
    """Waits until a run has logged so many steps, or has ended; how many it has."""
    while True:
        logged = [line["step"] for line in lines(run / "metrics.jsonl")]
        if started.has_ended() or (logged and logged[-1] >= steps):
            return logged[-1] if logged else 0
        time.sleep(0.02)


def _start(bench: Bench, arguments: Sequence[str], log: str) -> _Started:
    """A command in a process of its own: a new one on a GPU; elsewhere a fork, which spares seconds, or pretends a device."""
    errors = bench.folder / log
    if not bench.on_gpu:
        from phalanx.launch import main

        return _Started(fork(lambda: main.main(arguments), bench.folder, dict(os.environ), errors, errors), errors)
    machine.for_commands()
    with open(errors, "wb") as output:
        command = [sys.executable, "-m", "phalanx.launch.main", *arguments]
        process = subprocess.Popen(command, cwd=bench.folder, stdout=output, stderr=output, stdin=subprocess.DEVNULL)
    return _Started(process.pid, errors)
