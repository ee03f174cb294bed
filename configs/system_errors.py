"""Files and folders that cannot be used: one sentence for the operating system's error."""

import errno
import os
import pwd
from contextlib import suppress
from pathlib import Path

_FULL = (errno.ENOSPC, errno.EDQUOT)
_DENIED = (errno.EACCES, errno.EPERM)
_BROKEN = (errno.EIO, errno.ESTALE, errno.ENOTCONN, errno.EHOSTDOWN, errno.ETIMEDOUT)
_WRONG = (errno.EISDIR, errno.ENOTDIR, errno.ELOOP, errno.ENAMETOOLONG)


def trouble(error: OSError) -> str | None:
    """The problem of a path, and what to do; None if it may be a bug."""
    if error.filename is None:
        return None
    place, said = error.filename, (error.strerror or "").lower()
    if error.errno in _DENIED:
        return f"{place}: {said}{owned_by(str(place))}. Ask the owner for access, or work as that user."
    if error.errno in _FULL:
        return f"{place}: {said}. Free space there, then start again."
    if error.errno == errno.EROFS:
        return f"{place}: {said}. Choose another folder."
    if error.errno in _BROKEN:
        return f"{place}: {said}. Check its disk or file server, then start again."
    return f"{place}: {said}. Check the path." if error.errno in _WRONG else None


def owned_by(place: str) -> str:
    """` (SOMETHING belongs to SOMEBODY)`, of the innermost part of a path that is another user's and not accessible."""
    for path in (Path(place), *Path(place).absolute().parents):
        with suppress(OSError, KeyError):
            owner = path.stat().st_uid
            if owner == os.geteuid():
                return ""
            return f" ({path} belongs to {pwd.getpwuid(owner).pw_name})"
    return ""
