"""phalanx cancel RUN"""

from collections.abc import Sequence
from pathlib import Path

from phalanx.configs.errors import ExitCode
from phalanx.dist.storage.run_directory import RunDirectory
from phalanx.launch.arguments import Parser
from phalanx.slurm.status import cancel


def main(arguments: Sequence[str]) -> int:
    parser = Parser(prog="phalanx cancel", description="Ends the job of a run. Its ranks save first, and it is not requeued.")
    parser.add_argument("run", metavar="RUN", help="the run directory")
    given = parser.parse_args(arguments)
    ended = cancel(RunDirectory(Path(given.run)))
    print(f"job {ended.job} is asked to end; `phalanx resume {given.run} --submit` resumes the run later")
    return ExitCode.DONE
