"""phalanx logs RUN [--rank N] [--lines N]"""

import json
from collections.abc import Sequence
from pathlib import Path

from phalanx.configs.errors import ExitCode
from phalanx.dist.storage.run_directory import RunDirectory
from phalanx.launch.arguments import Parser, positive
from phalanx.slurm import logs


def main(arguments: Sequence[str]) -> int:
    parser = Parser(prog="phalanx logs", description="Shows the first failure, then the last lines of a rank.")
    parser.add_argument("run", metavar="RUN", help="the run directory")
    parser.add_argument("--rank", type=int, metavar="N", help="the rank whose lines are shown (default: the failed one, or 0)")
    parser.add_argument("--lines", type=positive, default=20, metavar="N", help="number of lines (default: 20)")
    parser.add_argument("--json", action="store_true", help="print the failures as JSON, the first one first")
    given = parser.parse_args(arguments)
    run = RunDirectory(Path(given.run))
    if given.json:
        print(json.dumps(logs.to_json(run)))
    else:
        print("\n".join(logs.lines(run, given.rank, given.lines)))
    return ExitCode.DONE
