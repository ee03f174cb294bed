"""phalanx cross-validate CONFIG.yaml [MORE.yaml ...] [key=value ...] [--folds K] [--nproc N]"""

import json
import math
import statistics
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from phalanx.configs.errors import ExitCode, UserError
from phalanx.configs.schema import RunConfig
from phalanx.dist.storage.durable_files import write_atomically
from phalanx.dist.storage.json_lines import read_lines
from phalanx.dist.storage.run_directory import RunDirectory, read_events
from phalanx.launch.arguments import Parser, add_config, add_nproc, positive, recipe

Metrics = Mapping[str, float]


def main(arguments: Sequence[str]) -> int:
    parser = Parser(
        prog="phalanx cross-validate",
        description="k-fold cross-validation: trains one run per fold, one after another, and prints the mean and the standard "
        "deviation of each metric. Started again, it resumes.",
    )
    add_config(parser)
    parser.add_argument("--folds", type=positive, default=5, metavar="K", help="number of folds, at least 2 (default: 5)")
    add_nproc(parser)
    given = parser.parse_intermixed_args(arguments)
    if given.folds < 2:
        raise UserError("--folds 1: one fold leaves nothing to train on. Give at least 2.")
    config = recipe(given.config)
    if config.data.fold is not None or config.data.val_fraction is not None:
        raise UserError("data.fold and data.val_fraction are set for each fold here. Remove them from the recipe.")
    found = list[Metrics]()
    for number in range(1, given.folds + 1):
        own = [f"name={config.name}-fold-{number}", f"data.fold={number}/{given.folds}"]
        run = RunDirectory.of(recipe([*given.config, *own]))
        if not _is_over(run):
            count = [] if given.nproc is None else ["--nproc", str(given.nproc)]
            command = [sys.executable, "-m", "phalanx.launch.main", "train", *given.config, *own, *count]
            code = _to_its_end(command)
            if code != ExitCode.DONE:
                return code if code > 0 else ExitCode.FAILED
        found.append(_last_metrics(run))
    _report(config, found, given.folds)
    return ExitCode.DONE


def _to_its_end(command: Sequence[str]) -> int:
    process = subprocess.Popen(command)
    while True:
        try:
            return process.wait()
        except KeyboardInterrupt:
            continue  # the terminal's Ctrl-C has come to the run too, which saves and ends


def _is_over(run: RunDirectory) -> bool:
    events = read_events(run) if run.exists() else []
    return bool(events) and events[-1]["event"] == "done"


def _last_metrics(run: RunDirectory) -> Metrics:
    """The last evaluation; with `checkpoint.best`, the best one."""
    evaluations = [
        {name: value for name, value in line.items() if name.startswith("val/")}
        for line in read_lines(run.metrics, step=int)
        if any(name.startswith("val/") for name in line)
    ]
    config = run.read_config()
    metric = config.checkpoint.best
    if metric is None:
        return evaluations[-1]
    from phalanx.dist.checkpoint.retention import best_of

    values = {place: line[metric] for place, line in enumerate(evaluations) if metric in line}
    best = best_of(values, metric, config.checkpoint.best_mode)
    return evaluations[-1 if best is None else best]


def _report(config: RunConfig, found: Sequence[Metrics], folds: int) -> None:
    """A table on standard output, and the same as JSON beside the runs."""
    names = [name for name in found[0] if all(isinstance(one.get(name), int | float) for one in found)]
    width = max(map(len, names), default=6)
    print(f"{'metric':{width}}  {'mean':>10} {'deviation':>10}  folds")
    summary = {}
    for name in names:
        values = [float(one[name]) for one in found]
        mean, deviation = statistics.fmean(values), statistics.stdev(values) if all(map(math.isfinite, values)) else math.nan
        summary[name] = {"mean": mean, "deviation": deviation, "folds": values}
        print(f"{name:{width}}  {mean:10.4f} {deviation:10.4f}  {' '.join(f'{value:.4f}' for value in values)}")
    path = Path(config.runs) / f"{config.name}-folds.json"
    write_atomically(path, json.dumps({"folds": folds, "metrics": summary}, indent=1) + "\n")
    print(path)
