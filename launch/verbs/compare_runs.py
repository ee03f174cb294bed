"""phalanx compare RUN RUN ... [--plot FILE.png] [--metric NAME] [--json]"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from phalanx.configs.errors import ExitCode, UserError, printable
from phalanx.configs.schema import flat
from phalanx.dist.checkpoint.retention import best_of
from phalanx.dist.storage.json_lines import number, read_lines
from phalanx.dist.storage.run_directory import RunDirectory
from phalanx.launch.arguments import Parser

_OWN = ("name", "runs")  # keys that always differ
_NO_RESULTS = ("train/lr", "train/epoch", "perf/")
_WIDEST = 40  # characters of a value


def main(arguments: Sequence[str]) -> int:
    parser = Parser(
        prog="phalanx compare",
        description="Compares runs: the keys of their recipes that differ, and of each metric the best and the last value.",
    )
    parser.add_argument("runs", nargs="+", metavar="RUN", help="run directories, at least two")
    parser.add_argument("--plot", metavar="FILE.png", help="draw a metric of all runs over the steps")
    parser.add_argument("--metric", metavar="NAME", help="the metric to draw, such as val/top1 (default: train/loss)")
    parser.add_argument("--json", action="store_true", help="print JSON")
    given = parser.parse_args(arguments)
    if len(set(given.runs)) < 2:
        raise UserError("compare needs at least two different runs. `phalanx status` lists those in runs/.")
    runs = {name: RunDirectory(Path(name)) for name in given.runs}
    recipes = {name: flat(run.read_config()) for name, run in runs.items()}
    curves = {name: _curves(run) for name, run in runs.items()}
    found = {"recipe": differing(recipes), "metrics": measured(curves)}
    if given.plot:
        _draw(curves, given.metric or "train/loss", given.plot)
    elif given.metric:
        raise UserError("--metric names what --plot draws. Give --plot FILE.png too.")
    print(json.dumps(found) if given.json else printable("\n".join(_lines(list(runs), found))))
    return ExitCode.DONE


def differing(recipes: Mapping[str, Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
    """The value of each run by key, for the keys in which runs differ."""
    keys = dict.fromkeys(key for recipe in recipes.values() for key in recipe if key not in _OWN)
    found = {key: {name: recipe.get(key) for name, recipe in recipes.items()} for key in keys}
    return {key: values for key, values in found.items() if len({json.dumps(value) for value in values.values()}) > 1}


def measured(curves: Mapping[str, Mapping[str, Mapping[int, float]]]) -> dict[str, dict[str, dict[str, float] | None]]:
    """Of each metric and run the best and the last value, and after which steps; None where a run lacks it."""
    names = dict.fromkeys(name for own in curves.values() for name in own if not name.startswith(_NO_RESULTS))
    return {name: {run: _summary(name, own.get(name, {})) for run, own in curves.items()} for name in names}


def _summary(name: str, values: Mapping[int, float]) -> dict[str, float] | None:
    step = best_of(values, name, "auto")
    if step is None:
        return None
    last = max(values)
    return {"best": values[step], "best_step": step, "last": values[last], "last_step": last}


def _curves(run: RunDirectory) -> dict[str, dict[int, float]]:
    """Each metric by step."""
    found: dict[str, dict[int, float]] = {}
    for line in read_lines(run.metrics, step=int):
        for name, value in line.items():
            if "/" in name and (known := number(value)) is not None:
                found.setdefault(name, {})[line["step"]] = known
    return found


def _lines(runs: Sequence[str], found: Mapping[str, Mapping[str, Mapping[str, Any]]]) -> list[str]:
    recipe = [[key, *(_short(values[run]) for run in runs)] for key, values in found["recipe"].items()]
    metrics = []
    for name, by_run in found["metrics"].items():
        told = [None if by_run[run] is None else by_run[run] for run in runs]
        best = ["-" if one is None else f"{one['best']:.4g} at {one['best_step']}" for one in told]
        last = ["-" if one is None else f"{one['last']:.4g} at {one['last_step']}" for one in told]
        metrics += [[f"{name}, best", *best], [f"{name}, last", *last]]
    same = ["", "The recipes do not differ."]
    return [
        *(_columns(["recipe", *runs], recipe) if recipe else same[1:]),
        "",
        *(_columns(["metric", *runs], metrics) if metrics else ["Nothing has been logged yet."]),
    ]


def _columns(head: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    widths = [max(len(line[column]) for line in (head, *rows)) for column in range(len(head))]
    return ["  ".join(text.ljust(width) for text, width in zip(line, widths, strict=True)).rstrip() for line in (head, *rows)]


def _short(value: Any) -> str:
    text = value if isinstance(value, str) else json.dumps(value)
    return text if len(text) <= _WIDEST else f"{text[: _WIDEST - 3]}..."


def _draw(curves: Mapping[str, Mapping[str, Mapping[int, float]]], metric: str, path: str) -> None:
    from phalanx.train.pictures.line_chart import Line, line_chart

    having = {run: own[metric] for run, own in curves.items() if metric in own}
    if not having:
        known = ", ".join(dict.fromkeys(name for own in curves.values() for name in own)) or "nothing"
        raise UserError(f"--metric {metric}: no run has logged it. They have logged {known}.")
    lines = [Line(Path(run).name, list(values), list(values.values())) for run, values in having.items()]
    picture = line_chart(lines, metric, "step", metric)
    try:
        picture.save(path, format="PNG")
    except OSError as error:
        raise UserError(f"--plot {path}: {error.strerror}. Name a file that can be written.") from None
