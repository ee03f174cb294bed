"""A folder for the temporary files of a process and of all that it starts. No torch here.

torchrun, W&B and loader processes leave folders in TMPDIR when killed. They are put in here: the process that made the folder
removes it at its end, and if that was killed too, the next start does. Only folders that are certainly ours and unused are
removed: of this user, of this boot of the machine, and locked by no process. The kernel releases the lock with the last one.
"""

import fcntl
import getpass
import os
import re
import secrets
import shutil
import stat
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

from phalanx.configs.errors import UserError

_NAME = re.compile(r"phalanx-[0-9a-f]{8}-[0-9a-f]{8}")
_LOCK = ".lock"
_LONGEST = 75  # characters: sockets in it have paths of 107 at most


def _boot() -> str:
    """An id of this boot of this machine: locks of another are meaningless here."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text()[:8]
    except OSError:
        return "00000000"


@contextmanager
def opened() -> Iterator[Path]:
    """A new folder that only this user can read; those that killed processes left are removed first.

    Raises:
        UserError: if none can be made.
    """
    try:
        folder, lock = _make(Path(tempfile.gettempdir()))
    except OSError as error:
        where = error.filename or os.environ.get("TMPDIR", "/tmp")
        raise UserError(f"{where}: no temporary folder can be made: {error.strerror}. Set TMPDIR to another folder.") from None
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        os.close(lock)


def _make(outer: Path) -> tuple[Path, int]:
    """The folder, and its lock."""
    sweep(outer)
    folder = outer / f"phalanx-{_boot()}-{secrets.token_hex(4)}"
    folder.mkdir(mode=0o700)
    unlocked = folder / f"{_LOCK}.new"
    lock = os.open(unlocked, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    with suppress(OSError):  # a file system without locks: then it is never removed
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        os.rename(unlocked, folder / _LOCK)  # from now on it may be swept: before, it would have seemed unused
    return folder, lock


@contextmanager
def used() -> Iterator[None]:
    """Puts the temporary files of this process and its children into such a folder, if one can be made.

    If the command that started this rank has made one, that is used.
    """
    global _own
    with ExitStack() as stack:
        if not _NAME.fullmatch(Path(os.environ.get("TMPDIR", "")).name):
            with suppress(UserError):
                folder = stack.enter_context(opened())
                stack.callback(_restore, tempfile.tempdir, {name: os.environ.get(name) for name in environment(folder)})
                os.environ.update(environment(folder))
                tempfile.tempdir, _own = None, folder  # `tempfile` then looks it up again
        yield


_own: Path | None = None


def remove() -> None:
    """Removes the folder, for a process that calls `os._exit`."""
    if _own is not None:
        shutil.rmtree(_own, ignore_errors=True)


def _restore(folder: str | None, variables: dict[str, str | None]) -> None:
    tempfile.tempdir = folder
    for name, value in variables.items():
        if value is None:
            os.environ.pop(name, None)
        else:
            os.environ[name] = value


def environment(folder: Path) -> dict[str, str]:
    """Variables that put a process's temporary files into a folder; compiled code is kept for the next run."""
    if len(str(folder)) > _LONGEST:
        return {}
    try:
        user = re.sub(r'[\\/:*?"<>|]', "_", getpass.getuser())
    except (KeyError, OSError):  # a user without a name, as in containers
        user = str(os.getuid())
    compiled = os.environ.get("TORCHINDUCTOR_CACHE_DIR") or str(folder.parent / f"torchinductor_{user}")  # torch's default
    return {"TMPDIR": str(folder), "TORCHINDUCTOR_CACHE_DIR": compiled}


def sweep(outer: Path) -> None:
    """Removes the folders whose processes are all gone."""
    ours = f"phalanx-{_boot()}-"
    with suppress(OSError), os.scandir(outer) as entries:
        for entry in entries:
            if entry.name.startswith(ours) and _NAME.fullmatch(entry.name):
                with suppress(OSError):
                    _remove(Path(entry.path))


def _remove(folder: Path) -> None:
    """
    Raises:
        OSError: if it is in use, or another user's.
    """
    status = folder.lstat()
    if not stat.S_ISDIR(status.st_mode) or status.st_uid != os.geteuid() or status.st_mode & 0o077:
        return
    lock = os.open(folder / _LOCK, os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        shutil.rmtree(folder, ignore_errors=True)
    finally:
        os.close(lock)
