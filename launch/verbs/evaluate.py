"""phalanx evaluate RUN [key=value ...] [--step N | --best] [--split NAME] [--also RUN ...] [--results FILE.json] [--nproc N]
[--json]
"""

from collections.abc import Sequence
from pathlib import Path

from phalanx.configs.errors import UserError
from phalanx.launch.arguments import Parser, add_asked, add_config, add_nproc, resumed
from phalanx.launch.starting import start


def main(arguments: Sequence[str]) -> int:
    parser = Parser(prog="phalanx evaluate", description="Computes the metrics of a run's checkpoint on the validation split.")
    parser.add_argument("run", metavar="RUN", help="the run directory")
    add_config(parser)
    add_asked(parser)
    add_nproc(parser)
    given = parser.parse_intermixed_args(arguments)
    asked = ["--json"] if given.json else []
    asked += ["--best"] if given.best else []
    asked += ["--step", str(given.step)] if given.step is not None else []
    if given.results:
        _check(Path(given.results))
        asked += ["--results", given.results]
    asked += ["--split", given.split] if given.split else []
    asked += ["--also", *given.also] if given.also else []
    config = resumed(given.run, given.config)
    return start("phalanx.launch.evaluate", config, given.nproc, [given.run, *given.config, *asked])


def _check(path: Path) -> None:
    """Refuses a file that cannot be written, before the work.

    Raises:
        UserError: with the reason.
    """
    if path.suffix != ".json":
        raise UserError(f"--results {path}: COCO's results are JSON. Name a file such as results.json.")
    if path.is_dir() or not path.parent.is_dir():
        problem = "this is a folder" if path.is_dir() else f"there is no folder {path.parent}"
        raise UserError(f"--results {path}: {problem}. Name a file in an existing folder.")
