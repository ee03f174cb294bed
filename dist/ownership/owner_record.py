"""Which trainer owns a run directory: the record that it writes there, and whether it is still alive. No torch here.

`RUN/.trainer/claim-000007.json` is the claim of the run's owner, if no claim has a higher number;
`beat-TOKEN` a counter that it increments every few seconds. No file locks, which NFS may lack: a claim is made by linking a
finished file to its name, which succeeds for only one of two at the same moment.
"""

import math
import os
import re
import secrets
import socket
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, fields
from functools import cache
from pathlib import Path
from typing import Any, Literal

from phalanx.dist.processes.children import born
from phalanx.dist.storage.durable_files import create_aside, read_json_object
from phalanx.dist.storage.run_directory import RunDirectory

PERIOD_S = 5.0  # between two heartbeats
STALE_S = 60.0  # without a heartbeat: NFS may show one late, and a loaded node may write one late
_CLAIM = re.compile(r"claim-(\d{6,12})\.json")
_TOKEN = re.compile(r"[0-9a-f]{16}")
_EXITING, _SIGKILL = 0x4, 1 << 8  # kernel bits: PF_EXITING, and SIGKILL among the pending signals

Life = Literal["alive", "gone", "unclear"]


@dataclass(frozen=True)
class Owner:
    """A trainer, as its claim describes it.

    Attributes:
        token: unique to the claim.
        machine: the boot of a kernel and a namespace of process ids, in which `process` and `born` are valid.
        process, born: rank 0's process id, and when the kernel started it.
        started: when it was claimed, in seconds since 1970.
        path: the run directory's, at that time.
        job, restarts: SLURM's; empty and 0 without SLURM.
    """

    token: str
    host: str
    machine: str
    process: int
    born: int
    started: float
    path: str
    job: str
    restarts: int

    @classmethod
    def this_process(cls, run: RunDirectory, environment: Mapping[str, str] = os.environ) -> "Owner":
        restarts = environment.get("SLURM_RESTART_COUNT", "")
        return cls(
            token=secrets.token_hex(8),
            host=socket.gethostname(),
            machine=_machine(),
            process=os.getpid(),
            born=born(os.getpid()),
            started=time.time(),
            path=str(run.path.resolve()),
            job=environment.get("SLURM_JOB_ID", ""),
            restarts=int(restarts) if restarts.isdecimal() else 0,
        )

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    def __str__(self) -> str:
        job = f" (job {self.job})" if self.job else ""
        return f"process {self.process} on {self.host}{job}"


@dataclass(frozen=True)
class Claim:
    """A claim that exists; `owner` is None if it cannot be read."""

    number: int
    path: Path
    owner: Owner | None


def folder_of(run: RunDirectory) -> Path:
    return run.path / ".trainer"


def claim_path(folder: Path, number: int) -> Path:
    return folder / f"claim-{number:06d}.json"


def beat_path(folder: Path, token: str) -> Path:
    return folder / f"beat-{token}"


def numbers(folder: Path) -> list[int]:
    """The numbers of all claims, the valid one's last.

    Raises:
        OSError: if the folder cannot be read; a missing one has no claims.
    """
    try:
        found = (_CLAIM.fullmatch(name) for name in os.listdir(folder))
    except FileNotFoundError:
        return []
    return sorted(int(match[1]) for match in found if match)


def newest_claim(run: RunDirectory) -> Claim | None:
    """The claim with the highest number.

    Raises:
        OSError: if the folder cannot be read.
    """
    folder = folder_of(run)
    there = numbers(folder)
    if not there:
        return None
    path = claim_path(folder, there[-1])
    return Claim(there[-1], path, read(path))


def read(path: Path) -> Owner | None:
    """A claim's owner; None if it cannot be read."""
    try:
        said = read_json_object(path)
    except (OSError, ValueError):
        return None
    kinds = {field.name: field.type for field in fields(Owner)}
    for name, kind in kinds.items():
        value = said.get(name)
        if not isinstance(value, kind) or isinstance(value, bool):  # type: ignore[arg-type]
            return None
    is_possible = 0 < said["process"] < 2**31 and math.isfinite(said["started"]) and _is_path(said["path"])
    return Owner(**{name: said[name] for name in kinds}) if is_possible and _TOKEN.fullmatch(said["token"]) else None


def _is_path(text: str) -> bool:
    try:
        return b"\0" not in os.fsencode(text)
    except UnicodeError:
        return False


def beat_of(folder: Path, owner: Owner) -> bytes | None:
    """The last value of its counter."""
    try:
        return beat_path(folder, owner.token).read_bytes()
    except OSError:
        return None


def age(folder: Path, path: Path) -> float | None:
    """Seconds since a file changed, by the file system's clock, which sets both times; None if unknown."""
    with suppress(OSError):
        descriptor, probe = create_aside(folder / "clock")
        try:
            now = os.fstat(descriptor).st_mtime
        finally:
            os.close(descriptor)
            probe.unlink()
        return now - path.stat().st_mtime
    return None


def process_life(owner: Owner) -> Life:
    """Whether the process exists, as far as this machine can see."""
    if owner.machine != _machine() or not owner.machine or not owner.born or owner.process <= 0:
        return "unclear"
    try:
        text = Path(f"/proc/{owner.process}/stat").read_text().rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return _hidden(owner.process)
    except OSError:
        return "unclear"
    is_another = int(text[19]) != owner.born
    return "gone" if is_another or text[0] in "ZX" else "alive"


def _hidden(process: int) -> Life:
    """A process that is not in /proc: it is gone, or another user's that /proc hides."""
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return "gone"
    except OSError:
        return "unclear"
    return "unclear"


def is_dying(owner: Owner) -> bool:
    """Whether an existing process was killed, and is only freeing its memory."""
    folder = Path(f"/proc/{owner.process}")
    with suppress(OSError, ValueError, IndexError):
        if int((folder / "stat").read_text().rpartition(")")[2].split()[6]) & _EXITING:
            return True
        pending = re.findall(r"^S(?:ig|hd)Pnd:\s*([0-9a-f]+)$", (folder / "status").read_text(), re.MULTILINE)
        return any(int(mask, 16) & _SIGKILL for mask in pending)
    return False


def is_copied(run: RunDirectory, owner: Owner) -> bool:
    """Whether the claim was copied with the run directory, and belongs to the original."""
    if owner.path == str(run.path.resolve()):
        return False
    there = RunDirectory(Path(owner.path))
    with suppress(OSError):
        claim = newest_claim(there)
        is_valid = claim is not None and claim.owner is not None and claim.owner.token == owner.token
        return is_valid and not os.path.samefile(folder_of(there), folder_of(run))
    return False


def life(run: RunDirectory, owner: Owner, job_is_over: Callable[[str], bool] = lambda job: False) -> Life:
    """Whether a trainer is alive, from what is known at once.

    Args:
        job_is_over: whether SLURM reports that a job does not run.
    """
    if is_copied(run, owner):
        return "gone"
    here = process_life(owner)
    if here != "unclear":
        return here
    if owner.job and job_is_over(owner.job):
        return "gone"
    folder = folder_of(run)
    silent = age(folder, beat_path(folder, owner.token))
    return "gone" if silent is not None and silent > STALE_S else "unclear"


def is_alive(run: RunDirectory, owner: Owner) -> bool:
    """Whether a trainer seems to be alive, for commands that only read: by this machine's clock as a last resort."""
    state = life(run, owner)
    if state != "unclear":
        return state == "alive"
    try:
        silent = time.time() - beat_path(folder_of(run), owner.token).stat().st_mtime
    except OSError:
        return False
    return silent < STALE_S


@cache
def _machine() -> str:
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return f"{boot} {os.readlink('/proc/self/ns/pid')}"
    except OSError:
        return ""
