"""All that the report says of a run, read from its directory. No torch here."""

import base64
import json
import re
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from phalanx.configs.load import to_yaml
from phalanx.configs.schema import RunConfig
from phalanx.dist.checkpoint.retention import best_of
from phalanx.dist.storage.durable_files import LARGEST, read_json_object
from phalanx.dist.storage.json_lines import number, read_lines
from phalanx.dist.storage.run_directory import RunDirectory, read_events
from phalanx.launch.run_report.goodput import Goodput, goodput
from phalanx.slurm.status import status

_PICTURE, _CURVES = re.compile(r"[0-9]{1,2}\.jpg"), re.compile(r"[a-z][a-z0-9_]{0,63}\.png")
_LARGEST_PICTURE = min(LARGEST, 1 << 21)  # bytes
_QUIET = {"time", "event", "step"}


@dataclass(frozen=True)
class EvaluationKept:
    """What an evaluation left besides metrics.

    Attributes:
        details: `per_class`, `confusion`, as `phalanx evaluate` has them.
        pictures: of predictions, as data URLs.
        curves: what the task draws of the run's last evaluation, as data URLs by name.
    """

    step: int
    details: Mapping[str, Any]
    pictures: Sequence[str]
    curves: Mapping[str, str]


@dataclass(frozen=True)
class Gathered:
    """A run.

    Attributes:
        summary: what a reader wants to know first, by name.
        curves: each metric by step.
        resumed: the steps at which it was resumed.
        evaluations: in order, those of which something was kept.
        events: time, name, step and the rest of each, as text.
        where_time_went: None before the first step.
    """

    name: str
    summary: Mapping[str, str]
    curves: Mapping[str, Mapping[int, float]]
    resumed: Sequence[int]
    evaluations: Sequence[EvaluationKept]
    events: Sequence[tuple[str, str, int, str]]
    where_time_went: Goodput | None
    config: RunConfig
    recipe: str

    @property
    def last(self) -> EvaluationKept | None:
        """The newest evaluation of which something was kept."""
        return self.evaluations[-1] if self.evaluations else None


def gathered(run: RunDirectory) -> Gathered:
    """
    Raises:
        UserError: if there is no run.
    """
    config, identity = run.read_config(), run.read_identity()
    lines, events = list(read_lines(run.metrics, step=int)), list(read_events(run))
    curves = curves_of(lines)
    time_of = goodput(events, lines, config.train.global_batch)
    evaluated = sorted({step for name, values in curves.items() if name.startswith("val/") for step in values})
    return Gathered(
        name=config.name,
        summary=_summary(run, config, identity, events, lines, curves, time_of),
        curves=curves,
        resumed=[event["step"] for event in events if event["event"] == "resume" and event.get("step")],
        evaluations=[kept for step in evaluated if (kept := _kept(run, step)) is not None],
        events=[_told(event) for event in events],
        where_time_went=time_of,
        config=config,
        recipe=to_yaml(config),
    )


def curves_of(lines: Sequence[Mapping[str, Any]]) -> dict[str, dict[int, float]]:
    """Each metric by step."""
    found: dict[str, dict[int, float]] = {}
    for line in lines:
        for name, value in line.items():
            if "/" in name and (known := number(value)) is not None:
                found.setdefault(name, {})[line["step"]] = known
    return found


def _summary(
    run: RunDirectory,
    config: RunConfig,
    identity: Mapping[str, Any],
    events: Sequence[Mapping[str, Any]],
    lines: Sequence[Mapping[str, Any]],
    curves: Mapping[str, Mapping[int, float]],
    time_of: Goodput | None,
) -> dict[str, str]:
    now = status(run)
    begun = [event for event in events if event["event"] in ("start", "resume") and "world_size" in event]
    on = f"{begun[-1]['world_size']} × {begun[-1].get('device', '?')}" if begun else "?"
    backbone = f" on {config.model.backbone}" if config.model.backbone else ""
    told = {
        "state": now.state + (f" ({now.reason})" if now.reason else ""),
        "step": f"{now.step:,}" + (f" of {now.steps:,}" if now.steps else ""),
        "network": config.model.name + backbone,
        "data": config.data.name,
        "ranks": on,
        "strategy": f"{config.dist.strategy}, {config.dist.precision}" + (", exact" if config.dist.reduce == "exact" else ""),
    }
    metric = config.checkpoint.best or _main_metric(curves)
    if metric in curves:
        step = best_of(curves[metric], metric, config.checkpoint.best_mode)
        if step is not None:
            told[f"best {metric}"] = f"{curves[metric][step]:.4f} at step {step:,}"
    if rates := sorted(curves.get("perf/samples_per_s", {}).values()):
        told["samples per second"] = f"{rates[len(rates) // 2]:,.1f} (median)"
    if memory := curves.get("perf/memory_mb"):
        told["peak memory"] = f"{max(memory.values()):,.0f} MB a rank"
    if time_of is not None:
        told["time"] = f"{_span(time_of.elapsed)} of ranks, {time_of.attempts} start{'s' if time_of.attempts > 1 else ''}"
        told["goodput"] = f"{time_of.share:.1%}"
    told["begun"] = _when(number(identity.get("created")) or number(lines[0].get("time")) if lines else None)
    told["Phalanx"] = f"{identity.get('version', '?')}, commit {str(identity.get('commit') or 'unknown')[:12]}"
    return told


def _main_metric(curves: Mapping[str, Mapping[int, float]]) -> str:
    names = ("val/ap", "val/miou", "val/top1", "val/map", "val/r2", "val/loss")
    return next((name for name in names if name in curves), next((name for name in curves if name.startswith("val/")), ""))


def _kept(run: RunDirectory, step: int) -> EvaluationKept | None:
    path = run.evaluations / f"step-{step:08d}.json"
    try:
        told = read_json_object(path)
    except FileNotFoundError:
        return None
    except (OSError, ValueError):
        return None  # cut short by a crash of the machine: the report has what the others say
    pictures = [_picture(run, step, name, "jpeg") for name in _names(told.get("pictures"), _PICTURE)]
    curves = {name.removesuffix(".png"): _picture(run, step, name, "png") for name in _names(told.get("curves"), _CURVES)}
    shown = {name: picture for name, picture in curves.items() if picture}
    return EvaluationKept(step, told, [picture for picture in pictures if picture], shown)


def _names(listed: Any, known: re.Pattern[str]) -> list[str]:
    """Of files that an evaluation can have written."""
    return [name for name in listed if isinstance(name, str) and known.fullmatch(name)] if isinstance(listed, list) else []


def _picture(run: RunDirectory, step: int, name: str, kind: str) -> str:
    path = run.evaluations / f"step-{step:08d}" / name
    if not path.is_file() or path.is_symlink() or path.stat().st_size > _LARGEST_PICTURE:
        return ""
    return f"data:image/{kind};base64," + base64.b64encode(path.read_bytes()).decode()


def _told(event: Mapping[str, Any]) -> tuple[str, str, int, str]:
    rest = {name: value for name, value in event.items() if name not in _QUIET and not isinstance(value, dict | list)}
    told = "  ".join(f"{name} {value:.6g}" if isinstance(value, float) else f"{name} {value}" for name, value in rest.items())
    step = event.get("step")
    return _when(number(event.get("time"))), str(event["event"]), step if isinstance(step, int) else 0, told


def _when(seconds: float | None) -> str:
    return "?" if seconds is None else datetime.fromtimestamp(seconds).astimezone().strftime("%Y-%m-%d %H:%M:%S %Z")


def _span(seconds: float) -> str:
    return str(timedelta(seconds=round(seconds)))


def written_at() -> str:
    return _when(time.time())


def as_text(value: Any) -> str:
    """A value of a recipe."""
    return value if isinstance(value, str) else json.dumps(value)
