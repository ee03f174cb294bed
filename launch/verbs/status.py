"""phalanx status [RUN | FOLDER] [--sort COLUMN] [--watch [SECONDS]] [--json | --csv]"""

import csv
import json
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from phalanx.configs.errors import ExitCode, printable
from phalanx.dist.storage.run_directory import RunDirectory
from phalanx.launch import run_table
from phalanx.launch.arguments import Parser, positive
from phalanx.slurm.status import status

_FOLDER = Path("runs")
_CLEAR = "\033[H\033[2J\033[3J"


def main(arguments: Sequence[str]) -> int:
    parser = Parser(
        prog="phalanx status",
        description="Shows the state of a run: its job, its step, its last checkpoint. Of a folder, or without an argument of "
        "runs/, all runs in one table: state, step, rate, time left, best value, restarts.",
    )
    parser.add_argument(
        "run", nargs="?", type=Path, default=_FOLDER, metavar="RUN", help="a run directory, or a folder of them"
    )
    parser.add_argument(
        "--sort", choices=list(run_table.ORDERS), default="changed", help="order of the table (default: changed)"
    )
    parser.add_argument("--watch", nargs="?", type=positive, const=5, metavar="SECONDS", help="show it again every 5 seconds")
    how = parser.add_mutually_exclusive_group()
    how.add_argument("--json", action="store_true", help="print JSON")
    how.add_argument("--csv", action="store_true", help="print the table as CSV")
    given = parser.parse_args(arguments)
    while True:
        shown = _shown(given.run, given.sort, given.json, given.csv)
        if given.watch is None:
            print(shown)
            return ExitCode.DONE
        print(f"{_CLEAR if sys.stdout.isatty() else ''}{shown}", flush=True)
        time.sleep(given.watch)


def _shown(path: Path, sort: str, as_json: bool, as_csv: bool) -> str:
    if RunDirectory(path).exists() and not as_csv:
        found = status(RunDirectory(path))
        return json.dumps(found.to_json()) if as_json else printable("\n".join(found.lines()))
    runs = [RunDirectory(path)] if RunDirectory(path).exists() else list(run_table.directories(path))
    by, largest_first = run_table.ORDERS[sort]
    rows = sorted((run_table.row(run, path) for run in runs), key=by, reverse=largest_first)
    if as_json:
        return json.dumps([row.to_json() for row in rows])
    if as_csv:
        return _csv(rows)
    return printable("\n".join(run_table.table(rows))) if rows else f"{path}: there are no runs yet"


def _csv(rows: Sequence[run_table.Row]) -> str:
    import io

    written = io.StringIO()
    csv.writer(written, lineterminator="\n").writerows(run_table.csv_lines(rows))
    return written.getvalue().rstrip("\n")
