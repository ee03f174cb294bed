"""phalanx checkpoint ls RUN [--json] | phalanx checkpoint consolidate RUN [--step N] -o FILE.safetensors [--with-optimizer]"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from phalanx.configs.errors import UserError
from phalanx.dist.checkpoint import directory, manifest, reader
from phalanx.dist.checkpoint.consolidate import consolidate
from phalanx.dist.checkpoint.manifest import BrokenCheckpoint
from phalanx.dist.run_directory import RunDirectory
from phalanx.launch.arguments import Parser


def main(arguments: Sequence[str]) -> int:
    parser = Parser(prog="phalanx checkpoint", description="What checkpoints a run has, and one file of weights out of one.")
    parser.add_argument("action", choices=["ls", "consolidate"])
    parser.add_argument("run", metavar="RUN", help="the run directory")
    parser.add_argument("--step", type=int, metavar="N", help="consolidate this step (default: the newest that is whole)")
    parser.add_argument("-o", "--output", metavar="FILE.safetensors", help="consolidate into this file")
    parser.add_argument("--with-optimizer", action="store_true", help="consolidate the optimizer's state too")
    parser.add_argument("--json", action="store_true", help="print JSON")
    given = parser.parse_intermixed_args(arguments)
    run = RunDirectory(Path(given.run))
    if not run.exists():
        raise UserError(f"{given.run}: there is no run here (no run.json). Give the run directory that `train` printed.")
    if given.action == "ls":
        return _list(run, given.json)
    if given.output is None:
        raise UserError("consolidate needs -o FILE.safetensors, the file to write.")
    return _consolidate(run, given.step, Path(given.output), given.with_optimizer)


def _describe(path: Path, step: int) -> dict[str, Any]:
    try:
        stored = manifest.read(path)
    except BrokenCheckpoint as broken:
        return {"step": step, "whole": False, "problem": str(broken)}
    facts = {"samples": stored.samples, "world_size": stored.world_size, "strategy": stored.strategy, "bytes": stored.bytes}
    return {"step": step, "whole": True} | facts


def _list(run: RunDirectory, as_json: bool) -> int:
    found = [_describe(directory.step_directory(run.checkpoints, step), step) for step in directory.steps(run.checkpoints)]
    if as_json:
        print(json.dumps(found, indent=1))
        return 0
    if not found:
        print(f"{run.path} has no checkpoint yet")
    for one in found:
        if one["whole"]:
            size, writers = f"{one['bytes'] / 1e6:.1f} MB", f"{one['world_size']} ranks  {one['strategy']}"
            print(f"step {one['step']:>8}  {size:>12}  {writers}  {one['samples']} samples seen")
        else:
            print(f"step {one['step']:>8}  broken: {one['problem']}")
    return 0


def _consolidate(run: RunDirectory, step: int | None, output: Path, with_optimizer: bool) -> int:
    if step is None:
        path, passed_over = reader.newest_whole(run.checkpoints)
        for bad, problem in passed_over:
            print(f"phalanx: the checkpoint of step {bad} was passed over: {problem}")
        if path is None:
            raise UserError(f"{run.path} has no whole checkpoint.")
    else:
        path = directory.step_directory(run.checkpoints, step)
        there = directory.steps(run.checkpoints)
        if step not in there:
            raise UserError(f"{run.path} has no checkpoint of step {step}. There are: {', '.join(map(str, there)) or 'none'}.")
        broken = reader.problem(path)
        if broken is not None:
            raise UserError(f"{path} is not whole: {broken}. Choose another step.")
    try:
        count = consolidate(path, output, with_optimizer)
    except OSError as error:
        raise UserError(f"{output}: cannot be written: {error.strerror}. Choose another place.") from None
    print(f"{output}: {count} tensors of {path}")
    return 0
