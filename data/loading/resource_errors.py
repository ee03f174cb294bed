"""Explains why loader processes end or cannot start: one sentence with its remedy. No torch here."""

import errno
import re
import resource

from phalanx.configs.errors import TrainingFailed

_MORE_SHARED = "enlarge /dev/shm (docker run --shm-size=8g, or --ipc=host)"
FEWER = "Set data.workers to fewer (0 loads in the training process)"

_SHARED_MEMORY = re.compile(
    r"(?i)bus error|shared memory\(shm\)|shared memory object|insufficient shared memory|unable to (mmap|resize)|/dev/shm"
)
_FILES = re.compile(r"(?i)too many open files|items of ancdata")
_PROCESSES = re.compile(r"can't start new thread")
_WORKER = re.compile(r"DataLoader worker \(pid")
_KILLED = re.compile(r"killed by signal: ([^.]*)\.|exited unexpectedly(?: with exit code (\d+))?")


class LoaderFailed(TrainingFailed):
    """A loader process has ended, or could not start, for lack of a resource."""

    shared = False


def is_of_a_worker(error: BaseException) -> bool:
    """Whether torch raised an error because a loader process ended, which it does anywhere in the rank."""
    return isinstance(error, RuntimeError) and _WORKER.search(str(error)) is not None


def explained(error: BaseException) -> str | None:
    """The explanation and its remedy; None for another error."""
    said = str(error)
    if isinstance(error, EOFError | ConnectionError):
        # It could open no connection through which its files are handed over; or it was killed at that moment.
        return f"a loader process ended while it sent a batch. {FEWER}, or raise `ulimit -n`, and see what it said before."
    if not isinstance(error, OSError | RuntimeError):
        return None
    number = error.errno if isinstance(error, OSError) else None
    if number in (errno.EMFILE, errno.ENFILE) or _FILES.search(said):
        soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
        return f"too many open files: this process may have {soft}. {FEWER}, or raise `ulimit -n`."
    if number == errno.ENOENT and "No usable temporary directory" in said:
        return f"no file can be made in a temporary directory: too many open files, or no room. {FEWER}, or raise `ulimit -n`."
    if _SHARED_MEMORY.search(said) and (number is None or number == errno.ENOSPC):
        return f"/dev/shm, through which loader processes send batches, is full or too small. {FEWER}, or {_MORE_SHARED}."
    if number == errno.EAGAIN or _PROCESSES.search(said):
        return f"no more processes can be started here. {FEWER}, or raise `ulimit -u` (in a container, its limit of processes)."
    if number == errno.ENOMEM:
        return f"there is not enough memory to start loader processes. {FEWER}, or give the job more memory."
    if _WORKER.search(said):
        return _ended(said)
    return None


def _ended(message: str) -> str:
    """The explanation for a loader process that has ended."""
    found = _KILLED.search(message)
    how = (found[1] or "") if found else ""
    if how and how != "Killed":
        return f"a loader process ended: {how}. Set data.workers=0 to see in which sample."
    killed = "was killed" if how else "ended without a report"
    why = "usually by the kernel, when memory runs out"
    return f"a loader process {killed}: {why}. {FEWER}, or give the job more memory."
