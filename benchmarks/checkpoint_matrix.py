"""Checkpoints of every strategy on 1 to 4 ranks, read under every strategy on 1 to 4 ranks.

    python benchmarks/checkpoint_matrix.py --smoke
    python benchmarks/checkpoint_matrix.py [--optimizers sgd adamw] [--output docs/checkpoint_proof.md] [--results FILE.jsonl]

A small model trains two steps and saves. After reading, parameters, buffers, BatchNorm's statistics of every micro-batch,
the optimizer's state and its scalars must be the same bits as when they were saved; then two more steps must be those of the
run that saved, and of a loop in plain torch on one process. Prints JSON, a line a pair, and writes Markdown. It resumes where
it was stopped: pairs whose line is in the results file are not run again. Exit code 1 where a pair fails. `--smoke`: one
pair, nothing of it kept.
"""

import argparse
import itertools
import math
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))
RECIPE = str(ROOT / "configs/recipes/digits_resnet18.yaml")
TITLE = "Every strategy on 1 to 4 ranks, read under every strategy on 1 to 4 ranks"
EXACT = "ddp exact"
STRATEGIES = ["single", "ddp", EXACT, "fsdp", "hsdp", "zero1", "zero2", "zero3"]
SHARD_RANKS = {1: 1, 2: 1, 3: 3, 4: 2}  # hsdp: copies alone, shards alone, and both
_NO_FOLDERS = str.maketrans(" /", "--")
ALLOWED = {"fp64": 1e-10, "fp32": 1e-5}  # as docs/parity.md: rounding of so few steps
FAR = sys.float_info.max  # JSON has no infinity
NOTHING_HOLDS = {"tensors": False, "scalars": False, "weights": False, "unbroken": FAR, "same_bits": False, "by_hand": FAR}


class Side(NamedTuple):
    """Who writes or reads."""

    strategy: str
    ranks: int

    def overrides(self, precision: str) -> list[str]:
        reduce = "exact" if self.strategy == EXACT else "fast"
        more = [f"dist.strategy={self.strategy.split()[0]}", f"dist.reduce={reduce}", f"dist.precision={precision}"]
        return [*more, f"dist.shard_ranks={SHARD_RANKS[self.ranks]}"] if self.strategy == "hsdp" else more


class Pair(NamedTuple):
    """One checkpoint, and one who reads it. Float64, but for ZeRO, which has only float32."""

    optimizer: str
    wrote: str
    wrote_on: int
    reads: str
    reads_on: int

    @property
    def writer(self) -> Side:
        return Side(self.wrote, self.wrote_on)

    @property
    def reader(self) -> Side:
        return Side(self.reads, self.reads_on)

    @property
    def precision(self) -> str:
        return "fp32" if "zero" in self.wrote + self.reads else "fp64"


def pairs(optimizers: Sequence[str]) -> Iterator[Pair]:
    sides = [(s, r) for s, r in itertools.product(STRATEGIES, (1, 2, 3, 4)) if s != "single" or r == 1]
    for optimizer, (wrote, wrote_on), (reads, reads_on) in itertools.product(optimizers, sides, sides):
        yield Pair(optimizer, wrote, wrote_on, reads, reads_on)


class Saved(NamedTuple):
    """A checkpoint, and what the ranks that wrote it reported after the step that was saved and after the last."""

    folder: Path
    reports: list[dict[int, dict[str, Any]]]


class Matrix:
    """Runs pairs; a checkpoint is written once, and read by everybody.

    Args:
        pool: of processes that become ranks.
        folder: for the checkpoints.
    """

    def __init__(self, pool: Any, folder: Path):
        self._pool, self._folder = pool, folder
        self._saved: dict[tuple[str, str, Side], Saved] = {}
        self._by_hand: dict[tuple[str, str], tuple[float, Any]] = {}

    def measure(self, pair: Pair) -> dict[str, Any]:
        """What is equal, and by how much the rest differs.

        Returns:
            `tensors`, `scalars`, `weights`: whether the bits are those that were saved: of all tensors; of the scalars; of
            the weights that the forward uses. `unbroken`: how far the last step is from the run that saved, and `same_bits`;
            `by_hand`: from plain torch on one process. `problem`: why nothing could be compared. `ok`: all as it must be.

        Raises:
            AssertionError: where a rank fails or hangs.
        """
        from benchmarks import checkpoint_cases as ranks
        from benchmarks import parity_cases as cases

        saved = self._checkpoint(pair)
        settings = cases.config(RECIPE, ranks.MICRO_BATCHES, *pair.reader.overrides(pair.precision))
        read = self._pool.run(pair.reads_on, ranks.resumed, settings, pair.optimizer, saved.folder)
        try:
            figures = self._compared(pair, saved, read)
        except AssertionError as error:  # ranks that differ from each other
            return NOTHING_HOLDS | {"problem": str(error), "ok": False}
        within = max(figures["unbroken"], figures["by_hand"]) <= ALLOWED[pair.precision]
        return figures | {"ok": figures["tensors"] and figures["scalars"] and figures["weights"] and within}

    def _compared(self, pair: Pair, saved: Saved, read: list[dict[int, dict[str, Any]]]) -> dict[str, Any]:
        from benchmarks import checkpoint_cases as ranks
        from benchmarks import parity_cases as cases

        (_, before), unbroken = (cases.assembled(saved.reports, step) for step in (ranks.SAVED_AT, ranks.ENDS_AT))
        (_, loaded), ended = (cases.assembled(read, step) for step in (ranks.SAVED_AT, ranks.ENDS_AT))
        everyone = [report[ranks.SAVED_AT] for report in read]
        scalars = saved.reports[0][ranks.SAVED_AT]["scalars"]
        from_run = cases.differences(ended, unbroken)
        # Written by hand, the model has no further buffer.
        own = ended[0], {name: tensor for name, tensor in ended[1].items() if name != ranks.BUFFER}
        return {
            "tensors": _same_bits(loaded, before),
            "scalars": all(report["scalars"] == scalars for report in everyone),
            "weights": all(_same_bits(r["weights"], {n: before[n] for n in r["weights"]}) for r in everyone),
            "unbroken": _worst(from_run),
            "same_bits": from_run["bitwise"],
            "by_hand": _worst(cases.differences(own, self._expected(pair))),
        }

    def _checkpoint(self, pair: Pair) -> Saved:
        from benchmarks import checkpoint_cases as ranks
        from benchmarks import parity_cases as cases

        key = pair.optimizer, pair.precision, pair.writer
        if key not in self._saved:
            settings = cases.config(RECIPE, ranks.MICRO_BATCHES, *pair.writer.overrides(pair.precision))
            folder = self._folder / "-".join([*key[:2], pair.wrote, str(pair.wrote_on)]).translate(_NO_FOLDERS)
            folder.mkdir()
            reports = self._pool.run(pair.wrote_on, ranks.saved, settings, pair.optimizer, folder)
            self._saved[key] = Saved(folder, reports)
        return self._saved[key]

    def _expected(self, pair: Pair) -> tuple[float, Any]:
        import torch

        from benchmarks import checkpoint_cases as ranks
        from benchmarks import parity_cases as cases

        key = pair.optimizer, pair.precision
        if key not in self._by_hand:
            dtype = {"fp32": torch.float32, "fp64": torch.float64}[pair.precision]
            steps = (ranks.ENDS_AT,)
            trained = cases.by_hand(ranks.MODEL, ranks.MICRO_BATCHES, "off", pair.optimizer, dtype, steps)
            self._by_hand[key] = trained[ranks.ENDS_AT]
        return self._by_hand[key]


def _same_bits(a: Mapping[str, Any], b: Mapping[str, Any]) -> bool:
    return a.keys() == b.keys() and all(a[name].tobytes() == b[name].tobytes() for name in b)


def _worst(differences: Mapping[str, Any]) -> float:
    worst = max(differences[kind] for kind in ("loss", "gradients", "weights", "buffers"))
    return float(worst) if math.isfinite(worst) else FAR


def _run(results: Path, every: Sequence[Pair], pool: Any) -> dict[Pair, dict[str, Any]]:
    from benchmarks.results import measure_all

    with tempfile.TemporaryDirectory() as folder:
        matrix = Matrix(pool, Path(folder))
        return measure_all(results, every, matrix.measure, "pair", lambda pair: pair._asdict(), lambda told: Pair(**told))


def _cell(group: Sequence[Mapping[str, Any]]) -> str:
    """Pairs that hold, of how many; the largest difference from the run that saved."""
    if not group:
        return "-"
    return f"{sum(figures['ok'] for figures in group)}/{len(group)} {max(figures['unbroken'] for figures in group):.0e}"


def _table(found: Mapping[Pair, Mapping[str, Any]], optimizer: str) -> list[str]:
    lines = [f"| written, read under | {' | '.join(STRATEGIES)} |", f"| {' | '.join(['---'] * (len(STRATEGIES) + 1))} |"]
    for wrote in STRATEGIES:
        groups = [
            [f for pair, f in found.items() if (pair.optimizer, pair.wrote, pair.reads) == (optimizer, wrote, reads)]
            for reads in STRATEGIES
        ]
        lines.append(f"| {wrote} | {' | '.join(map(_cell, groups))} |")
    return lines


def _summary(found: Mapping[Pair, Mapping[str, Any]]) -> list[str]:
    exact = [f for p, f in found.items() if p.wrote == p.reads == EXACT]
    alike = [f for p, f in found.items() if p.writer == p.reader]
    worst = {
        (precision, kind): max((f[kind] for p, f in found.items() if p.precision == precision), default=0.0)
        for precision in ALLOWED
        for kind in ("unbroken", "by_hand")
    }
    bits = sum(f["tensors"] and f["scalars"] and f["weights"] for f in found.values())
    return [
        f"All tensors, all scalars and the weights that the forward uses are the same bits after reading in **{bits} of "
        f"{len(found)} pairs**; {sum(f['ok'] for f in found.values())} hold in everything.",
        "",
        f"Two steps later, the largest difference from the run that saved, and from plain torch on one process: "
        f"{worst['fp64', 'unbroken']:.0e} and {worst['fp64', 'by_hand']:.0e} in float64, "
        f"{worst['fp32', 'unbroken']:.0e} and {worst['fp32', 'by_hand']:.0e} in float32. The same strategy on as many ranks "
        f"continues to the last bit in {sum(f['same_bits'] for f in alike)} of {len(alike)} pairs, exact sums on any number of "
        f"ranks in {sum(f['same_bits'] for f in exact)} of {len(exact)}.",
    ]


def markdown(found: Mapping[Pair, Mapping[str, Any]]) -> list[str]:
    """The section of the page."""
    from benchmarks.results import made_by

    lines = [
        made_by("python benchmarks/checkpoint_matrix.py", "deepspeed", "accelerate"),
        "",
        *_summary(found),
        "",
        "A small CNN with BatchNorm and a buffer of its own trains two steps, four micro-batches each, and saves; the reader's "
        "engine holds NaN before it reads. Compared are parameters, buffers, BatchNorm's statistics of every micro-batch and "
        "the optimizer's state as full tensors, assembled from the ranges that all ranks hold. A cell is: pairs that hold, "
        "of how many there are (each number of ranks from 1 to 4 on either side; `single` has one rank), and "
        "max|a - b| / max|b|, worst tensor and pair, after two more steps. Pairs with ZeRO are in float32, all others in "
        "float64; `ddp exact` is `dist.reduce=exact`; `hsdp` has 1, 1, 3 and 2 ranks that share a copy. SGD's checkpoints are "
        "written while training waits, one file per rank; AdamW's in the background while it continues, in one file, because "
        "they are small. Every single pair is in `docs/results/checkpoint_matrix.jsonl`.",
    ]
    for optimizer, words in (("sgd", "SGD with momentum"), ("adamw", "AdamW")):
        if any(pair.optimizer == optimizer for pair in found):
            lines += ["", f"### {words}", "", *_table(found, optimizer)]
    return lines


def main(arguments: Sequence[str] | None = None, pool: Any = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--optimizers", nargs="+", default=["sgd", "adamw"], choices=["sgd", "adamw"])
    parser.add_argument("--output", type=Path, default=ROOT / "docs/checkpoint_proof.md")
    parser.add_argument("--results", type=Path, default=ROOT / "docs/results/checkpoint_matrix.jsonl")
    parser.add_argument("--smoke", action="store_true", help="one pair, in seconds; nothing of it is kept")
    given = parser.parse_args(arguments)
    from benchmarks.results import put_section
    from benchmarks.support.rank_pool import pooled

    if given.smoke:
        with tempfile.TemporaryDirectory(prefix="matrix-") as folder, pooled(pool, 3) as ranks:
            found = _run(Path(folder) / "lines.jsonl", [Pair("sgd", "ddp", 2, "fsdp", 3)], ranks)
            put_section(Path(folder) / "page.md", TITLE, markdown(found))
    else:
        with pooled(pool, 4, timeout_s=120) as ranks:
            found = _run(given.results, list(pairs(given.optimizers)), ranks)
        put_section(given.output, TITLE, markdown(found))
    return 0 if all(figures["ok"] for figures in found.values()) else 1


if __name__ == "__main__":
    sys.exit(main())
