"""The jobs of a run: `slurm/jobs.jsonl`, one line per submission."""

import os
import re
import signal
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

from phalanx.configs.errors import UserError
from phalanx.configs.load import to_yaml
from phalanx.configs.schema import RunConfig
from phalanx.dist.storage.durable_files import write_atomically
from phalanx.dist.storage.json_lines import JsonLines, read_lines
from phalanx.dist.storage.run_directory import RunDirectory

_JOB = re.compile(r"[0-9]{1,18}(_[0-9]{1,18})?")


@dataclass(frozen=True)
class Submission:
    """A submitted job.

    Attributes:
        job: SLURM's job id; the process id of a local one.
        where: `slurm` or `local`.
        time: seconds since 1970.
        config: the file of its configuration in the run directory.
        nodes, ranks: the requested numbers.
    """

    job: str
    where: str
    time: float
    config: str
    nodes: int
    ranks: int


def _file(run: RunDirectory) -> Path:
    return run.slurm / "jobs.jsonl"


def submissions(run: RunDirectory) -> list[Submission]:
    """All jobs of a run, the newest last."""
    names = {"job": str, "where": str, "time": float, "config": str, "nodes": int, "ranks": int}
    lines = read_lines(_file(run), **names)
    return [Submission(*(line[name] for name in names)) for line in lines if _is_a_job(line["job"], line["where"])]


def _is_a_job(job: str, where: str) -> bool:
    """Whether a job id is valid: a local process id is a positive integer."""
    return (where == "slurm" and bool(_JOB.fullmatch(job))) or (where == "local" and job.isdecimal() and 0 < int(job) < 2**31)


def newest_submission(run: RunDirectory) -> Submission | None:
    """The newest submission."""
    there = submissions(run)
    return there[-1] if there else None


def write_config(run: RunDirectory, config: RunConfig) -> Path:
    """Writes the configuration of the next job to a new file, so that a job's configuration never changes."""
    path = run.slurm / f"config-{len(submissions(run)) + 1}.yaml"
    resolved = config.model_copy(update={"runs": str(run.path.absolute().parent), "name": run.path.name})
    write_atomically(path, to_yaml(resolved))
    return path


def record(run: RunDirectory, job: str, where: str, path: Path, config: RunConfig) -> Submission:
    """Records a submitted job."""
    slurm = config.slurm
    submission = Submission(job, where, time.time(), path.name, slurm.nodes, slurm.ranks)
    lines = JsonLines(_file(run))
    try:
        line: Mapping[str, object] = asdict(submission)
        lines.append(dict(line))
        lines.sync()
    finally:
        lines.close()
    return submission


def end_local(submission: Submission) -> None:
    """Asks a job on this machine to save and end.

    Raises:
        UserError: without permission.
    """
    try:
        os.kill(int(submission.job), signal.SIGTERM)
    except ProcessLookupError:
        return  # it has just ended
    except OSError as error:
        raise UserError(f"process {submission.job} cannot be ended: {error.strerror}. Ask its owner.") from None
