"""phalanx submit CONFIG.yaml [MORE.yaml ...] [key=value ...] [--dry-run] [--local]"""

import argparse
import json
import sys
from collections.abc import Sequence

from phalanx.configs.errors import ExitCode
from phalanx.configs.schema import RunConfig
from phalanx.dist.storage.run_directory import RunDirectory
from phalanx.launch.arguments import Parser, add_config, recipe
from phalanx.slurm import submit, submit_checks
from phalanx.slurm.ask import SlurmError
from phalanx.train.setup.checks import check


def main(arguments: Sequence[str]) -> int:
    parser = Parser(prog="phalanx submit", description="Checks a recipe and submits it to SLURM.")
    add_config(parser)
    add_submit(parser)
    given = parser.parse_intermixed_args(arguments)
    return submit_run(recipe(given.config), given)


def add_submit(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--dry-run", action="store_true", help="print the batch script, but submit nothing")
    parser.add_argument("--local", action="store_true", help="run in the background on this machine, without SLURM")
    parser.add_argument("--json", action="store_true", help="print the run directory and the job as JSON")


def submit_run(config: RunConfig, given: argparse.Namespace) -> int:
    """Checks everything, then submits; prints the run directory and the job.

    Raises:
        UserError: on bad input, before anything is queued.
    """
    run = RunDirectory.of(config)
    check(config, config.slurm.ranks)
    if given.dry_run:
        print(submit.batch_script(config, run), end="")
        return ExitCode.DONE
    submit.refuse_under_way(run)
    if not given.local:
        for sentence in submit_checks.check(config, run):
            _say(sentence)
    try:
        submission = submit.submit_here(config, run, _say) if given.local else submit.submit(config, run, _say)
    except SlurmError as error:
        _say(str(error))
        return ExitCode.FAILED
    if given.json:
        print(json.dumps({"run": str(run.path), "job": submission.job, "where": submission.where}))
    else:
        print(f"{run.path}\njob {submission.job}{' (a process of this machine)' if given.local else ''}")
    return ExitCode.DONE


def _say(sentence: str) -> None:
    print(f"phalanx: {sentence}", file=sys.stderr)
