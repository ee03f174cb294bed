"""phalanx verify-exact CONFIG.yaml [MORE.yaml ...] [key=value ...] [--ranks 1 2 3 4] [--steps N] [--keep]"""

import sys
from collections.abc import Sequence

from phalanx.configs.errors import ExitCode, UserError
from phalanx.configs.schema import RunConfig
from phalanx.dist.processes.gpus import count_gpus
from phalanx.launch.arguments import Parser, add_config, positive, recipe
from phalanx.launch.exactness import ExactnessCheck, RunComparison, folder_for, reason

_DEFAULT_RANKS = (1, 2, 3, 4)


def main(arguments: Sequence[str]) -> int:
    parser = Parser(
        prog="phalanx verify-exact",
        description="Runs a recipe on several numbers of ranks, killed and resized once, and compares every step to the last "
        "bit. The exit code is 1 if a run differs.",
    )
    add_config(parser)
    parser.add_argument(
        "--ranks", type=positive, nargs="+", metavar="N", help="numbers of ranks (default: 1 to 4, as far as they fit)"
    )
    parser.add_argument("--steps", type=positive, default=6, metavar="N", help="steps of each run, at least 2 (default: 6)")
    parser.add_argument("--keep", action="store_true", help="keep the runs, in RUNS/NAME-verify-exact")
    given = parser.parse_intermixed_args(arguments)
    if given.steps < 2:
        raise UserError("--steps 1: one of the runs is killed half way. Give at least 2.")
    config = recipe(given.config)
    ranks = list(dict.fromkeys(given.ranks or _that_fit(config)))
    with folder_for(config, given.keep) as folder:
        check = ExactnessCheck(given.config, ranks, given.steps, folder)
        found = []
        for one in check.run():
            _print(one)
            found.append(one)
        if all(one.equal for one in found):
            return ExitCode.DONE
        again = check.again() if config.dist.reduce == "exact" else None
        print(reason(config, again))
        return ExitCode.FAILED


def _that_fit(config: RunConfig) -> list[int]:
    """A rank needs a micro-batch, and a GPU if there are some."""
    most = config.micro_batches if config.dist.device == "cpu" else min(config.micro_batches, count_gpus() or sys.maxsize)
    fit = [number for number in _DEFAULT_RANKS if number <= most]
    if not fit:
        raise UserError(f"a step has {config.micro_batches} micro-batches. Name numbers of ranks by --ranks.")
    return fit


def _print(found: RunComparison) -> None:
    print(f"{found.label:24} {'equal' if found.equal else 'DIFFERS':8} {found.sentence}", flush=True)
