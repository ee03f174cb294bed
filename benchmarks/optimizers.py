"""Every optimizer under every strategy: torch's or timm's own in one process, resumed, and read under another strategy.

    python benchmarks/optimizers.py --smoke
    python benchmarks/optimizers.py [--only NAME ...] [--output docs/optimizers.md] [--results docs/results/optimizers.jsonl]

As `checkpoint_matrix.py`: a small model trains two steps, saves, and trains two more. It is read under the same strategy, where
the two steps must be the same bits, and by DDP on three ranks, where they must be the same to rounding; both are compared with
a loop in plain torch on one process. With exact sums, DDP on 1, 2 and 3 ranks and FSDP2 on 2 must be the same bits. A
combination that is refused must be so before the first step. Prints JSON, a line a cell, and writes Markdown. It resumes where
it was stopped. Exit code 1 where a cell fails. `--smoke`: two cells, nothing of it kept.
"""

import argparse
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))
STRATEGIES = {"single": 1, "ddp": 2, "fsdp": 2, "zero1": 2, "zero3": 2}
EXACT = "exact"


class Cell(NamedTuple):
    """An optimizer under a strategy, or with exact sums."""

    optimizer: str
    way: str


def cells(names: Sequence[str]) -> Iterator[Cell]:
    for name in names:
        yield from (Cell(name, way) for way in (*STRATEGIES, EXACT))


class Measurement:
    """Runs cells.

    Args:
        pool: of processes that become ranks.
        folder: for the checkpoints.
    """

    def __init__(self, pool: Any, folder: Path):
        from benchmarks.checkpoint_matrix import Matrix

        self._pool, self._matrix = pool, Matrix(pool, folder)

    def measure(self, cell: Cell) -> dict[str, Any]:
        """`ok`, and `refused`: the sentence; or what is equal and by how much the rest differs."""
        from benchmarks.optimizer_cases import refusal

        if cell.way == EXACT:
            return self._exact(cell.optimizer)
        if (sentence := refusal(cell.optimizer, f"dist.strategy={cell.way}")) is not None:
            return {"ok": True, "refused": sentence}
        return self._resumed(cell.optimizer, cell.way, STRATEGIES[cell.way])

    def _resumed(self, optimizer: str, strategy: str, ranks: int) -> dict[str, Any]:
        from benchmarks.checkpoint_matrix import Pair
        from benchmarks.optimizer_cases import allowed

        own = self._matrix.measure(Pair(optimizer, strategy, ranks, strategy, ranks))
        crossed = self._matrix.measure(Pair(optimizer, strategy, ranks, "ddp", 3))
        precision = "fp32" if "zero" in strategy else "fp64"
        held = own["tensors"] and own["scalars"] and own["same_bits"] and crossed["tensors"] and crossed["scalars"]
        far = max(own["by_hand"], crossed["unbroken"], crossed["by_hand"])
        return {
            "ok": held and far <= allowed(optimizer, precision),
            "by_hand": own["by_hand"],
            "resumed": own["same_bits"],
            "crossed": crossed["unbroken"],
            "state": own["tensors"] and own["scalars"] and crossed["tensors"] and crossed["scalars"],
        }

    def _exact(self, optimizer: str) -> dict[str, Any]:
        from benchmarks import parity_cases as cases
        from benchmarks.optimizer_cases import refusal

        trained = {}
        sharded = refusal(optimizer, "dist.strategy=fsdp", "dist.reduce=exact")
        ways = [("single", 1), ("ddp", 2), ("ddp", 3), *([] if sharded else [("fsdp", 2)])]
        for strategy, ranks in ways:
            settings = cases.config(cases.RECIPE, 4, f"dist.strategy={strategy}", "dist.reduce=exact")
            reports = self._pool.run(ranks, cases.trained, settings, "cnn", optimizer, (4,))
            trained[strategy, ranks] = cases.assembled(reports, 4)
        first, *others = trained.values()
        same = all(cases.differences(other, first)["bitwise"] and other[0] == first[0] for other in others)
        return {"ok": same, "same_bits": same, "ranks": [1, 2, 3], "sharded": sharded or "the same bits"}


SMOKE = [Cell("nadam", "zero1"), Cell("timm/lamb", "zero1")]


def _run(results: Path, every: Sequence[Cell], pool: Any) -> dict[Cell, dict[str, Any]]:
    from benchmarks.results import measure_all

    with tempfile.TemporaryDirectory() as folder:
        measured = Measurement(pool, Path(folder))
        return measure_all(results, every, measured.measure, "cell", lambda cell: cell._asdict(), lambda told: Cell(**told))


def _shown(way: str, figures: Mapping[str, Any] | None) -> str:
    if figures is None:
        return "not run yet"
    if "refused" in figures:
        return "refused"
    if way == EXACT:
        sharded = "" if figures["sharded"] == "the same bits" else ", not sharded"
        return f"same bits{sharded}" if figures["ok"] else "**differs**"
    return f"{figures['by_hand']:.0e} {figures['crossed']:.0e}" if figures["ok"] else "**fails**"


def markdown(found: Mapping[Cell, Mapping[str, Any]], names: Sequence[str]) -> str:
    """The page."""
    from benchmarks.results import made_by
    from phalanx.configs.optimizer_table import spec_of
    from phalanx.configs.sections.optim import OptimConfig

    held = sum(figures["ok"] for figures in found.values())
    lines = [
        "# Every optimizer under every strategy",
        "",
        made_by("python benchmarks/optimizers.py", "deepspeed", "accelerate", "timm"),
        "",
        f"**{held} of {len(found)} cells hold.** Each optimizer trains a small CNN with BatchNorm for four steps. The first "
        "figure is how far weights, state and statistics are from torch's or timm's own class in a plain loop on one process: "
        "max|a - b| / max|b| of the worst tensor. The second is how far the last two steps are from the unbroken run when its "
        "checkpoint is read by DDP on three ranks. Resumed on the same ranks, every cell is the same to the last bit. ZeRO "
        "runs in float32, all else in float64. `exact`: `dist.reduce=exact` on 1, 2 and 3 ranks, and under FSDP2, has the "
        'same bits; "not sharded" where FSDP2 is refused.',
        "",
        f"| `optim.name` | element-wise | {' | '.join((*STRATEGIES, EXACT))} |",
        f"| --- | --- | {' | '.join(['---'] * (len(STRATEGIES) + 1))} |",
    ]
    for name in names:
        wise = "yes" if spec_of(OptimConfig(name=name, lr=1.0)).element_wise else "no"
        shown = (_shown(way, found.get(Cell(name, way))) for way in (*STRATEGIES, EXACT))
        lines.append(f"| `{name}` | {wise} | {' | '.join(shown)} |")
    refused = {figures["refused"] for figures in found.values() if "refused" in figures}
    lines += ["", "What is refused, before the first step:", "", *(f"- {sentence}" for sentence in sorted(refused)), ""]
    return "\n".join(lines)


def main(arguments: Sequence[str] | None = None, pool: Any = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", metavar="NAME", help="some of the optimizers")
    parser.add_argument("--output", type=Path, default=ROOT / "docs/optimizers.md")
    parser.add_argument("--results", type=Path, default=ROOT / "docs/results/optimizers.jsonl")
    parser.add_argument("--smoke", action="store_true", help="two cells, in seconds; nothing of it is kept")
    given = parser.parse_args(arguments)
    from benchmarks.optimizer_cases import NAMES
    from benchmarks.support.rank_pool import pooled

    with pooled(pool, 3, timeout_s=120) as ranks:
        if given.smoke:
            with tempfile.TemporaryDirectory(prefix="optimizers-") as folder:
                found = _run(Path(folder) / "lines.jsonl", SMOKE, ranks)
                markdown(found, NAMES)
        else:
            names = given.only or NAMES
            given.results.parent.mkdir(parents=True, exist_ok=True)
            found = _run(given.results, list(cells(names)), ranks)
            given.output.write_text(markdown(found, NAMES))
    return 0 if all(figures["ok"] for figures in found.values()) else 1


if __name__ == "__main__":
    sys.exit(main())
