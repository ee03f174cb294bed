"""Writes the report to a file."""

from collections.abc import Sequence
from pathlib import Path

from phalanx.configs.errors import UserError
from phalanx.configs.system_errors import trouble
from phalanx.dist.storage.durable_files import write_atomically
from phalanx.dist.storage.run_directory import RunDirectory
from phalanx.launch.run_report.gathered import gathered
from phalanx.launch.run_report.page import GENERATOR, page

_HEAD = 1000  # bytes that have the generator


def write_report(runs: Sequence[RunDirectory], output: Path) -> None:
    """
    Raises:
        UserError: if one of them is no run, or the file cannot be written, or is none of ours.
    """
    told = [gathered(run) for run in runs]
    try:
        if output.exists() and GENERATOR.encode() not in _head(output):
            raise UserError(f"{output}: `report` did not write this file, and would overwrite it. Choose another name with -o.")
        write_atomically(output, page(told))
    except OSError as error:
        raise UserError(trouble(error) or f"{output}: {error.strerror}. Choose another name with -o.") from None


def _head(path: Path) -> bytes:
    if not path.is_file():
        return b""
    with path.open("rb") as file:
        return file.read(_HEAD)
