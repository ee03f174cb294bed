"""A run that is killed and started again, time after time: what must be there after each kill, and at its end.

Ranks are forked from a process that has paid for the imports, and call what the ranks of `phalanx train` call, in the
environment that torchrun would give them. Nobody watches over them: where one of two is killed, the other must end by itself.
"""

import os
import random
import shutil
import signal
import statistics
import time
from collections.abc import Callable, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

# Not all are used here: whatever a rank would import is imported before it is forked.
import accelerate  # noqa: F401
import torch._dynamo  # noqa: F401
import torchvision.transforms.v2  # noqa: F401

import phalanx.launch.say
import phalanx.train.start  # noqa: F401
from benchmarks.kill_places import EVALUATION, START_UP, Durations, Places
from benchmarks.support.forking import fork_ranks
from benchmarks.support.run_files import assert_bitwise, lines, sample_ids
from phalanx.dist.checkpoint import reader
from phalanx.launch import train

ROOT = Path(__file__).resolve().parent.parent
GLOBAL_BATCH = 8
TIMEOUT_S = 20  # of the ranks' collectives; torch looks about three times as long for a rank 0 that died while it started
_STEP_S = 0.3  # about what a step and its save take, as long as the run has not shown it
_STAGE_S = 0.2  # the same of a stage
_PATIENCE_S = 120.0  # for the place where a kill is to fall
RECIPE = [str(ROOT / "configs/recipes/digits_resnet18.yaml"), "model.stem=small", "data.image_size=16"]
RECIPE += ["data.augment.flip=0.5", "data.workers=0", "data.ledger=true"]
RECIPE += [f"train.global_batch={GLOBAL_BATCH}", "train.micro_batch=4", "train.log_every=1"]
RECIPE += [f"dist.timeout_s={TIMEOUT_S}", "dist.device=cpu", "checkpoint.keep=2"]


class Mode(NamedTuple):
    """How checkpoints are written, on how many ranks, and who is killed: `all`, or `one` of them at random."""

    asynchronous: bool
    ranks: int
    killed: str

    def __str__(self) -> str:
        how = "in the background" if self.asynchronous else "while training waits"
        return f"{how}, {self.ranks} rank{'s' if self.ranks > 1 else ''}, {self.killed} killed"


MODES = [Mode(how, ranks, killed) for ranks, killed in ((2, "one"), (2, "all"), (1, "all")) for how in (True, False)]


class Length(NamedTuple):
    """Of a run that is killed.

    Attributes:
        eval_every: steps between evaluations.
        held_out: share of the digits that is evaluated; all that are held out by default where it is not set.
        starting: stages of the start in which kills may fall.
    """

    steps: int = 40
    eval_every: int = 5
    kills: int = 10
    held_out: float | None = None
    starting: tuple[str, ...] = START_UP

    @property
    def keys(self) -> list[str]:
        keys = [f"train.steps={self.steps}", f"train.eval_every={self.eval_every}"]
        return keys if self.held_out is None else [*keys, f"data.val_fraction={self.held_out}"]


class Ranks:
    """Forked ranks of one attempt at a run, each in a session of its own.

    Args:
        arguments: of `phalanx train`.
        folder: where they run; what they say goes to `rank-N.log`.
    """

    def __init__(self, arguments: Sequence[str], count: int, folder: Path):
        self.begun = time.monotonic()
        self.statuses: dict[int, int] = {}
        self.places = Places(count)
        self.seen: list[tuple[float, str]] = []  # when rank 0 entered which stage
        self.processes = fork_ranks(lambda rank: self._train(rank, arguments), count, folder)

    def _train(self, rank: int, arguments: Sequence[str]) -> int:
        self.places.told_by(rank)
        return train.main(arguments)

    @property
    def running(self) -> list[int]:
        """The processes that have not ended."""
        for process in self.processes:
            if process not in self.statuses:
                ended, status = os.waitpid(process, os.WNOHANG)
                if ended:
                    self.statuses[process] = os.waitstatus_to_exitcode(status)
        return [process for process in self.processes if process not in self.statuses]

    def wait(self, timeout: float, until: Callable[[], bool] = lambda: False) -> bool:
        """Returns when all have ended, or something else is true; whether that was in time."""
        deadline = time.monotonic() + timeout
        while self.running and not until():
            stage = self.places[0].stage
            if stage is not None and (not self.seen or self.seen[-1][1] != stage):
                self.seen.append((time.monotonic(), stage))
            if time.monotonic() > deadline:
                return False
            time.sleep(0.002)
        return True

    def kill(self, processes: Sequence[int]) -> None:
        """kill -9; those that are not there any more too."""
        for process in processes:
            if process not in self.statuses:
                os.kill(process, signal.SIGKILL)
        for process in processes:
            if process not in self.statuses:
                self.statuses[process] = os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])

    def left(self) -> list[int]:
        """Sessions of ranks that have ended in which something still runs."""
        return [process for process in self.processes if process in self.statuses and _session_is_there(process)]


def _session_is_there(process: int) -> bool:
    try:
        os.killpg(process, 0)
    except ProcessLookupError:
        return False
    return True


def unbroken(ranks: int, length: Length, folder: Path) -> Path:
    """The run that nobody kills; returns its directory."""
    folder.mkdir()
    under_way = Ranks(["name=unbroken", *RECIPE, *length.keys], ranks, folder)
    in_time = under_way.wait(600)
    codes = [under_way.statuses.get(process) for process in under_way.processes]
    assert in_time and not any(codes), f"the unbroken run ended with {codes}: {(folder / 'rank-0.log').read_text()}"
    return folder / "runs/unbroken"


def run_chain(
    mode: Mode,
    length: Length,
    aim: Callable[[], str],
    expected: Path,
    folder: Path,
    tell: Callable[[dict[str, Any]], None],
) -> dict[str, Any]:
    """Kills a run again and again, then lets it come to its end.

    Args:
        aim: the part of the run where the next kill is to fall: start-up, evaluation or training.
        expected: the directory of the unbroken run.
        folder: which is there no more where everything was as it must be.
        tell: is given what was found after each kill, as `_kill` returns it.

    Returns:
        `problems` at the end, such as a tensor that differs from the unbroken run's; `ok`: there were none, then or before.
    """
    folder.mkdir()
    run, problems, durations = folder / "runs/killed", list[str](), Durations()
    arguments = ["name=killed", *RECIPE, *length.keys, "checkpoint.every_steps=1"]
    arguments.append(f"checkpoint.asynchronous={str(mode.asynchronous).lower()}")
    for _ in range(length.kills):
        found = _kill(mode, aim(), length.starting, durations, run, lambda: Ranks(arguments, mode.ranks, folder))
        if found is None:
            break
        tell(found)
        if not found["ok"]:
            return {"problems": ["see the kill"], "folder": str(folder), "ok": False}
    last = Ranks(arguments, mode.ranks, folder)
    in_time = last.wait(600)
    last.kill(last.running)
    codes = list(last.statuses.values())
    problems += _differences(run, expected, length) if in_time and not any(codes) else [f"the last attempt ended with {codes}"]
    if problems:
        return {"problems": problems, "folder": str(folder), "ok": False}
    shutil.rmtree(folder)
    return {"problems": [], "ok": True}


def _kill(
    mode: Mode, aim: str, starting: Sequence[str], durations: Durations, run: Path, start: Callable[[], Ranks]
) -> dict[str, Any] | None:
    """Starts the run, kills it at a random instant, and looks at what is there. None where it came to its end before.

    Returns:
        `aim`: where the kill was to fall; `fell`: where it fell; `seconds`: the instant, since the start; `steps`: of the
        ledger by then; `finished`: step of the last save that had finished; `newest`: step of the newest valid checkpoint, 0
        for none; `under_way`: what the kill left under temporary names; `survivor_s`: how long the others took to end by
        themselves; `problems`, and `ok`: there were none.
    """
    problems, before, ranks = list[str](), len(_saves(run)), start()
    victim = random.randrange(mode.ranks)
    if aim == "training":
        _wait_for_saves(ranks, run, before)
    else:
        _wait_for_stage(random.choice(starting if aim == "start-up" else EVALUATION), aim, ranks, victim, durations)
    durations.learn(ranks.seen)
    chosen, fell = ranks.processes if mode.killed == "all" else [ranks.processes[victim]], ranks.places[victim]
    seconds, steps = time.monotonic() - ranks.begun, [line["step"] for line in lines(run / "ledger/rank-0.jsonl")]
    ranks.kill(chosen)
    killed_at = time.monotonic()
    if not ranks.wait(5 * TIMEOUT_S):
        problems.append("the other rank did not end by itself")
    survivor_s = time.monotonic() - killed_at if len(chosen) < mode.ranks else None
    ranks.kill(ranks.running)
    codes = [ranks.statuses[process] for process in ranks.processes]
    if not any(codes):
        return None
    if -signal.SIGKILL not in [ranks.statuses[process] for process in chosen]:
        problems.append(f"the ranks ended before the kill, with {codes}")
    if ranks.left():
        problems.append("a process was left running")
    finished = max(_saves(run), default=0)
    newest, skipped = reader.newest_valid(run / "checkpoints")
    step = int(newest.name.removeprefix("step-")) if newest else 0
    problems += [f"step {number}: {problem}" for number, problem in skipped]
    if step < finished:
        problems.append(f"the newest valid checkpoint is of step {step}, though {finished} had finished")
    return {
        "aim": aim,
        "fell": fell.to_json(),
        "seconds": round(seconds, 3),
        "steps": max(steps, default=0),
        "finished": finished,
        "newest": step,
        "under_way": _temporary(run / "checkpoints"),
        "codes": codes,
        "survivor_s": None if survivor_s is None else round(survivor_s, 3),
        "problems": problems,
        "ok": not problems,
    }


def _wait_for_saves(ranks: Ranks, run: Path, before: int) -> None:
    """Returns some saves later, at a random instant of a step and its save."""
    after, pause = random.choice((1, 2, 3)), random.uniform(0, _step_s(run))
    ranks.wait(_PATIENCE_S, until=lambda: len(_saves(run)) >= before + after)
    _pause(ranks, pause)


def _wait_for_stage(stage: str, part: str, ranks: Ranks, victim: int, durations: Durations) -> None:
    """Returns at a random instant of a stage, as far as its duration is known; that of a start, or of an evaluation later."""

    def is_there() -> bool:
        place = ranks.places[victim]
        return place.stage == stage and place.part == part

    ranks.wait(_PATIENCE_S, until=is_there)
    _pause(ranks, random.uniform(0, durations.of(stage, _STAGE_S)))


def _pause(ranks: Ranks, seconds: float) -> None:
    """Waits, unless a rank ends meanwhile."""
    count = len(ranks.processes)
    ranks.wait(seconds, until=lambda: len(ranks.running) < count)


def _saves(run: Path) -> list[int]:
    """The steps of all saves that had finished."""
    return [event["step"] for event in lines(run / "events.jsonl") if event["event"] == "save"]


def _step_s(run: Path) -> float:
    """What a step and its save usually take, from the end of a save to the end of the next one."""
    told = [event for event in lines(run / "events.jsonl") if event["event"] in ("save", "resume")]
    gaps = [b["time"] - a["time"] for a, b in pairwise(told) if a["event"] == b["event"] == "save"]
    return statistics.median(gaps) if gaps else _STEP_S


def _temporary(checkpoints: Path) -> list[str]:
    """What lies under temporary names: `saving`, `pruned`."""
    if not checkpoints.exists():
        return []
    return sorted(p.name[1:].partition("-")[0] for p in checkpoints.iterdir() if p.name.startswith("."))


def _differences(run: Path, expected: Path, length: Length) -> list[str]:
    """What is not as in the unbroken run."""
    problems, ids = [], sample_ids(run)
    try:
        assert_bitwise(run, expected)
    except AssertionError as error:
        problems.append(str(error) or "the scalars differ")
    if list(ids) != list(range(1, length.steps + 1)) or any(len(step) != GLOBAL_BATCH for step in ids.values()):
        problems.append("the ledger lacks a step or has one twice")
    if ids != sample_ids(expected):
        problems.append("the ledger's samples differ")
    if _logged(run) != _logged(expected):
        problems.append("metrics.jsonl differs")
    left = [path.name for path in (run / "checkpoints").iterdir() if not path.name.startswith("step-")]
    return [*problems, *(f"{name} was left" for name in left)]


def _logged(run: Path) -> list[dict[str, Any]]:
    return [
        {key: value for key, value in line.items() if key != "time" and not key.startswith("perf/")}
        for line in lines(run / "metrics.jsonl")
    ]
