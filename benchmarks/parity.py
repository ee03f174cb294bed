"""Every strategy against one process: the same training, or by how much it differs.

    python benchmarks/parity.py --smoke
    python benchmarks/parity.py [--only ddp fsdp ...] [--output docs/parity.md] [--results docs/results/parity.jsonl]

Trains small models by the engine on 1 to 4 real ranks, and by a loop in plain torch on one process. The difference is
max|a - b| / max|b| a tensor, worst tensor, for losses, gradients (the optimizer's moments: after the first step of SGD with
momentum exactly the gradient), weights, and BatchNorm's statistics, after 1, 5 and 20 steps. Prints JSON, a line a cell, and
writes Markdown. It resumes where it was stopped: cells whose line is in the results file are not run again.
`--smoke`: two cells, nothing of it kept.
"""

import argparse
import itertools
import json
import sys
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))
RECIPE = str(ROOT / "configs/recipes/digits_resnet18.yaml")
STEPS = (1, 5, 20)
KINDS = ("loss", "gradients", "weights", "buffers")


class Cell(NamedTuple):
    """One training. `reduce` exact is compared with itself on one rank, to the last bit."""

    strategy: str
    reduce: str
    optimizer: str
    model: str
    sync_bn: str
    micro_batches: int
    ranks: int

    @property
    def dtype(self) -> str:
        return "fp32" if self.strategy.startswith(("zero", FP32_DDP)) or self.reduce == "exact" else "fp64"

    def overrides(self) -> list[str]:
        more = [f"dist.strategy={self.strategy.split()[0]}", f"dist.reduce={self.reduce}", f"dist.precision={self.dtype}"]
        if self.strategy == "hsdp":
            more.append(f"dist.shard_ranks={2 if self.ranks == 4 else 1}")
        return [*more, f"dist.sync_bn={self.sync_bn}"]


MODELS = [
    ("cnn", "off"),
    ("cnn", "all"),
    ("cnn", "2"),
    ("cnn+dropout", "off"),
    ("cnn without norm", "off"),
    ("transformer", "off"),
]
SYNC_BN = ["off", "2", "all"]
FP32_DDP = "ddp (fp32)"  # what rounding in float32 does by itself: a yardstick for ZeRO
STRATEGIES = ["single", "ddp", "fsdp", "hsdp", FP32_DDP, "zero1", "zero2", "zero3"]


def cells() -> Iterator[Cell]:
    for optimizer, strategy in itertools.product(["sgd", "adamw"], STRATEGIES):
        for (model, sync_bn), micro_batches, ranks in itertools.product(MODELS, [4, 8], [1, 2, 3, 4]):
            if strategy != "single" or ranks == 1:
                yield Cell(strategy, "fast", optimizer, model, sync_bn, micro_batches, ranks)
    for strategy, optimizer, model, micro_batches, ranks in itertools.product(
        ["ddp", "fsdp"], ["sgd", "adamw"], ["cnn", "cnn+dropout", "transformer"], [4, 8], [1, 2, 3, 4]
    ):
        for sync_bn in SYNC_BN if strategy == "ddp" and model != "transformer" else ["off"]:
            yield Cell(strategy, "exact", optimizer, model, sync_bn, micro_batches, ranks)


def measure(pool: Any, cell: Cell, steps: tuple[int, ...] = STEPS) -> dict[int, dict[str, Any]]:
    """The differences of a cell after each of some steps."""
    import torch

    from benchmarks import parity_cases as cases

    settings = cases.config(RECIPE, cell.micro_batches, *cell.overrides())
    reports = pool.run(cell.ranks, cases.trained, settings, cell.model, cell.optimizer, steps)
    if cell.reduce == "exact":
        single = cases.config(RECIPE, cell.micro_batches, *cell.overrides(), "dist.strategy=single")
        alone = pool.run(1, cases.trained, single, cell.model, cell.optimizer, steps)
        expected = {step: cases.assembled(alone, step) for step in steps}
    else:
        dtype = {"fp32": torch.float32, "fp64": torch.float64}[cell.dtype]
        expected = cases.by_hand(cell.model, cell.micro_batches, cell.sync_bn, cell.optimizer, dtype, steps)
    return {step: cases.differences(cases.assembled(reports, step), expected[step]) for step in steps}


SMOKE = [Cell("ddp", "fast", "sgd", "cnn", "all", 4, 2), Cell("ddp", "exact", "adamw", "cnn+dropout", "all", 4, 2)]


def _stored(path: Path) -> dict[Cell, dict[str, Any]]:
    if not path.exists():
        return {}
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    return {Cell(**line["cell"]): line["after"] for line in lines}


def _run(results: Path, chosen: Iterable[Cell], pool: Any) -> dict[Cell, dict[str, Any]]:
    from benchmarks.results import commit

    found = _stored(results)
    todo = [cell for cell in chosen if cell not in found]
    with open(results, "a", encoding="utf-8") as file:
        for number, cell in enumerate(todo, 1):
            after = {str(step): figures for step, figures in measure(pool, cell).items()}
            line = json.dumps({"cell": cell._asdict(), "after": after, "commit": commit()})
            print(line, file=file, flush=True)
            print(line, flush=True)
            found[cell] = after
            if sys.stderr.isatty():
                print(f"{number} of {len(todo)}", end="\r", file=sys.stderr)
    return found


def _row(label: str, group: list[dict[str, Any]]) -> str:
    def worst(step: int, kind: str) -> str:
        return f"{max(after[str(step)][kind] for after in group):.0e}"

    columns = [" ".join(worst(step, kind) for step in STEPS) for kind in KINDS]
    return f"| {label} | {len(group)} | " + " | ".join(columns) + " |"


def _table(found: dict[Cell, dict[str, Any]], optimizer: str) -> list[str]:
    lines = [
        "| strategy | format | model | `sync_bn` | cells | loss | gradients | weights | buffers |",
        "| --- | --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    for strategy, (model, sync_bn) in itertools.product(STRATEGIES, MODELS):
        group = {
            cell: after
            for cell, after in found.items()
            if (cell.strategy, cell.reduce, cell.optimizer, cell.model, cell.sync_bn)
            == (strategy, "fast", optimizer, model, sync_bn)
        }
        if group:
            label = f"{strategy} | {next(iter(group)).dtype} | {model} | {sync_bn}"
            lines.append(_row(label, list(group.values())))
    return lines


def _exact_table(found: dict[Cell, dict[str, Any]]) -> list[str]:
    """How many cells are equal to the last bit after each of the steps, by model and `dist.sync_bn`."""
    lines = [
        "| strategy | optimizer | model | `sync_bn=off` | `sync_bn=2` | `sync_bn=all` |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    rows = dict.fromkeys((cell.strategy, cell.optimizer, cell.model) for cell in found)
    for row in rows:
        columns = []
        for sync_bn in SYNC_BN:
            own = [a for c, a in found.items() if (c.strategy, c.optimizer, c.model, c.sync_bn) == (*row, sync_bn)]
            equal = sum(all(figures["bitwise"] for figures in after.values()) for after in own)
            columns.append(f"{equal} of {len(own)}" if own else "")
        lines.append(f"| {' | '.join((*row, *columns))} |")
    return lines


def _markdown(found: dict[Cell, dict[str, Any]]) -> str:
    from benchmarks.results import made_by

    exact = {cell: after for cell, after in found.items() if cell.reduce == "exact"}
    equal = sum(all(figures["bitwise"] for figures in after.values()) for after in exact.values())
    apart = sorted({n.partition("@")[0] for after in found.values() for f in after.values() for n in f["without gradient"]})
    return "\n".join(
        [
            "# Parity: every strategy against one process",
            "",
            made_by("python benchmarks/parity.py", "deepspeed", "accelerate"),
            "",
            "Small models train 20 steps by the engine on 1 to 4 ranks, with 4 and 8 micro-batches per step, and by a loop in "
            "plain torch on one process (`benchmarks/parity_cases.py`). A figure is max|a - b| / max|b| of a tensor, the "
            "worst over all tensors and all numbers of ranks and micro-batches of its row, after 1, 5 and 20 steps. Gradients "
            "are the optimizer's moments, which after the first step of SGD are exactly the gradient. The loss has two parts "
            "with different weights, and ignores labels unevenly. ZeRO runs in float32, where rounding grows from step to "
            "step, and DDP beside it as a yardstick; everything else in float64. `hsdp` replicates across ranks, on 4 in "
            "pairs. Every single cell is in `docs/results/parity.jsonl`.",
            "",
            "## SGD with momentum",
            "",
            *_table(found, "sgd"),
            "",
            "## AdamW",
            "",
            *_table(found, "adamw"),
            "",
            "Not in the tables are parameters without a true gradient (moments below a millionth of the model's largest: "
            f"attention's key bias): {', '.join(f'`{n}`' for n in apart)}. Their "
            "gradient is rounding alone, and AdamW makes steps of it.",
            "",
            "## `dist.reduce=exact`, float32",
            "",
            f"Weights, moments and statistics after 1, 5 and 20 steps equal those of one process to the last bit in {equal} of "
            f"{len(exact)} cells: 4 and 8 micro-batches, each on 1 to 4 ranks. FSDP2 has no `dist.sync_bn` with exact "
            "sums, and the transformer no BatchNorm. Kills and resizes: `tests/launch/test_exact_resume.py`.",
            "",
            *_exact_table(exact),
            "",
        ]
    )


def main(arguments: Sequence[str] | None = None, pool: Any = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="*", default=[], help="strategies to run; the tables hold what there is")
    parser.add_argument("--output", type=Path, default=ROOT / "docs/parity.md")
    parser.add_argument("--results", type=Path, default=ROOT / "docs/results/parity.jsonl")
    parser.add_argument("--smoke", action="store_true", help="two cells, in seconds; nothing of it is kept")
    given = parser.parse_args(arguments)
    from benchmarks.support.rank_pool import pooled

    if given.smoke:
        with tempfile.TemporaryDirectory(prefix="parity-") as folder, pooled(pool, 2) as ranks:
            found = _run(Path(folder) / "lines.jsonl", SMOKE, ranks)
            (Path(folder) / "page.md").write_text(_markdown(found))
        near = found[SMOKE[0]]["1"]
        return 0 if max(near[kind] for kind in KINDS) < 1e-10 and found[SMOKE[1]]["20"]["bitwise"] else 1
    given.results.parent.mkdir(parents=True, exist_ok=True)
    with pooled(pool, 4, timeout_s=120) as ranks:
        found = _run(given.results, [cell for cell in cells() if not given.only or cell.strategy in given.only], ranks)
    given.output.write_text(_markdown(found))
    return 0


if __name__ == "__main__":
    sys.exit(main())
