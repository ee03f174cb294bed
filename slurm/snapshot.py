"""The code that a job runs, copied into its run directory when it is submitted: later edits change nothing in the job.

`RUN/code/` holds the files that `slurm/code_files.py` names, and `RUN/code/own/` the user's own (`./file.py:Class`).
`RUN/code/commit.json` says what code it is. A snapshot is written aside and renamed: it is there whole, or not at all.
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

_STALE_S = 3600.0  # a snapshot takes seconds: what is left of one after so long belongs to a process that was killed


@dataclass(frozen=True)
class Snapshot:
    """A copy of the code in a run directory.

    Attributes:
        path: the folder, absolute.
        commit: id of the commit that was checked out; None where there is none.
        changed: whether the checkout differed from that commit.
        files, bytes: how much was copied, without commit.json.
        left_out: files that were not copied though they belong to the code, each with the reason.
        untracked: files that were copied though git does not track them.
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
        """The variables by which a process runs this code."""
        return _environment(self.path)

    @staticmethod
    def environment_of(run: RunDirectory) -> dict[str, str]:
        """The same of a run that may have no snapshot yet."""
        return _environment(_place(run))


def snapshot(run: RunDirectory, config: RunConfig, again: bool = False) -> Snapshot:
    """Copies the code that runs now, and the user's own, to `RUN/code`.

    A snapshot that is there is kept and returned: a run goes on with the code that it began with.

    Args:
        again: take a new one all the same; the old one becomes `RUN/code-N`. No job of the run may be under way: it
            would import one half from the old code, the other from the new.

    Raises:
        UserError: where the user's own code is missing or no Python, or something cannot be read or written.
    """
    return snapshot_of(Path(__file__).resolve().parent.parent, run, config, again)


def snapshot_of(root: Path, run: RunDirectory, config: RunConfig, again: bool = False) -> Snapshot:
    """As `snapshot`, of the checkout or the installed package at `root`."""
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
            f"{error.filename or code}: {error.strerror}, while the code was copied to {code}. Nothing is left of the copy. "
            "Remedy this, or set runs=FOLDER to another folder."
        ) from None
    return _read(code)


def _place(run: RunDirectory) -> Path:
    """Where a run's snapshot lies, absolute; not resolved, as compute nodes may mount it from another place.

    Raises:
        UserError: where Python could not import from there.
    """
    code = Path(os.path.abspath(run.code))
    if os.pathsep in str(code):
        raise UserError(f"{code}: Python imports nothing from a path with {os.pathsep!r} in it. Set runs=FOLDER to another.")
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
            contents.leave_out(place, f"a symbolic link to {target}, which does not belong to the code")
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
    """Renames a finished snapshot to its place; where one is there already, that one stays or is renamed."""
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
    """The snapshot that is there.

    Raises:
        UserError: where the folder is no snapshot.
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
        raise UserError(f"{code}: this is no snapshot of the code (commit.json is missing or broken). Move it away.") from None
