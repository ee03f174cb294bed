"""Submitting a run: its directory, a snapshot of the code, and a job by submitit. All is checked before anything is queued."""

import os
import shlex
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from phalanx.configs.errors import UserError
from phalanx.configs.schema import RunConfig
from phalanx.dist.ownership import owner_record
from phalanx.dist.processes.threads import choose_threads
from phalanx.dist.storage.durable_files import create_aside
from phalanx.dist.storage.run_directory import RunDirectory
from phalanx.slurm import ask, jobs
from phalanx.slurm.job import LocalRun, Rank
from phalanx.slurm.jobs import Submission
from phalanx.slurm.parameters import batch_parameters, python
from phalanx.slurm.snapshot import Snapshot, snapshot

Say = Callable[[str], None]
_LOCAL_MINUTES = 60 * 24 * 365  # submitit's local executor needs a time limit


def refuse_under_way(run: RunDirectory) -> None:
    """Refuses a second job for a run.

    Raises:
        UserError: naming the job that has not ended.
    """
    last = jobs.newest_submission(run)
    if last is not None and (state := state_of(last)) is not None:
        raise UserError(
            f"{run.path}: job {last.job} trains this run already ({state}). Wait for it, or end it first with "
            f"`phalanx cancel {run.path}`."
        )
    claim = owner_record.newest_claim(run)
    if claim is not None and claim.owner is not None and owner_record.is_alive(run, claim.owner):
        raise UserError(f"{run.path}: {claim.owner} trains this run already. Wait for it, or end it first.")


def state_of(submission: Submission) -> str | None:
    """SLURM's state of a job that has not ended; None once it has.

    Raises:
        UserError: if SLURM does not answer.
    """
    if submission.where == "local":
        return "RUNNING" if _is_running_here(submission) else None
    try:
        found = ask.job(submission.job)
    except ask.SlurmError as error:
        raise UserError(f"job {submission.job}: its state is unknown: {error}. Try again where SLURM answers.") from None
    return found.state if found is not None and not found.over else None


def _is_running_here(submission: Submission) -> bool:
    """Whether the process exists, and is submitit's: its id may have been reused."""
    try:
        return b"submitit" in Path(f"/proc/{submission.job}/cmdline").read_bytes()
    except OSError:
        return False


def batch_script(config: RunConfig, run: RunDirectory) -> str:
    """The script for sbatch; nothing is queried or written."""
    from submitit.slurm.slurm import _make_sbatch_string

    environment = Snapshot.environment_of(run)
    command = f"{python()} -u -m submitit.core._submit {shlex.quote(str(run.slurm.absolute()))}"
    text: str = _make_sbatch_string(command, run.slurm.absolute(), **batch_parameters(config, run, environment))
    return text


def submit(config: RunConfig, run: RunDirectory, say: Say) -> Submission:
    """Queues a run on SLURM.

    Args:
        say: prints warnings.

    Raises:
        UserError: if sbatch refuses it.
    """
    import submitit
    from submitit.core.utils import FailedJobError

    path, code = _prepare(config, run, say)
    executor = submitit.SlurmExecutor(folder=run.slurm.absolute(), python=python())
    executor.update_parameters(**batch_parameters(config, run, code.environment()))
    try:
        with _without_job():
            job = executor.submit(Rank(str(path.absolute())))
    except FailedJobError as error:
        said = [line.removeprefix("sbatch: ").removeprefix("error: ") for line in str(error).splitlines() if line.strip()]
        raise UserError(f"sbatch refused the job: {' '.join(said)}. Change the key of section slurm that it names.") from None
    return jobs.record(run, job.job_id, "slurm", path, config)


def submit_here(config: RunConfig, run: RunDirectory, say: Say) -> Submission:
    """Starts a run on this machine in the background, as it would run on one node."""
    import submitit

    path, code = _prepare(config, run, say)
    executor = submitit.LocalExecutor(folder=run.slurm.absolute())
    minutes = _LOCAL_MINUTES if config.slurm.seconds is None else config.slurm.seconds / 60
    executor.update_parameters(
        timeout_min=minutes,
        tasks_per_node=1,
        gpus_per_node=config.slurm.gpus_per_node or 0,
        signal_delay_s=config.slurm.signal_before_s,
        stderr_to_stdout=True,
    )
    signal.signal(signal.SIGHUP, signal.SIG_IGN)  # it continues when the terminal is closed
    with _without_job(PYTHONSAFEPATH="1", **code.environment()):
        job = executor.submit(LocalRun(str(path.absolute()), config.slurm.ranks))
    return jobs.record(run, job.job_id, "local", path, config)


def _prepare(config: RunConfig, run: RunDirectory, say: Say) -> tuple[Path, Snapshot]:
    """Prepares the run directory for a job: its identity (and so its W&B run), its configuration, its code."""
    if "%" in str(run.path.absolute()):
        raise UserError(f"{run.path.absolute()}: SLURM reads `%` in a path as a placeholder. Set runs=FOLDER to one without.")
    if not run.exists():  # else the job reports and writes changes, if there is something left to do
        run.create(config, choose_threads(config.dist))
    _make_private(run.slurm)
    run.logs.mkdir(exist_ok=True)
    code = snapshot(run, config)
    for place, reason in code.left_out:
        say(f"{place} is not in the snapshot of the code: {reason}")
    return jobs.write_config(run, config), code


def _make_private(folder: Path) -> None:
    """Makes submitit's folder private, since submitit unpickles files from it.

    Raises:
        UserError: if it, or a file in it, may be from another user.
    """
    folder.mkdir(mode=0o700, exist_ok=True)
    if folder.is_symlink() or not folder.is_dir():
        raise UserError(f"{folder}: this is not a folder. Remove it: jobs run files from it.")
    descriptor, probe = create_aside(folder / "owner")
    try:
        ours = os.fstat(descriptor).st_uid  # by the file system, which over NFS may not be this process's user
    finally:
        os.close(descriptor)
        probe.unlink()
    for path in (folder, *sorted(folder.iterdir())):
        if path.lstat().st_uid != ours:
            raise UserError(f"{path}: this is another user's. Check and remove it: jobs run files from {folder}.")
    if folder.stat().st_mode & 0o077:
        folder.chmod(0o700)


@contextmanager
def _without_job(**more: str) -> Iterator[None]:
    """Removes the variables of a surrounding job or srun step, so that the new job is not taken for a part of it."""
    before = dict(os.environ)
    for name in list(os.environ):
        if name.startswith(("SLURM_", "SBATCH_")) and name != "SLURM_CONF":
            del os.environ[name]
    os.environ.update(more)
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)
