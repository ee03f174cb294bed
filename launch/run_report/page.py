"""The page: from what was gathered of each run to one HTML file."""

from collections.abc import Iterator, Mapping, Sequence
from importlib.resources import files
from typing import Any

from jinja2 import Environment, StrictUndefined
from markupsafe import Markup

from phalanx.configs.schema import flat
from phalanx.launch.run_report.chart import Curve, chart
from phalanx.launch.run_report.gathered import Gathered, as_text, written_at
from phalanx.launch.verbs.compare_runs import differing

GENERATOR = '<meta name="generator" content="phalanx report">'
_MOST_CLASSES = 30  # whose confusion is shown as a table
_MOST_CONFUSED = 20
_MOST_SHOWN = 6  # evaluations whose predictions stand side by side
_PARTS = {
    "steps": "steps that were kept",
    "data": "waiting for data",
    "start": "starting",
    "evaluation": "evaluation",
    "save": "saving",
    "rest": "repeated steps, and the rest",
}


def page(runs: Sequence[Gathered]) -> str:
    """The report of one run, or of several side by side."""
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    environment.filters["as_text"] = as_text
    room = files(__package__)
    template = environment.from_string((room / "page.html").read_text())
    return template.render(
        runs=runs,
        title=" and ".join(run.name for run in runs) if len(runs) < 4 else f"{runs[0].name} and {len(runs) - 1} more",
        generator=Markup(GENERATOR),
        style=Markup((room / "page.css").read_text()),
        script=Markup((room / "page.js").read_text()),
        written=written_at(),
        groups=list(_groups(runs)),
        differing=differing({f"{number}": flat(run.config) for number, run in enumerate(runs)}) if len(runs) > 1 else {},
        summary=list(dict.fromkeys(key for run in runs for key in run.summary)),
        parts=_PARTS,
        columns=_columns,
        confusion=_confusion,
        confused=_confused,
        chosen=_chosen,
    )


def _groups(runs: Sequence[Gathered]) -> Iterator[tuple[str, list[tuple[str, Markup]]]]:
    """Headings, each with names of metrics and their charts."""
    names = list(dict.fromkeys(name for run in runs for name in run.curves))
    headings = {"val/": "Validation", "train/": "Training", "perf/": "Speed and memory"}
    for prefix, heading in headings.items():
        charts = []
        for name in names:
            if name.startswith(prefix) and name != "train/epoch":
                curves = [Curve(run.name, place, run.curves.get(name, {}), run.resumed) for place, run in enumerate(runs)]
                charts.append((name, chart(name, curves)))
        if charts:
            yield heading, charts


def _columns(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """Of results by class."""
    return list(dict.fromkeys(key for row in rows for key in row))


def _confusion(details: Mapping[str, Any]) -> tuple[list[str], list[list[tuple[int, float]]]] | None:
    """Names, and rows of counts with their share of the row; None if there is no such table, or it is too large."""
    table, names = details.get("confusion"), _names(details)
    if not isinstance(table, list) or not 0 < len(table) <= _MOST_CLASSES or len(table) != len(names):
        return None
    return names, [[(count, count / max(1, sum(row))) for count in row] for row in table]


def _confused(details: Mapping[str, Any]) -> list[tuple[str, str, int, float]]:
    """The pairs of classes that were most often confused: the true one, the predicted one, how often, and of how many."""
    table, names = details.get("confusion"), _names(details)
    if not isinstance(table, list) or len(table) != len(names):
        return []
    pairs = [
        (names[row], names[column], count, count / max(1, sum(counts)))
        for row, counts in enumerate(table)
        for column, count in enumerate(counts)
        if row != column and count
    ]
    return sorted(pairs, key=lambda pair: -pair[2])[:_MOST_CONFUSED]


def _names(details: Mapping[str, Any]) -> list[str]:
    """Of the rows of the confusion matrix; a detector's has a last one."""
    rows = details.get("per_class")
    names = [str(row.get("class", number)) for number, row in enumerate(rows)] if isinstance(rows, list) else []
    table = details.get("confusion")
    return [*names, "background"] if isinstance(table, list) and len(table) == len(names) + 1 else names


def _chosen(run: Gathered) -> list[Any]:
    """Evaluations with pictures, from the first to the last, evenly spread."""
    having = [kept for kept in run.evaluations if kept.pictures]
    if len(having) <= _MOST_SHOWN:
        return having
    last = len(having) - 1
    return [having[round(place * last / (_MOST_SHOWN - 1))] for place in range(_MOST_SHOWN)]
