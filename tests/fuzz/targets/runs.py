"""The files of a run directory, and what reads them: status, logs, evaluate, resume, predict, and a training that resumes."""

import dataclasses
from functools import cache
from pathlib import Path
from typing import Any

from hypothesis import strategies as st

from tests.fuzz import mutations
from tests.fuzz.case import Case, Content
from tests.fuzz.law import command
from tests.fuzz.targets.configs import DIGITS
from tests.fuzz.targets.target import Target

_JSON: dict[str, Any] = {
    "run.json": {
        "run": "fuzzed-0a1b2c3d",
        "wandb": "0a1b2c3d",
        "created": 1.7e9,
        "version": "0.1",
        "commit": None,
        "threads": 1,
        "experiment": "0123456789abcdef",
    },
    "errors/rank-0.json": {
        "rank": 0,
        "host": "node0",
        "time": 1.7e9 + 50,
        "type": "RuntimeError",
        "message": "broken",
        "traceback": ["Trace", "back"],
        "attempt": "",
        "echo": False,
    },
    "evaluation.json": {
        "step": 4,
        "split": "val",
        "checkpoints": ["a"],
        "metrics": {"top1": 0.5},
        "details": {},
        "time": 1.7e9,
    },
    "data.json": {
        "facts": {
            "classes": ["0", "1"],
            "channels": 1,
            "kind": "classification",
            "class_counts": [3, 4],
            "image_size": [8, 8],
        },
        "mean": [0.5],
        "std": [0.5],
    },
}
_LINES: dict[str, list[dict[str, Any]]] = {
    "metrics.jsonl": [
        {
            "step": step,
            "time": 1.7e9 + step,
            "train/loss": 2.0 / step,
            "train/lr": 0.1,
            **({"val/top1": 0.5} if step == 4 else {}),
        }
        for step in (1, 2, 3, 4, 5)
    ],
    "events.jsonl": [
        {"time": 1.7e9, "event": "start", "step": 0, "world_size": 1, "strategy": "ddp"},
        {"time": 1.7e9 + 4, "event": "save", "step": 4},
        {"time": 1.7e9 + 9, "event": "failure", "step": 5, "reason": "RuntimeError: broken"},
    ],
    "slurm/jobs.jsonl": [
        {"job": "999999", "where": "local", "time": 1.7e9, "config": "config-1.yaml", "nodes": 1, "ranks": 2},
    ],
    "ledger/rank-0.jsonl": [{"step": step, "epoch": 0, "ids": [step, step + 1]} for step in (1, 2, 3, 4, 5)],
}


@cache
def whole() -> dict[str, Content]:
    """The files of a run as they should be."""
    import json

    from phalanx.configs.load import load, to_yaml
    from phalanx.train.tasks import DataInfo
    from tests.fuzz.targets.checkpoints import checkpoint_files

    config = load([DIGITS], ["checkpoint.best=val/top1", "train.patience=3", "data.ledger=true"])
    files: dict[str, Content] = {"config.yaml": to_yaml(config).encode(), "logs/rank-0.log": b"a line\nanother\n"}
    facts = {field.name: _JSON["data.json"]["facts"].get(field.name) for field in dataclasses.fields(DataInfo)}
    _JSON["data.json"]["facts"] = facts
    files |= {name: json.dumps(value).encode() for name, value in _JSON.items()}
    files |= {name: b"".join(json.dumps(line).encode() + b"\n" for line in lines) for name, lines in _LINES.items()}
    return files | {f"checkpoints/step-00000004/{name}": content for name, content in checkpoint_files().items()}


@st.composite
def _runs(draw: mutations.Draw) -> Case:
    files = dict(whole())
    names = [*_JSON, *_LINES, "metrics.jsonl", "events.jsonl", "config.yaml", "files"]
    for _ in range(draw(st.integers(1, 2))):
        name = draw(st.sampled_from(names))
        if name in _JSON:
            files[name] = mutations.json_bytes(draw, _JSON[name])
        elif name in _LINES:
            files[name] = mutations.jsonl_bytes(draw, _LINES[name])
        elif name == "config.yaml":
            old = whole()[name]
            assert isinstance(old, bytes)
            files[name] = mutations.encoded(draw, mutations.text(draw, old.decode()))
        else:
            files = mutations.files(draw, files)
    asked = draw(st.sampled_from(["status", "status", "logs", "resume", "resume", "record", "checkpoint"]))
    return Case("runs", {f"runs/fuzzed/{name}": content for name, content in files.items()}, asked)


def _door(case: Case, _: Path) -> None:
    run = "runs/fuzzed"
    if case.given == "status":
        command(["status", run])
        command(["status", run, "--json"])
    elif case.given == "logs":
        command(["logs", run])
        command(["logs", run, "--json"])
    elif case.given == "checkpoint":
        command(["checkpoint", "ls", run])
    elif case.given == "record":
        _read_record(run)
    else:
        _go_on(run)


def _read_record(run: str) -> None:
    from phalanx.dist.storage.run_directory import RunDirectory
    from phalanx.train.setup.recorded import recorded

    recorded(RunDirectory(Path(run)))


def _go_on(run: str) -> None:
    """What rank 0 reads and writes of a run directory before a run is resumed."""
    from phalanx.dist.processes.environment import Ranks
    from phalanx.dist.storage.json_lines import cut_back
    from phalanx.dist.storage.run_directory import RunDirectory
    from phalanx.launch.arguments import resumed
    from phalanx.train.early_stopping import best_so_far
    from phalanx.train.tracking.ledger import cut_ledgers
    from phalanx.train.tracking.tracker import Tracker

    directory, config = RunDirectory(Path(run)), resumed(run, [])
    directory.read_identity()
    directory.refuse_another_experiment(config)
    directory.create(config, 1)
    cut_ledgers(directory.ledger, 4)
    cut_back(directory.metrics, 4)
    best_so_far(_alone(), directory, config, 4)
    tracker = Tracker(config, directory, Ranks(), 4, 8)
    tracker.event("resume", 4)
    tracker.close(0)


def _alone() -> Any:
    """A world of this process alone, as `best_so_far` asks it."""
    from types import SimpleNamespace

    from phalanx.dist.processes.environment import Ranks

    return SimpleNamespace(ranks=Ranks())


def _prepare() -> None:
    import phalanx.launch.verbs.resume
    import phalanx.slurm.logs
    import phalanx.slurm.status
    import phalanx.train.tracking.tracker  # noqa: F401


TARGETS = [
    Target("runs", "every file of a run directory, read by each verb that reads it", 150, _runs, _door, prepare=_prepare)
]
