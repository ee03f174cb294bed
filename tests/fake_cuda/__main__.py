"""Runs cases on the pretended device.

    python -m tests.fake_cuda [NETWORK ...]                 the cases of the tests, of some networks or all
    python -m tests.fake_cuda --all --results FILE.jsonl    every network x precision x memory format
    python -m tests.fake_cuda --renew                       the cases of the tests, whose counts of host waits are written down

A line per case on the terminal, and in FILE as JSON; a command that was stopped resumes with the next case, and runs again what
had failed. `--page` writes docs/fake_cuda.md from FILE. Exit code 1 if a case is wrong.
"""

import argparse
import json
import os
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.results import measure_all
from benchmarks.support.fake_cuda.cases import ALL, CHOSEN, Case, named
from phalanx.dist.storage.json_lines import read_lines
from tests.fake_cuda import counts, page
from tests.fake_cuda.asking import Worker
from tests.fake_cuda.running import judge, measure


def _forget_failures(results: Path) -> None:
    """Leaves out the lines of cases that are wrong, so that they are run again."""
    lines = list(read_lines(results))
    kept = [line for line in lines if not judge(line["found"])]
    if len(kept) < len(lines):
        new = results.with_suffix(".new")
        new.write_text("".join(json.dumps(line) + "\n" for line in kept))
        os.replace(new, results)


def _run(cases: Sequence[Case], results: Path) -> dict[Case, dict[str, Any]]:
    _forget_failures(results)
    worker = Worker()
    try:
        return measure_all(results, cases, lambda case: measure(worker, case), "case", to_line=str, from_line=named)
    finally:
        worker.close()


def _report(found: Mapping[Case, Mapping[str, Any]]) -> int:
    wrong = {case: reasons for case, one in found.items() if (reasons := judge(one))}
    for case, reasons in wrong.items():
        print(f"{case}: {'; '.join(reasons)}", file=sys.stderr)
    print(f"{len(found) - len(wrong)} of {len(found)} cases are right", file=sys.stderr)
    return int(bool(wrong))


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("networks", nargs="*", help="only these, such as yolov8")
    parser.add_argument("--all", action="store_true", help="every precision and memory format")
    parser.add_argument("--results", type=Path, help="file of results, which are added to those in it")
    parser.add_argument("--renew", action="store_true", help=f"write {counts.FILE.name}")
    parser.add_argument("--page", action="store_true", help="write docs/fake_cuda.md")
    given = parser.parse_args(arguments)
    cases = [case for case in (ALL if given.all else CHOSEN) if not given.networks or case.network in given.networks]
    with tempfile.TemporaryDirectory() as folder:
        results = given.results or Path(folder) / "results.jsonl"
        results.touch()
        found = _run(cases, results)
    if given.renew:
        counts.renew(found, CHOSEN)
    if given.page:
        page.write(found)
    return _report({case: found[case] for case in cases})


if __name__ == "__main__":
    sys.exit(main())
