"""One trainer per run directory: rank 0 claims it, writes heartbeats, and notices when it was taken over. No torch here.

Two trainers in one directory would overwrite each other's checkpoints. A killed trainer is taken over at once if its end is
certain: its process is gone from this machine, SLURM has requeued or ended its job, or its last heartbeat is old by the file
system's clock. Otherwise a new trainer waits for a heartbeat until the last one is old.
"""

import errno
import json
import os
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from types import TracebackType

from phalanx.configs.errors import Stopped, UserError
from phalanx.dist import heartbeat
from phalanx.dist.ownership import owner_record as records
from phalanx.dist.ownership.owner_record import PERIOD_S, STALE_S, Claim, Owner
from phalanx.dist.processes.environment import Ranks
from phalanx.dist.storage.durable_files import create_aside, remove_forgotten
from phalanx.dist.storage.run_directory import RunDirectory

_POLL_S = 0.1
_active: set[str] = set()  # tokens of this process's own claims


def _print(sentence: str) -> None:
    print(f"phalanx: {sentence}", file=sys.stderr, flush=True)


def refuse_second(run: RunDirectory) -> None:
    """Refuses a run that another trainer of this machine owns, before ranks are started. Only reads: `claim` decides.

    Raises:
        UserError: if that trainer is certainly alive.
    """
    try:
        there = records.newest_claim(run)
    except OSError:
        return
    if there is None or there.owner is None or there.owner.process == os.getpid():
        return
    owner = there.owner
    if records.is_copied(run, owner) or records.process_life(owner) != "alive" or records.is_dying(owner):
        return
    if not _was_requeued(owner, Owner.this_process(run)):
        raise UserError(_refusal(run, owner))


def _was_requeued(other: Owner, own: Owner) -> bool:
    """Whether an owner is this process's job before it was requeued."""
    return bool(own.job) and other.job == own.job and other.restarts < own.restarts


def _refusal(run: RunDirectory, owner: Owner) -> str:
    age = _span(time.time() - owner.started)
    ending = f"`phalanx cancel {run.path}`" if owner.job else f"`kill {owner.process}` on {owner.host}"
    return (
        f"{run.path}: {owner} already trains this run, for {age} so far. Wait for it, or end it with {ending}. "
        f"To take the run over from it, remove {records.folder_of(run)}: it then ends without writing."
    )


class RunOwner:
    """This trainer's claim to its run directory, from `claim` until the end of the `with` block.

    Args:
        job_is_over: whether SLURM reports that a job does not run; False if unknown.
        stopped: whether this process was asked to stop while it waits.
    """

    def __init__(
        self,
        run: RunDirectory,
        ranks: Ranks,
        job_is_over: Callable[[str], bool] = lambda job: False,
        stopped: Callable[[], bool] = lambda: False,
    ):
        self._run, self._folder, self._ranks = run, records.folder_of(run), ranks
        self._job_is_over, self._stopped = job_is_over, stopped
        self._made: list[Path] = []
        self._own: Owner | None = None
        self._path = Path()
        self._place = -1
        self._count = 0
        self._lost: str | None = None
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._live, name="run-owner", daemon=True)

    def __enter__(self) -> "RunOwner":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.release()

    # -- claiming -------------------------------------------------------------------------------------------------------

    def claim(self) -> None:
        """Claims the run for this trainer. Rank 0 calls, before anything in the run directory is read or changed.

        Raises:
            UserError: if another trainer is alive, or the directory cannot be written.
        """
        own, number = Owner.this_process(self._run), 0
        try:
            while not number:
                number = self._attempt(own)
            self._place = os.open(self._folder, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
            self._clean(number)
        except OSError as error:
            self._remove_made()
            place = error.filename or self._run.path
            raise UserError(f"{place}: cannot be written: {error.strerror}. Set runs=FOLDER to another folder.") from None
        except BaseException:
            self._remove_made()
            raise
        self._own = own
        _active.add(own.token)
        self._thread.start()

    def _attempt(self, own: Owner) -> int:
        """The number of our claim; 0 if another trainer claimed the run at the same moment."""
        self._make_folders()
        there = records.newest_claim(self._run)
        if there is not None:
            self._refuse_living(there)
        number = there.number + 1 if there else 1
        return number if self._try(own, number) else 0

    def _make_folders(self) -> None:
        missing = [self._folder, *self._folder.parents]
        for folder in reversed([path for path in missing if not path.exists()]):
            with suppress(FileExistsError):  # made meanwhile by another trainer's claim
                folder.mkdir()
                self._made.append(folder)

    def _try(self, own: Owner, number: int) -> bool:
        """Whether the claim of this number is ours, and none has a higher one."""
        path, beat = records.claim_path(self._folder, number), records.beat_path(self._folder, own.token)
        beat.write_bytes(self._next_beat())
        descriptor, aside = create_aside(path)
        try:
            with open(descriptor, "w") as file:
                file.write(json.dumps(own.to_json()) + "\n")
                file.flush()
                os.fsync(file.fileno())
            is_ours = _give_name(aside, path)
        finally:
            aside.unlink(missing_ok=True)
        if is_ours and records.numbers(self._folder)[-1] == number:
            self._path = path
            return True
        if is_ours:
            path.unlink(missing_ok=True)
        beat.unlink(missing_ok=True)
        return False

    def _refuse_living(self, there: Claim) -> None:
        """Returns once a claim's owner is known to be gone.

        Raises:
            UserError: if it is alive.
            Stopped: if this process is asked to stop while it waits.
        """
        if there.owner is None:
            return self._wait_for_a_claim_to_be_written(there)
        if self._is_ours_before(there.owner):
            return None
        state = records.life(self._run, there.owner, self._job_is_over)
        if state == "alive":
            state = self._after_its_death(there.owner)
        if state == "unclear":
            state = self._watch(there, there.owner)
        if state == "alive":
            raise UserError(_refusal(self._run, there.owner))
        return None

    def _is_ours_before(self, other: Owner) -> bool:
        """Whether a claim is an earlier one of this process, or of this job before it was requeued."""
        own = Owner.this_process(self._run)
        if own.born and (other.machine, other.process, other.born) == (own.machine, own.process, own.born):
            return other.token not in _active
        return _was_requeued(other, own)

    def _wait_for_a_claim_to_be_written(self, there: Claim) -> None:
        """A file system without links shows a claim before its content; one that stays empty has no owner."""
        deadline = time.monotonic() + PERIOD_S
        while records.read(there.path) is None and there.path.exists() and time.monotonic() < deadline:
            time.sleep(_POLL_S)
        owner = records.read(there.path)
        if owner is not None:
            self._refuse_living(Claim(there.number, there.path, owner))

    def _after_its_death(self, owner: Owner) -> records.Life:
        """A killed process may need a while to free its memory."""
        deadline = time.monotonic() + STALE_S
        while (state := records.process_life(owner)) == "alive" and records.is_dying(owner) and time.monotonic() < deadline:
            self._pause()
        return state

    def _watch(self, there: Claim, owner: Owner) -> records.Life:
        """Waits for a heartbeat, until the last one is old."""
        _print(f"{self._run.path}: {owner} trained here last; waiting up to {STALE_S:.0f} s for its heartbeat")
        before, deadline = records.beat_of(self._folder, owner), time.monotonic() + STALE_S
        while time.monotonic() < deadline:
            self._pause()
            now = records.beat_of(self._folder, owner)
            if not there.path.exists():
                return "gone"  # ended meanwhile
            if now is not None and now != before:
                return "alive"
            silent = records.age(self._folder, records.beat_path(self._folder, owner.token))
            if silent is not None and silent > STALE_S:
                break
        _print(f"{self._run.path}: no heartbeat from {owner}; its run is taken over")
        return "gone"

    def _pause(self) -> None:
        heartbeat.beat("join")
        time.sleep(_POLL_S)
        if self._stopped():
            raise Stopped(f"{self._run.path}: stopped while waiting for another trainer's heartbeat. Nothing is lost.")

    def _clean(self, own: int) -> None:
        """Removes earlier claims and their leftovers."""
        for number in records.numbers(self._folder):
            if number >= own:
                break
            path = records.claim_path(self._folder, number)
            owner = records.read(path)
            with suppress(OSError):
                if owner is not None:
                    records.beat_path(self._folder, owner.token).unlink(missing_ok=True)
                path.unlink()
        for folder in (self._folder, self._run.path):
            remove_forgotten(folder)

    # -- owning it ------------------------------------------------------------------------------------------------------

    @property
    def is_lost(self) -> bool:
        """Whether the run is known to be lost; reads nothing."""
        return self._lost is not None

    def problem(self) -> str | None:
        """Why nothing may be written to the run directory any more, if so. Reads a folder and a file."""
        if self._own is None or self._lost is not None:
            return self._lost
        try:
            there = records.newest_claim(self._run)
            if there is not None and there.owner is not None and there.owner.token == self._own.token:
                return None
            if there is not None and there.owner is None and there.path == self._path:
                return None  # it cannot be read at the moment
            is_there = self._folder.exists() or os.path.exists(self._run.identity)
        except OSError as error:
            if error.errno != errno.ESTALE:
                return None  # the file system does not answer: the next write will fail
            there, is_there = None, False
        self._lost = self._why_lost(there, is_there)
        return self._lost

    def _why_lost(self, there: Claim | None, is_there: bool) -> str:
        path = self._run.path
        if not is_there:
            return f"{path}: the run directory was {self._whereabouts()} during training; nothing more is written there."
        if there is not None and there.owner is not None:
            return f"{path}: {there.owner} has taken this run over; this trainer ends without writing."
        return f"{path}: {self._folder.name} was removed, which releases the run; this trainer ends without writing."

    def _whereabouts(self) -> str:
        """Where the run directory is now, from the kernel."""
        with suppress(OSError):
            now = Path(os.readlink(f"/proc/self/fd/{self._place}"))
            if now.is_dir():
                return f"moved to {now.parent}"
        return "deleted or moved away"

    def _live(self) -> None:
        while not self._over.wait(PERIOD_S):
            if self.problem() is not None:
                return
            with suppress(OSError):  # the next heartbeat may succeed
                self._beat()

    def _beat(self) -> None:
        """Increments in place: over NFS whoever opens a closed file sees its content, but a replaced file appears late."""
        assert self._own is not None
        flags = os.O_WRONLY | os.O_NOFOLLOW | os.O_CLOEXEC
        descriptor = os.open(records.beat_path(self._folder, self._own.token), flags)
        try:
            os.write(descriptor, self._next_beat())
        finally:
            os.close(descriptor)

    def _next_beat(self) -> bytes:
        self._count += 1
        return b"%012d\n" % self._count

    # -- releasing it -------------------------------------------------------------------------------------------------

    def release(self) -> None:
        """Releases the run. If it never started, the folders that were made for it are removed."""
        self._over.set()
        if self._own is None:
            return
        self._thread.join(PERIOD_S)
        if self.problem() is None:
            for path in (self._path, records.beat_path(self._folder, self._own.token)):
                with suppress(OSError):
                    path.unlink()
            if not os.path.exists(self._run.identity):
                self._remove_made()
        _active.discard(self._own.token)
        self._own = None
        os.close(self._place)

    def _remove_made(self) -> None:
        for folder in reversed(self._made):
            with suppress(OSError):  # it is in use
                folder.rmdir()
        self._made = []


def _give_name(aside: Path, path: Path) -> bool:
    """Links a finished file to its name; False if the name is taken."""
    try:
        os.link(aside, path, follow_symlinks=False)
    except FileExistsError:
        return False
    except OSError as error:
        if error.errno not in (errno.EPERM, errno.ENOTSUP, errno.ENOSYS, errno.EMLINK, errno.EACCES):
            raise
        return _copy(aside, path)
    return True


def _copy(aside: Path, path: Path) -> bool:
    """The same on a file system without links."""
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o666)
    except FileExistsError:
        return False
    with open(descriptor, "wb") as file:
        file.write(aside.read_bytes())
        file.flush()
        os.fsync(file.fileno())
    return True


def _span(seconds: float) -> str:
    seconds = max(0.0, seconds)
    for unit, name in ((86400, "d"), (3600, "h"), (60, "min")):
        if seconds >= unit:
            return f"{seconds / unit:.0f} {name}"
    return f"{seconds:.0f} s"
