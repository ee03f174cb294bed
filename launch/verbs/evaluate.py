"""phalanx evaluate RUN [key=value ...] [--step N | --best] [--also RUN ...] [--nproc N] [--json]"""

from collections.abc import Sequence

from phalanx.launch.arguments import Parser, add_asked, add_config, add_nproc, resumed
from phalanx.launch.starting import start


def main(arguments: Sequence[str]) -> int:
    parser = Parser(prog="phalanx evaluate", description="Metrics of a run's checkpoint on the validation split.")
    parser.add_argument("run", metavar="RUN", help="the run directory")
    add_config(parser)
    add_asked(parser)
    add_nproc(parser)
    given = parser.parse_intermixed_args(arguments)
    asked = ["--json"] if given.json else []
    asked += ["--best"] if given.best else []
    asked += ["--step", str(given.step)] if given.step is not None else []
    asked += ["--also", *given.also] if given.also else []
    config = resumed(given.run, given.config)
    return start("phalanx.launch.evaluate", config, given.nproc, [given.run, *given.config, *asked])
