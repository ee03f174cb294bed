"""phalanx status RUN [--json]"""

import json
from collections.abc import Sequence
from pathlib import Path

from phalanx.configs.errors import ExitCode, printable
from phalanx.dist.storage.run_directory import RunDirectory
from phalanx.launch.arguments import Parser
from phalanx.slurm.status import status


def main(arguments: Sequence[str]) -> int:
    parser = Parser(prog="phalanx status", description="Shows the state of a run: its job, its step, its last checkpoint.")
    parser.add_argument("run", metavar="RUN", help="the run directory")
    parser.add_argument("--json", action="store_true", help="print JSON")
    given = parser.parse_args(arguments)
    found = status(RunDirectory(Path(given.run)))
    print(json.dumps(found.to_json()) if given.json else printable("\n".join(found.lines())))
    return ExitCode.DONE
