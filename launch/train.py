"""A rank that trains; `accelerate launch -m`, `torchrun -m` and `srun python -m phalanx.launch.train CONFIG...` run."""

import sys
from collections.abc import Sequence

from phalanx.dist.processes import output
from phalanx.dist.processes.stop import StopRequest


def main(arguments: Sequence[str] | None = None, stop: StopRequest | None = None) -> int:
    """Trains as the rank set by the environment; returns its exit code."""
    output.keep_steady()
    stop = stop or StopRequest()  # first of all: until then a signal kills
    from phalanx.configs.errors import ExitCode
    from phalanx.configs.load import stored
    from phalanx.configs.schema import RunConfig
    from phalanx.dist.processes.environment import Ranks
    from phalanx.launch import rank
    from phalanx.launch.arguments import Parser, add_config, add_stop, recipe, resumed, set_elsewhere
    from phalanx.launch.importing import importing

    parser = Parser(prog="phalanx.launch.train", description=__doc__)
    add_config(parser)
    add_stop(parser)
    parser.add_argument("--resume", metavar="RUN", help="resume the run in this directory")
    parser.add_argument("--stored", metavar="FILE", help="a resolved configuration, as `phalanx submit` wrote it")
    stop_at: list[int | None] = []
    fillings: list[str] = []

    def configure() -> RunConfig:
        given = parser.parse_intermixed_args(arguments)
        stop_at.append(given.stop_at)
        if given.stored:
            return stored(given.stored)
        fillings.extend(set_elsewhere(given.config, given.resume))
        return resumed(given.resume, given.config) if given.resume else recipe(given.config)

    def work(config: RunConfig, ranks: Ranks) -> ExitCode:
        if ranks.is_main:
            from phalanx.launch.say import run_directory

            run_directory(config)
            for sentence in fillings:
                print(f"phalanx: {sentence}", file=sys.stderr, flush=True)
        with importing(), stop.at_once():
            from phalanx.train.start import run

        code = run(config, ranks, stop, stop_at[0], _job_is_over)
        if code == ExitCode.DONE and ranks.is_main and config.track.report:
            from phalanx.launch.run_report.at_the_end import report_of

            report_of(config)
        return code

    return rank.run(configure, work)


def _job_is_over(job: str) -> bool:
    """Whether SLURM reports that a job does not run: it has ended, or is queued again."""
    from phalanx.slurm import ask

    try:
        found = ask.job(job)
    except ask.SlurmError:
        return False
    return found is not None and (found.over or found.state == "PENDING")


if __name__ == "__main__":
    sys.exit(main())
