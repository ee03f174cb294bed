"""phalanx init FOLDER [-o RECIPE.yaml] [--json]"""

import json
import os
from collections.abc import Sequence
from pathlib import Path

from phalanx.configs.errors import ExitCode, UserError, printable
from phalanx.configs.load import load
from phalanx.dist.storage.durable_files import write_atomically
from phalanx.launch.arguments import Parser


def main(arguments: Sequence[str]) -> int:
    parser = Parser(
        prog="phalanx init",
        description="Looks at a folder of data, says what it found, and writes a commented recipe that trains on it as it is.",
    )
    parser.add_argument(
        "folder", type=Path, metavar="FOLDER", help="images and their labels, in any layout of docs/datasets.md"
    )
    parser.add_argument(
        "-o", "--output", type=Path, metavar="RECIPE.yaml", help="the file to write (default: FOLDER's name, here)"
    )
    parser.add_argument("--json", action="store_true", help="print what was found as JSON")
    given = parser.parse_args(arguments)
    from phalanx.data.inspect.found_data import find, run_name
    from phalanx.launch.proposal import Machine, proposal

    output = given.output or Path(f"{run_name(given.folder)}.yaml")
    if output.exists():
        raise UserError(f"{output}: this file exists. Name another with -o, or remove it.")
    if not output.parent.is_dir():
        raise UserError(f"{output.parent}: there is no such folder. Name a recipe in one that exists with -o.")
    found = find(given.folder)
    import torch

    machine = Machine(torch.cuda.device_count(), os.cpu_count() or 1)
    text = proposal(found, machine)
    write_atomically(output, text)
    try:
        config = load([str(output)])  # its own mistakes are ours, not the user's
    except UserError:
        output.unlink()
        raise
    if given.json:
        told = {name: getattr(found, name) for name in ("kind", "train", "val", "classes", "counts", "median", "remarks")}
        print(json.dumps({"recipe": str(output), "format": found.layout.format, "task": found.layout.task, **told}))
        return ExitCode.DONE
    print(printable("\n".join(found.lines())))
    print(f"\n{output}: {config.model.name}, {config.train.epochs:g} epochs of {config.train.global_batch} samples a step")
    print(f"next: phalanx train {output}{'' if machine.gpus else f' --nproc {machine.ranks}'}")
    return ExitCode.DONE
