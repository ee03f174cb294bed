"""phalanx evaluate RUN [key=value ...] [--nproc N] [--json]"""

from collections.abc import Sequence

from phalanx.launch.arguments import Parser, add_config, add_nproc, resumed
from phalanx.launch.starting import start


def main(arguments: Sequence[str]) -> int:
    parser = Parser(prog="phalanx evaluate", description="Metrics of a run's newest checkpoint on the validation split.")
    parser.add_argument("run", metavar="RUN", help="the run directory")
    add_config(parser)
    add_nproc(parser)
    parser.add_argument("--json", action="store_true", help="print JSON")
    given = parser.parse_intermixed_args(arguments)
    as_json = ["--json"] if given.json else []
    config = resumed(given.run, given.config)
    return start("phalanx.launch.evaluate", config, given.nproc, [given.run, *given.config, *as_json])
