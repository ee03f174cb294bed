"""phalanx resume RUN [MORE.yaml ...] [key=value ...] [--nproc N | --submit] [--fork NAME [--step N] [--no-start]]"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from phalanx.configs.errors import ExitCode, UserError
from phalanx.dist.checkpoint.tools import choose
from phalanx.dist.checkpoint.tools.fork import fork, refuse_taken
from phalanx.dist.processes.environment import find
from phalanx.dist.processes.stop import signals_blocked
from phalanx.dist.storage.run_directory import RunDirectory
from phalanx.launch.arguments import Parser, add_config, add_nproc, add_quiet, add_stop, be_quiet, forked, resumed
from phalanx.launch.starting import start
from phalanx.launch.verbs.job_verbs.submit import add_submit, submit_run
from phalanx.train.setup.checks import check


def main(arguments: Sequence[str]) -> int:
    with signals_blocked():
        parser = Parser(prog="phalanx resume", description="Resumes a run, on whatever hardware there is.")
        parser.add_argument("run", metavar="RUN", help="the run directory")
        add_config(parser)
        add_nproc(parser)
        add_stop(parser)
        add_quiet(parser)
        parser.add_argument(
            "--fork", metavar="NAME", help="continue as a new run beside RUN, which stays as it is; any key may change"
        )
        parser.add_argument(
            "--step", type=int, metavar="N", help="fork the checkpoint of this step (default: the newest intact one)"
        )
        parser.add_argument("--no-start", action="store_true", help="make the fork, but start nothing")
        parser.add_argument("--submit", action="store_true", help="resume as a SLURM job (--local: in the background here)")
        add_submit(parser)
        given = parser.parse_intermixed_args(arguments)
        be_quiet(given)
        stop = [] if given.stop_at is None else ["--stop-at", str(given.stop_at)]
        if given.fork is not None:
            return _fork(given, stop)
        if given.step is not None or given.no_start:
            option = "--no-start" if given.no_start else "--step"
            raise UserError(f"{option} needs --fork NAME. A run resumes from its newest intact checkpoint.")
        config = resumed(given.run, given.config)
        if given.submit:
            _refuse_beside_submit(given)
            return submit_run(config, given)
        if given.dry_run or given.local or given.json:
            raise UserError("--dry-run, --local and --json need --submit.")
        return start("phalanx.launch.train", config, given.nproc, ["--resume", given.run, *given.config, *stop])


def _refuse_beside_submit(given: argparse.Namespace) -> None:
    if given.nproc is not None:
        raise UserError("--nproc is for this machine. With --submit set slurm.nodes and slurm.gpus_per_node or tasks_per_node.")
    if given.stop_at is not None:
        raise UserError("--stop-at cannot be combined with --submit: the job would requeue itself. Set train.steps.")


def _fork(given: argparse.Namespace, stop: Sequence[str]) -> int:
    """Makes the new run, then resumes it."""
    if given.nproc is None and find().launcher != "alone":
        alone = f"`phalanx resume {given.run} --fork {given.fork} --no-start --nproc 1`"
        raise UserError(
            f"--fork: every rank that {find().launcher} started would fork. Run {alone} once, then resume the new run."
        )
    run, config = RunDirectory(Path(given.run)), forked(given.run, given.config, given.fork)
    new = RunDirectory.of(config)
    refuse_taken(new)
    check(config, given.nproc or 1)
    chosen = choose.newest_checkpoint(run) if given.step is None else choose.of_step(run, given.step)
    for step, problem in chosen.skipped:
        print(f"phalanx: the checkpoint of step {step} was skipped: {problem}", file=sys.stderr)
    fork(run, chosen.path, config)
    print(f"phalanx: {new.path} is a fork of {chosen.path}", file=sys.stderr, flush=True)
    if given.no_start:
        print(new.path)
        return ExitCode.DONE
    return start("phalanx.launch.train", config, given.nproc, ["--resume", str(new.path), *stop])
