"""phalanx checkpoint ls RUN [--json]"""

import json
import sys
from collections.abc import Sequence
from typing import Any

from phalanx.configs.errors import UserError, printable
from phalanx.dist.checkpoint.manifest import scalars_to_json
from phalanx.dist.checkpoint.tools import choose
from phalanx.dist.checkpoint.tools.listing import ListedCheckpoint, listed
from phalanx.dist.storage.run_directory import RunDirectory
from phalanx.launch.arguments import Parser


def main(arguments: Sequence[str]) -> int:
    parser = Parser(prog="phalanx checkpoint ls", description="Lists the checkpoints of a run.")
    parser.add_argument("run", metavar="RUN", help="the run directory")
    parser.add_argument("--json", action="store_true", help="print JSON")
    given = parser.parse_intermixed_args(arguments)
    run = choose.run_at(given.run)
    metric, mode = _best(run)
    found = listed(run.checkpoints, metric, mode)
    if given.json:
        print(json.dumps([_as_dict(one) for one in found], indent=1, allow_nan=False))
    elif found:
        print(printable("\n".join(_table(found, metric))))
    else:
        print(f"{run.path} has no checkpoint yet")
    return 0


def _best(run: RunDirectory) -> tuple[str | None, str]:
    """checkpoint.best and checkpoint.best_mode; a broken configuration hides no checkpoint."""
    try:
        settings = run.read_config().checkpoint
    except UserError as error:
        print(f"phalanx: {str(error).splitlines()[0]}", file=sys.stderr)
        return None, "auto"
    return settings.best, settings.best_mode


def _as_dict(one: ListedCheckpoint) -> dict[str, Any]:
    if one.manifest is None:
        return {"step": one.step, "intact": False, "problem": one.problem}
    stored = one.manifest
    facts = {"samples": stored.samples, "world_size": stored.world_size, "strategy": stored.strategy, "bytes": stored.bytes}
    return {"step": one.step, "intact": True} | facts | {"metrics": scalars_to_json(stored.metrics), "best": one.best}


def _table(found: Sequence[ListedCheckpoint], metric: str | None) -> list[str]:
    """Aligned columns: numbers to the right, one column per metric; only the reason for a broken one."""
    names = list(dict.fromkeys(name for one in found if one.manifest for name in one.manifest.metrics))
    rows = [["step", "size", "ranks", "strategy", "samples", *names, ""]]
    for one in found:
        if one.manifest is not None:
            rows.append(_row(one, names, metric))
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    widths[0] = max(widths[0], *(len(str(one.step)) for one in found))
    lines = ["  ".join(cell.rjust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
    valid = iter(lines[1:])
    return [lines[0]] + [
        next(valid) if one.manifest else f"{str(one.step).rjust(widths[0])}  broken: {one.problem}" for one in found
    ]


def _row(one: ListedCheckpoint, names: Sequence[str], metric: str | None) -> list[str]:
    stored = one.manifest
    assert stored is not None
    metrics = [f"{stored.metrics[name]:.4f}" if name in stored.metrics else "-" for name in names]
    mark = f"best {metric}" if one.best else ""
    size = f"{stored.bytes / 1e6:.1f} MB"
    return [str(one.step), size, str(stored.world_size), stored.strategy, str(stored.samples), *metrics, mark]
