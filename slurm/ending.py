"""The last line of a batch script: decides, after the ranks have ended, whether the job is requeued.

    python -m phalanx.slurm.ending RUN CODE

CODE is srun's exit code. Writes the decision to events.jsonl, requeues the job if that may help, and exits with the job's
exit code.
"""

import os
import signal
import sys
from collections.abc import Sequence
from pathlib import Path

from phalanx.configs.errors import ExitCode
from phalanx.dist.checkpoint.directory import steps
from phalanx.dist.comm.network import REMEDY
from phalanx.dist.processes import rank_status
from phalanx.dist.processes.environment import attempt
from phalanx.dist.storage.durable_files import read_json_object, write_json
from phalanx.dist.storage.run_directory import Events, RunDirectory
from phalanx.slurm import ask, failures, jobs
from phalanx.slurm.excluding import exclude
from phalanx.slurm.failures import Report
from phalanx.slurm.hardware_faults import hardware_fault, program_fault
from phalanx.slurm.verdict import Ending, Verdict, judge

_HUNG = "Hung"  # the type of the reports of dist/health/watchdog.py


def main() -> int:
    run, code, job = RunDirectory(Path(sys.argv[1])), int(sys.argv[2]), os.environ["SLURM_JOB_ID"]
    step = max(steps(run.checkpoints), default=0)
    ending = _ending(run, code, job, step)
    verdict = judge(ending)
    _note(run, step, job, verdict)
    if verdict.action == "requeue":
        write_json(_file(run), {"job": job, "step": step, "in_a_row": verdict.in_a_row})
        if verdict.exclude is not None:
            signal.signal(signal.SIGTERM, signal.SIG_IGN)  # the requeue's, which leaves seconds to exclude the node
        try:
            ask.requeue(job)
        except ask.SlurmError as error:
            print(
                f"phalanx: job {job} could not be requeued: {error}. `phalanx resume {run.path} --submit` resumes it.",
                flush=True,
            )
            return int(ExitCode.FAILED)
        if verdict.exclude is not None:
            problem = exclude(job, verdict.exclude)
            done = "is excluded from now on" if problem is None else f"could not be excluded: {problem}"
            print(f"phalanx: {verdict.exclude} {done}.", flush=True)
    return int(verdict.code)


def _ending(run: RunDirectory, code: int, job: str, step: int) -> Ending:
    """How the ranks ended, from their reports, srun's output and SLURM."""
    said = rank_status.exit_codes(Path(os.environ[rank_status.VARIABLE]))
    last = jobs.newest_submission(run)
    reported = failures.reports(run, attempt())
    hung = [report for report in reported if report.kind == _HUNG]
    own = [report for report in reported if not report.echo and report.kind != _HUNG]
    failure = f"rank {own[0].rank}: {own[0].kind}: {own[0].message}" if own else None
    lost = tuple(sorted(set(range(last.ranks if last else 0)) - set(said)))
    fault, faulty = _fault(run, job, reported, lost)
    before, in_a_row = _requeued(run, job)
    try:
        found = ask.job(job)
    except ask.SlurmError as error:
        print(f"phalanx: {error}", flush=True)
        found = None
    return Ending(
        code=code,
        state=found.state if found else "UNKNOWN",
        preempted=found is not None and found.preempted,
        hung=bool(hung),
        failure=failure or _killed_by_its_program(run, lost),
        lost=lost,
        out_of_memory=failures.out_of_memory(failures.last_attempt(failures.batch_log(run, job))) is not None,
        progress=step > before,
        in_a_row=in_a_row,
        most=run.read_config().slurm.max_requeues,
        apart=next((report.message.removesuffix(f". {REMEDY}") for report in reported if report.apart), None),
        fault=fault,
        faulty=faulty,
    )


def _fault(run: RunDirectory, job: str, reported: Sequence[Report], lost: Sequence[int]) -> tuple[str | None, str | None]:
    """What blames the hardware, and the node that has it: a rank's report, or the last words of one that left none."""
    for report in sorted(reported, key=lambda report: report.time):
        if (words := hardware_fault(report.message)) is not None:
            return f"rank {report.rank} on {report.node or report.host}: {words}", report.node or None
    batch = failures.last_attempt(failures.batch_log(run, job))
    for rank in lost:
        # torch aborts a rank whose NCCL thread meets the error before its main thread does.
        if (words := hardware_fault(failures.last_words(run.logs / f"rank-{rank}.log"))) is not None:
            node = failures.node_of(batch, rank)
            return f"rank {rank}{f' on {node}' if node else ''}: {words}", node or None
    return None, None


def _killed_by_its_program(run: RunDirectory, lost: Sequence[int]) -> str | None:
    """The error of CUDA for which torch aborted a rank, if that is its program's."""
    said = ((rank, program_fault(failures.last_words(run.logs / f"rank-{rank}.log"))) for rank in lost)
    return next((f"rank {rank}: {words}" for rank, words in said if words), None)


def _requeued(run: RunDirectory, job: str) -> tuple[int, int]:
    """The step of the last requeue, and how many consecutive ones made no progress; a new submission resets them."""
    try:
        stored = read_json_object(_file(run))
    except (OSError, ValueError):
        return 0, 0
    numbers = stored.get("step"), stored.get("in_a_row")
    if stored.get("job") != job or not all(isinstance(number, int) for number in numbers):
        return 0, 0
    return int(stored["step"]), int(stored["in_a_row"])


def _file(run: RunDirectory) -> Path:
    return run.slurm / "requeues.json"


def _note(run: RunDirectory, step: int, job: str, verdict: Verdict) -> None:
    """Prints and records the decision."""
    names = {"requeue": "requeue", "leave": "ended", "fail": "failure"}
    if verdict.action in names:
        events = Events(run)
        excluded = {} if verdict.exclude is None else {"exclude": verdict.exclude}
        events.write(names[verdict.action], step, job=job, reason=verdict.reason, **excluded)
        events.close()
    what = {"done": "done", "requeue": "requeued", "leave": "not requeued", "fail": "failed, and not requeued"}[verdict.action]
    print(f"phalanx: job {job} {what}: {verdict.reason}. The last checkpoint is of step {step}.", flush=True)


if __name__ == "__main__":
    sys.exit(main())
