"""The code that a job runs, copied into its run directory when it is submitted: later edits change nothing in the job.

`RUN/code/` holds the files that `slurm/code_files.py` names, and `RUN/code/own/` the user's own (`./file.py:Class`).
`RUN/code/commit.json` identifies the code. A snapshot is written aside and renamed: it is complete or absent.
"""

import contextlib
import errno
import os
import secrets
import shutil
import stat
import time
from dataclasses import dataclass
from pathlib import Path

from phalanx import __version__
from phalanx.configs import own_code
from phalanx.configs.errors import UserError
from phalanx.configs.schema import RunConfig
from phalanx.dist.storage.durable_files import fsync_directory, read_json_object, write_json
from phalanx.dist.storage.run_directory import RunDirectory
from phalanx.slurm.code_files import CodeFiles, contents_of, own_files

_STALE_S = 3600.0  # a snapshot takes seconds: an older unfinished one belongs to a killed process


@dataclass(frozen=True)
class Snapshot:
    """A copy of the code in a run directory.

    Attributes:
        path: the folder, absolute.
        commit: id of the checked out commit; None without one.
        changed: whether the checkout differed from that commit.
        files, bytes: copied, without commit.json.
        left_out: files of the code that were not copied, with the reasons.
        untracked: copied files that git does not track.
    """

    path: Path
    commit: str | None
    changed: bool
    files: int
    bytes: int
    left_out: tuple[tuple[str, str], ...]
    untracked: tuple[str, ...] = ()

    def python_path(self) -> str:
        """PYTHONPATH of the job: the snapshot first, then the caller's, without folders that hold another phalanx."""
        return _python_path(self.path)

    def environment(self) -> dict[str, str]:
        """The variables with which a process runs this code."""
        return _environment(self.path)

    @staticmethod
    def environment_of(run: RunDirectory) -> dict[str, str]:
        """The variables for a run that may have no snapshot yet."""
        return _environment(_place(run))


def snapshot(run: RunDirectory, config: RunConfig, again: bool = False) -> Snapshot:
    """Copies the running code, and the user's own, to `RUN/code`.

    An existing snapshot is kept and returned: a run resumes with the code that it started with.

    Args:
        again: take a new one nevertheless; the old one becomes `RUN/code-N`. No job of the run may be running: it would
            import from both.

    Raises:
        UserError: if the user's own code is missing or not Python, or a file cannot be read or written.
    """
    return snapshot_of(Path(__file__).resolve().parent.parent, run, config, again)


def snapshot_of(root: Path, run: RunDirectory, config: RunConfig, again: bool = False) -> Snapshot:
    """As `snapshot`, from the checkout or the installed package at `root`."""
    code = _place(run)
    if code.exists() and not again:
        return _read(code)
    own = own_files(config)
    try:
        contents = contents_of(root.resolve())
        contents.files |= own
        code.parent.mkdir(parents=True, exist_ok=True)
        _remove_stale(code.parent)
        aside = code.parent / f".code-{os.getpid()}-{secrets.token_hex(4)}"  # another host may have this process id too
        try:
            _fill(aside, contents)
            _put(aside, code, again)
        finally:
            shutil.rmtree(aside, ignore_errors=True)
    except OSError as error:
        raise UserError(
            f"{error.filename or code}: {error.strerror}, while the code was copied to {code}. The copy was removed. "
            "Remedy this, or set runs=FOLDER to another folder."
        ) from None
    return _read(code)


def _place(run: RunDirectory) -> Path:
    """A run's snapshot, absolute; not resolved, as compute nodes may mount it elsewhere.

    Raises:
        UserError: if Python cannot import from there.
    """
    code = Path(os.path.abspath(run.code))
    if os.pathsep in str(code):
        raise UserError(f"{code}: Python cannot import from a path with {os.pathsep!r} in it. Set runs=FOLDER to another.")
    return code


def _python_path(code: Path) -> str:
    callers = os.environ.get("PYTHONPATH", "").split(os.pathsep)
    return os.pathsep.join([str(code / "src"), *(p for p in callers if p and not Path(p, "phalanx").exists())])


def _environment(code: Path) -> dict[str, str]:
    return {"PYTHONPATH": _python_path(code), own_code.OWN_CODE: str(code / "own")}


def _fill(aside: Path, contents: CodeFiles) -> None:
    """Writes a snapshot under a temporary name; returns when it is on the disk."""
    aside.mkdir()
    total = 0
    for place, source in contents.files.items():
        (aside / place).parent.mkdir(parents=True, exist_ok=True)
        total += _copy(source, aside / place)
    for place, target in contents.links.items():
        if not (aside / target).exists():
            contents.leave_out(place, f"a symbolic link to {target}, which is outside of the code")
            continue
        (aside / place).parent.mkdir(parents=True, exist_ok=True)
        os.symlink(os.path.relpath(target, os.path.dirname(place)), aside / place)
    described = {
        "commit": contents.commit,
        "version": __version__,
        "changed": bool(contents.changes or contents.untracked),
        "changes": contents.changes,
        "untracked": contents.untracked,
        "left_out": contents.left_out,
        "files": len(contents.files),
        "bytes": total,
        "time": time.time(),
    }
    write_json(aside / "commit.json", described)
    for folder, _, _ in os.walk(aside):
        fsync_directory(Path(folder))


def _copy(source: Path, target: Path) -> int:
    """Copies a file with its executable bit; returns its size in bytes."""
    content = source.read_bytes()
    with open(target, "xb") as file:
        file.write(content)
        file.flush()
        if source.stat().st_mode & stat.S_IXUSR:
            mode = stat.S_IMODE(os.fstat(file.fileno()).st_mode)
            os.fchmod(file.fileno(), mode | (mode & 0o444) >> 2)  # executable for all who may read it
        os.fsync(file.fileno())
    return len(content)


def _put(aside: Path, code: Path, again: bool) -> None:
    """Renames a finished snapshot to its place; an existing one stays, or is renamed."""
    while True:
        try:
            os.rename(aside, code)
            return fsync_directory(code.parent)
        except OSError as error:
            if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
                raise
        if not again:
            return  # another process was faster
        _move_away(code)


def _move_away(code: Path) -> None:
    number = 1
    while os.path.lexists(old := code.with_name(f"{code.name}-{number}")):
        number += 1
    with contextlib.suppress(FileNotFoundError):  # another process has just done it
        os.rename(code, old)


def _remove_stale(folder: Path) -> None:
    """Removes what killed processes left of their snapshots."""
    for left in folder.glob(".code-*"):
        if time.time() - left.lstat().st_mtime > _STALE_S:
            shutil.rmtree(left, ignore_errors=True)


def _read(code: Path) -> Snapshot:
    """The existing snapshot.

    Raises:
        UserError: if the folder is not a snapshot.
    """
    try:
        said = read_json_object(code / "commit.json")
        return Snapshot(
            path=code,
            commit=said["commit"],
            changed=said["changed"],
            files=said["files"],
            bytes=said["bytes"],
            left_out=tuple((place, reason) for place, reason in said["left_out"]),
            untracked=tuple(said["untracked"]),
        )
    except (OSError, ValueError, KeyError, TypeError):
        raise UserError(f"{code}: this is not a snapshot of the code (no valid commit.json). Move it away.") from None
