"""phalanx resume RUN [MORE.yaml ...] [key=value ...] [--nproc N] [--stop-at STEP]"""

from collections.abc import Sequence

from phalanx.dist.stop import held_back
from phalanx.launch.arguments import Parser, add_config, add_nproc, add_stop, resumed
from phalanx.launch.starting import start


def main(arguments: Sequence[str]) -> int:
    with held_back():
        parser = Parser(prog="phalanx resume", description="Goes on with a run, on whatever hardware there is.")
        parser.add_argument("run", metavar="RUN", help="the run directory")
        add_config(parser)
        add_nproc(parser)
        add_stop(parser)
        given = parser.parse_intermixed_args(arguments)
        stop = [] if given.stop_at is None else ["--stop-at", str(given.stop_at)]
        config = resumed(given.run, given.config)
        return start("phalanx.launch.train", config, given.nproc, ["--resume", given.run, *given.config, *stop])
