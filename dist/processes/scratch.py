"""A folder of its own for the temporary files of a process and of all that it starts. No torch here.

torchrun, W&B and loader processes leave folders in TMPDIR where they are killed. In here they are found: whoever made the
folder takes it away at its end, and where that was killed too, the next start does. Nothing is taken away that is not provably
ours and forsaken: of this user, of this boot of the machine, and locked by no process. The kernel lifts the lock with the last.
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
_LONGEST = 75  # characters: below it lie sockets, whose paths have 107 at most


def _boot() -> str:
    """A word for this boot of this machine: locks of another say nothing here."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text()[:8]
    except OSError:
        return "00000000"


@contextmanager
def opened() -> Iterator[Path]:
    """A new folder that only this user can read; those that killed processes left are taken away first.

    Raises:
        UserError: where none can be made.
    """
    try:
        folder, lock = _make(Path(tempfile.gettempdir()))
    except OSError as error:
        where = error.filename or os.environ.get("TMPDIR", "/tmp")
        raise UserError(f"{where}: no temporary folder can be made: {error.strerror}. Set TMPDIR to another place.") from None
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
    with suppress(OSError):  # a file system without locks: then it is never swept
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        os.rename(unlocked, folder / _LOCK)  # now it may be looked for: before, it would have seemed forsaken
    return folder, lock


@contextmanager
def used() -> Iterator[None]:
    """This process's temporary files, and its children's, lie in such a folder, if one can be made.

    Where they lie in one already, the command's that started this rank, they stay there.
    """
    global _own
    with ExitStack() as stack:
        if not _NAME.fullmatch(Path(os.environ.get("TMPDIR", "")).name):
            with suppress(UserError):
                folder = stack.enter_context(opened())
                stack.callback(_restore, tempfile.tempdir, {name: os.environ.get(name) for name in environment(folder)})
                os.environ.update(environment(folder))
                tempfile.tempdir, _own = None, folder  # the former is looked for anew
        yield


_own: Path | None = None


def remove() -> None:
    """For a process that ends itself without ado."""
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
    """What tells a process to put its temporary files into a folder; but what was compiled is kept for the next run."""
    if len(str(folder)) > _LONGEST:
        return {}
    try:
        user = re.sub(r'[\\/:*?"<>|]', "_", getpass.getuser())
    except (KeyError, OSError):  # a user without a name, as in containers
        user = str(os.getuid())
    compiled = os.environ.get("TORCHINDUCTOR_CACHE_DIR") or str(folder.parent / f"torchinductor_{user}")  # torch's default
    return {"TMPDIR": str(folder), "TORCHINDUCTOR_CACHE_DIR": compiled}


def sweep(outer: Path) -> None:
    """Takes away the folders whose processes are all gone."""
    ours = f"phalanx-{_boot()}-"
    with suppress(OSError), os.scandir(outer) as entries:
        for entry in entries:
            if entry.name.startswith(ours) and _NAME.fullmatch(entry.name):
                with suppress(OSError):
                    _take_away(Path(entry.path))


def _take_away(folder: Path) -> None:
    """
    Raises:
        OSError: where it is somebody's still, or somebody else's.
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
