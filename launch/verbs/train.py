"""phalanx train CONFIG.yaml [MORE.yaml ...] [key=value ...] [--nproc N] [--stop-at STEP] [--quiet]"""

from collections.abc import Sequence

from phalanx.configs.load import stored
from phalanx.dist.processes.stop import signals_blocked
from phalanx.launch.arguments import Parser, add_config, add_nproc, add_quiet, add_stop, be_quiet, recipe
from phalanx.launch.starting import start


def main(arguments: Sequence[str]) -> int:
    with signals_blocked():
        parser = Parser(prog="phalanx train", description="Trains a recipe, or resumes the run of that name.")
        add_config(parser)
        add_nproc(parser)
        add_stop(parser)
        add_quiet(parser)
        parser.add_argument("--stored", metavar="FILE", help="a resolved configuration, as `phalanx submit` wrote it")
        given = parser.parse_intermixed_args(arguments)
        be_quiet(given)
        stop = [] if given.stop_at is None else ["--stop-at", str(given.stop_at)]
        if given.stored:
            return start("phalanx.launch.train", stored(given.stored), given.nproc, ["--stored", given.stored, *stop])
        return start("phalanx.launch.train", recipe(given.config), given.nproc, [*given.config, *stop])
