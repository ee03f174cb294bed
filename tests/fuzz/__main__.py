"""Fuzzes for as long as one likes.

    python -m tests.fuzz --minutes 60 [--only yaml,coco] [--seed 1] [--folder build/fuzz]
    python -m tests.fuzz --replay build/fuzz/NAME.json

Round after round, each with the next seed, goes through all targets. The shortest input of each kind of finding is written to
the folder as soon as it is met; counts are kept there too, and a second call adds to them. Exit code 1 where there is one.
"""

import argparse
import hashlib
import json
import os
import re
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.fuzz.case import Case
from tests.fuzz.law import Answer

INPUTS = 100  # of a target a round


@dataclass
class State:
    """What was tried so far; it lies in the folder as `state.json`."""

    folder: Path
    seed: int
    rounds: int = 0
    seconds: float = 0.0
    counts: dict[str, dict[str, Any]] = field(default_factory=dict)

    @classmethod
    def found(cls, folder: Path, seed: int) -> "State":
        """The state in a folder, where it is of the same seed."""
        file = folder / "state.json"
        told = json.loads(file.read_text()) if file.exists() else {}
        return cls(folder, **told) if told.get("seed") == seed else cls(folder, seed)

    def save(self) -> None:
        told = {"seed": self.seed, "rounds": self.rounds, "seconds": self.seconds, "counts": self.counts}
        (self.folder / "state.new").write_text(json.dumps(told, indent=1))
        (self.folder / "state.new").rename(self.folder / "state.json")

    def keep(self, case: Case, answer: Answer) -> None:
        """Writes an input, unless a shorter one of its kind is there."""
        name = re.sub(r"[^A-Za-z0-9]+", "-", answer.kind)[:60].strip("-")
        sum_ = hashlib.sha256(answer.kind.encode()).hexdigest()[:6]
        file = self.folder / f"{case.target}-{name}-{sum_}.json"
        if file.exists() and len(json.loads(file.read_text())["case"]) <= len(case.dumps()):
            return
        file.write_text(json.dumps({"kind": answer.kind, "said": answer.said, "case": case.dumps()}, indent=1))


def _fuzz(given: argparse.Namespace) -> int:
    from tests.fuzz import rounds
    from tests.fuzz.targets import TARGETS
    from tests.fuzz.worker import Worker

    chosen = given.only.split(",") if given.only else list(TARGETS)
    if unknown := [name for name in chosen if name not in TARGETS]:
        sys.exit(f"there is no target {unknown[0]}; there are {', '.join(TARGETS)}")
    given.folder.mkdir(parents=True, exist_ok=True)
    state, worker = State.found(given.folder, given.seed), Worker()
    begun = told = time.monotonic()
    before = state.seconds
    try:
        while time.monotonic() - begun < given.minutes * 60:
            for name in chosen:
                count = rounds.Count()
                rounds.run(TARGETS[name], given.seed * 1_000_003 + state.rounds, INPUTS, worker.ask, count)
                known = state.counts.setdefault(name, {"inputs": 0, "accepted": 0, "refused": 0, "findings": 0, "kinds": {}})
                for what in ("inputs", "accepted", "refused", "findings"):
                    known[what] += getattr(count, what)
                for kind, times in count.kinds.items():
                    if kind not in known["kinds"]:
                        print(f"\n{name}: {kind}", flush=True)
                    known["kinds"][kind] = known["kinds"].get(kind, 0) + times
                    state.keep(*count.first[kind])
                state.seconds = before + time.monotonic() - begun
                if sys.stdout.isatty() or time.monotonic() - told > 30:
                    told = time.monotonic()
                    print(_progress(state, begun, given.minutes), end="\r" if sys.stdout.isatty() else "\n", flush=True)
                if time.monotonic() - begun > given.minutes * 60:
                    break
            state.rounds += 1
            state.save()
    except KeyboardInterrupt:
        print()
    finally:
        state.save()
        worker.close()
    print("\n".join(table(state)))
    return int(any(count["findings"] for count in state.counts.values()))


def _progress(state: State, begun: float, minutes: float) -> str:
    inputs, findings = (sum(count[what] for count in state.counts.values()) for what in ("inputs", "findings"))
    left = max(0.0, minutes - (time.monotonic() - begun) / 60)
    return f"{inputs} inputs, {findings} findings, {left:.1f} minutes left"


def table(state: State) -> list[str]:
    """What was tried, in Markdown."""
    from tests.fuzz.targets import TARGETS

    rows = ["| target | what is tried | inputs | accepted | refused | findings |", "| --- | --- | --- | --- | --- | --- |"]
    whole = {"inputs": 0, "accepted": 0, "refused": 0, "findings": 0}
    for name, count in state.counts.items():
        figures = [count[what] for what in whole]
        rows.append(f"| {name} | {TARGETS[name].meaning} | {' | '.join(f'{n:,}' for n in figures)} |")
        whole = {what: whole[what] + count[what] for what in whole}
    return [*rows, f"| all | | {' | '.join(f'{n:,}' for n in whole.values())} |"]


def _replay(file: Path) -> int:
    from tests.fuzz.worker import Worker

    told = json.loads(file.read_text())
    worker = Worker()
    answer = worker.ask(Case.loads(told["case"]))
    worker.close()
    print(f"{answer.outcome} {answer.kind}\n{answer.said}")
    return int(answer.outcome == "finding")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=60, help="how long (default: 60)")
    parser.add_argument("--only", metavar="NAMES", help="targets, parted by commas (default: all)")
    parser.add_argument("--seed", type=int, default=1, help="of the first round (default: 1)")
    parser.add_argument("--folder", type=Path, default=Path("build/fuzz"), help="for findings and counts (default: build/fuzz)")
    parser.add_argument("--replay", type=Path, metavar="FILE", help="try one input again")
    given = parser.parse_args()
    os.environ.setdefault("HYPOTHESIS_STORAGE_DIRECTORY", str(given.folder / "hypothesis"))
    return _replay(given.replay) if given.replay else _fuzz(given)


if __name__ == "__main__":
    sys.exit(main())
