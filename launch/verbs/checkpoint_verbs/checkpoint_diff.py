"""phalanx checkpoint diff A B [--tolerance X] [--json]"""

import argparse
import json
import math
import sys
from collections.abc import Sequence
from typing import Any

from phalanx.configs.errors import ExitCode, UserError
from phalanx.dist.checkpoint.manifest import BrokenCheckpoint, scalars_to_json
from phalanx.dist.checkpoint.tools import choose
from phalanx.dist.checkpoint.tools.compare import Comparison, compare
from phalanx.dist.checkpoint.tools.sources import open_both
from phalanx.launch.arguments import Parser

_MEANING = "a checkpoint's folder, a run directory (its newest), RUN@STEP, or a .safetensors file"


def main(arguments: Sequence[str]) -> int:
    parser = Parser(
        prog="phalanx checkpoint diff", description="Shows how two checkpoints differ. The exit code is 1 if they do."
    )
    parser.add_argument("a", metavar="A", help=_MEANING)
    parser.add_argument("b", metavar="B", help="likewise")
    parser.add_argument(
        "--tolerance",
        type=_tolerance,
        metavar="X",
        help="max|a-b| / max|b| up to which a tensor counts as equal (default: none)",
    )
    parser.add_argument("--json", action="store_true", help="print JSON")
    given = parser.parse_intermixed_args(arguments)
    chosen = [choose.any_of(text) for text in (given.a, given.b)]
    for one in chosen:
        for step, problem in one.skipped:
            print(f"phalanx: the checkpoint of step {step} was skipped: {problem}", file=sys.stderr)
    try:
        with open_both(chosen[0].path, chosen[1].path) as (a, b):
            found = compare(a, b, given.tolerance)
    except BrokenCheckpoint as broken:
        raise UserError(f"{given.a} and {given.b} cannot be compared: {broken}. Choose another checkpoint.") from None
    if given.json:
        print(json.dumps(_as_dict(found), indent=1, allow_nan=False))
    else:
        print("\n".join(_table(found, given.tolerance)))
    return ExitCode.DONE if found.equal else ExitCode.FAILED


def _tolerance(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0 <= value < math.inf:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of at least zero")
    return value


def _as_dict(found: Comparison) -> dict[str, Any]:
    differing = [scalars_to_json(vars(difference)) for difference in found.differing]
    scalars = [{"name": n, "a": scalars_to_json(a), "b": scalars_to_json(b)} for n, a, b in found.differing_scalars]
    facts = {"equal": found.equal, "tensors": found.tensors, "scalars": found.scalars, "within": found.within}
    return facts | {
        "differing": differing,
        "only_a": found.only_a,
        "only_b": found.only_b,
        "differing_scalars": scalars,
    }


def _table(found: Comparison, tolerance: float | None) -> list[str]:
    lines = []
    if found.differing:
        lines.append(f"{'max|a-b|':>10}  {'/ max|b|':>10}  {'elements that differ':>24}")
    for d in found.differing:
        note = f"  ({d.note})" if d.note else ""
        lines.append(f"{d.largest:>10.3g}  {d.relative:>10.3g}  {f'{d.elements} of {d.of}':>24}  {d.name}{note}")
    lines += [f"{name}: {a} and {b}" for name, a, b in found.differing_scalars]
    lines += [f"only in A: {name}" for name in found.only_a] + [f"only in B: {name}" for name in found.only_b]
    return [*lines, _summary(found, tolerance)]


def _summary(found: Comparison, tolerance: float | None) -> str:
    if found.equal:
        within = f"; {found.within} differ by no more than {tolerance:g}" if found.within else ""
        how = "equal within the tolerance" if found.within else "equal to the last bit"
        return f"{how}: {found.tensors} tensors, {found.scalars} scalars{within}"
    parts = [f"{len(found.differing)} of {found.tensors} tensors differ"]
    if found.differing_scalars:
        parts.append(f"{len(found.differing_scalars)} of {found.scalars} scalars differ")
    alone = len(found.only_a) + len(found.only_b)
    if alone:
        parts.append(f"{alone} are only in one of both")
    return ", ".join(parts)
