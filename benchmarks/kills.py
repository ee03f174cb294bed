"""kill -9 at random instants, while a checkpoint is saved every step.

    python benchmarks/kills.py --kills 200 [--output docs/checkpoint_proof.md] [--results docs/results/kills.jsonl]
    python benchmarks/kills.py --smoke

A run on 1 or 2 ranks, its checkpoints written in the background or while training waits, is killed and started again ten
times, all ranks or one of them. A third of the kills fall before the first step of their attempt (joining, building, restoring,
warming up), a sixth in an evaluation, half in a step, a save, or the removal of an older checkpoint. After each kill the
newest valid checkpoint must not be older than the last save that had finished, nothing may be broken under its final name, and
of two ranks the one that was not killed must have ended by itself. Then the run comes to its end, and must be the unbroken run:
the same bits, the same samples, the same metrics.

Prints a summary as JSON, and writes Markdown. It resumes where it was stopped: the results file has a line a kill. Exit code 1
where something was not as it must be; that run's folder is then kept. `--smoke`: three kills of one short run, in seconds.
"""

import argparse
import json
import os
import shutil
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from benchmarks.kill_chain import Mode

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))
TITLE = "kill -9 while saving every step"
SHARES = {"start-up": 2, "evaluation": 1, "training": 3}  # of six kills
Line = dict[str, Any]  # `chain`, `mode`, and what was found after a `kill` or at the `end` of the chain


def _chains(wanted: int, lines: Sequence[Line]) -> "Iterator[tuple[int, Mode]]":
    """Numbers and modes of further chains until there are enough kills; `lines` grows meanwhile."""
    from benchmarks.kill_chain import MODES

    while len(followed(lines)) < wanted:
        kills = Counter(tuple(line["mode"]) for line in followed(lines))
        number = max((line["chain"] for line in lines), default=0) + 1
        yield number, min(MODES, key=lambda mode: kills[tuple(mode)])


def followed(lines: Sequence[Line]) -> list[Line]:
    """The kills of runs that came to their end and were compared; others were cut short with this command."""
    ended = {line["chain"] for line in lines if "end" in line}
    return [line for line in lines if "kill" in line and line["chain"] in ended]


def next_aim(lines: Sequence[Line]) -> str:
    """The part of a run in which too few kills have fallen so far."""
    fell = Counter(line["kill"]["fell"]["part"] for line in lines if "kill" in line)
    return min(SHARES, key=lambda part: fell[part] / SHARES[part])


def _run(results: Path, wanted: int, smoke: bool) -> list[Line]:
    # Before numpy is imported: its threads would be there before ranks are forked.
    os.environ |= {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
    from benchmarks import kill_chain
    from benchmarks.results import Progress, commit
    from phalanx.dist.storage.json_lines import JsonLines, read_lines

    length = (
        kill_chain.Length(steps=6, eval_every=2, kills=3, held_out=0.03, starting=("build", "restore", "warm-up"))
        if smoke
        else kill_chain.Length()
    )
    lines = list(read_lines(results))
    if any("fell" not in line["kill"] for line in lines if "kill" in line):
        sys.exit(f"{results} has kills of an older version of this benchmark. Remove it to begin anew.")
    file = JsonLines(results)
    wanted_now, work = wanted - len(followed(lines)), Path(tempfile.mkdtemp(prefix="kills-"))
    at = commit()
    progress, done = Progress(wanted_now, "kills"), 0
    unbroken: dict[int, Path] = {}

    def tell(line: Line) -> None:
        nonlocal done
        line = {**line, "commit": at}
        lines.append(line)
        file.append(line)
        done += "kill" in line
        progress.tell(done)

    try:
        for number, mode in _chains(wanted, lines):
            if mode.ranks not in unbroken:
                unbroken[mode.ranks] = kill_chain.unbroken(mode.ranks, length, work / f"unbroken-{mode.ranks}")
            chain, aim = {"chain": number, "mode": list(mode)}, partial(next_aim, lines)
            told, folder = partial(_tell_kill, tell, chain), work / f"chain-{number}"
            tell(chain | {"end": kill_chain.run_chain(mode, length, aim, unbroken[mode.ranks], folder, told)})
    finally:
        file.close()
        if all(line["end"]["ok"] for line in lines if "end" in line):
            shutil.rmtree(work)
    return lines


def _tell_kill(tell: Callable[[Line], None], chain: Line, kill: dict[str, Any]) -> None:
    tell(chain | {"kill": kill})


def summary(lines: Sequence[Line]) -> dict[str, Any]:
    """The count, and what was found, over all kills of runs that came to their end."""
    kills = [line["kill"] for line in followed(lines)]
    ends = [line["end"] for line in lines if "end" in line]
    survivors = [kill["survivor_s"] for kill in kills if kill["survivor_s"] is not None]
    return {
        "kills": len(kills),
        "ok": sum(kill["ok"] for kill in kills),
        "before_the_first_step": sum(kill["fell"]["part"] == "start-up" for kill in kills),
        "in_an_evaluation": sum(kill["fell"]["part"] == "evaluation" for kill in kills),
        "during_a_save": sum("saving" in kill["under_way"] for kill in kills),
        "during_a_removal": sum("pruned" in kill["under_way"] for kill in kills),
        "newer_than_the_last_told": sum(kill["newest"] > kill["finished"] for kill in kills),
        "runs": len(ends),
        "runs_equal_to_the_unbroken": sum(end["ok"] for end in ends),
        "survivors": len(survivors),
        "survivors_longest_s": max(survivors, default=0.0),
    }


def _row(label: str, found: dict[str, Any]) -> str:
    runs = f"{found['runs_equal_to_the_unbroken']}/{found['runs']}"
    counts = [
        found["kills"],
        found["ok"],
        found["before_the_first_step"],
        found["in_an_evaluation"],
        found["during_a_save"],
        found["during_a_removal"],
        runs,
    ]
    return f"| {label} | {' | '.join(map(str, counts))} |"


def _stages(lines: Sequence[Line]) -> str:
    """How many kills fell into each stage of the start."""
    fell = [line["kill"]["fell"] for line in followed(lines)]
    counts = Counter(place["stage"] or "starting Python" for place in fell if place["part"] == "start-up")
    return ", ".join(f"{stage} {count}" for stage, count in counts.most_common())


def markdown(lines: Sequence[Line]) -> list[str]:
    """The section of the page."""
    from benchmarks.kill_chain import MODES
    from benchmarks.results import made_by

    found = summary(lines)
    rows = [(mode, [line for line in lines if tuple(line["mode"]) == mode]) for mode in MODES]
    return [
        made_by("python benchmarks/kills.py"),
        "",
        f"**{found['kills']} kills, {found['ok']} as they must be**: the newest intact checkpoint was never older than the "
        "last finished save, and nothing was broken under its final name. "
        f"**{found['runs_equal_to_the_unbroken']} of {found['runs']} runs** ended equal to the unbroken run: every "
        "tensor and scalar of the last checkpoint to the last bit, the same samples in every step of the ledger, none lost or "
        f"repeated, the same metrics. {found['before_the_first_step']} kills fell before the first step of their attempt "
        f"({_stages(lines)}), {found['in_an_evaluation']} into an evaluation; {found['during_a_save']} fell into a save and "
        f"left an unfinished folder under its temporary name, {found['during_a_removal']} into the removal of an older "
        "checkpoint; in "
        f"{found['newer_than_the_last_told']} a checkpoint was complete before the run reported it. Where one of two ranks was "
        f"killed ({found['survivors']} times), the other ended by itself within {found['survivors_longest_s']:.1f} s, and "
        "nothing was left running.",
        "",
        "A ResNet-18 on digits, 90 MB per checkpoint, saves after each of its 40 steps, keeps two, and is evaluated every "
        "five. It is killed ten times, and started again each time. A kill spares "
        "writes that the operating system has already accepted, so this does not show that files and folders are fsynced "
        "before a checkpoint gets its name. Every single kill is in `docs/results/kills.jsonl`.",
        "",
        "| checkpoints written | kills | as they must be | before the first step | in an evaluation | in a save | in a removal "
        "| runs as the unbroken |",
        "| --- | --- | --- | --- | --- | --- | --- | --- |",
        *(_row(str(mode), summary(own)) for mode, own in rows),
        _row("all", found),
    ]


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=200, help="at least so many, those in the results file included")
    parser.add_argument("--output", type=Path, default=ROOT / "docs/checkpoint_proof.md")
    parser.add_argument("--results", type=Path, default=ROOT / "docs/results/kills.jsonl")
    parser.add_argument("--smoke", action="store_true", help="three kills of a short run, nothing of it kept")
    given = parser.parse_args(arguments)
    if given.smoke:
        with tempfile.TemporaryDirectory(prefix="kills-") as folder:
            return _judged(_run(Path(folder, "kills.jsonl"), 1, smoke=True))
    lines = _run(given.results, given.kills, smoke=False)
    from benchmarks.results import put_section

    put_section(given.output, TITLE, markdown(lines))
    return _judged(lines)


def _judged(lines: Sequence[Line]) -> int:
    """Prints what was found; the exit code."""
    found = summary(lines)
    for line in lines:
        if not line.get("kill", line.get("end"))["ok"]:
            print(json.dumps(line), file=sys.stderr)
    print(json.dumps(found))
    return 0 if found["ok"] == found["kills"] and found["runs_equal_to_the_unbroken"] == found["runs"] else 1


if __name__ == "__main__":
    sys.exit(main())
