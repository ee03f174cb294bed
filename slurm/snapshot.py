"""The code that a job runs, copied into its run directory when it is submitted: later edits change nothing in the job.

`RUN/code/` holds what the package needs, and no more: the rooms, `src/` (with its symbolic links to the rooms),
`pyproject.toml`, `LICENSE`, `README.md`; the recipes and cluster files are in the room `configs/`. Tests, documentation
and benchmarks stay behind. From a git checkout come the tracked files as they are in the working tree now, and untracked
`*.py` in the rooms and in `src/`, since the code that runs may import them (those too that only the user's own git
settings ignore: many of them ignore `dist/` and `data/`). From anything else (a wheel, a source archive, a
checkout that git refuses to read, another snapshot) come the package's Python, YAML and shell files.
`RUN/code/own/` holds the user's own classes (`./file.py:Class`), each file alone. `RUN/code/commit.json` says what
code it is. Nothing leads out of the snapshot, and no data and no secrets are in it.
"""

import contextlib
import errno
import fnmatch
import json
import os
import secrets
import shutil
import stat
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

from phalanx import __version__
from phalanx.configs import own_code
from phalanx.configs.errors import UserError
from phalanx.configs.schema import RunConfig, flat
from phalanx.dist.files import fsync_directory, write_json
from phalanx.dist.run_directory import RunDirectory

LARGEST_FILE = 10 * 2**20  # bytes
_TOP_FILES = ("pyproject.toml", "LICENSE", "README.md")
_PACKAGED = ("*.py", "*.yaml", "*.sh", "py.typed")
_SECRET = (
    *(".env", ".env.*", ".netrc", "_netrc", ".pgpass", ".pypirc", ".npmrc", ".htpasswd", ".git-credentials", ".ssh", ".aws"),
    *("id_rsa*", "id_dsa*", "id_ecdsa*", "id_ed25519*", "*.pem", "*.key", "*.p12", "*.pfx", "*.kdbx", "kaggle.json"),
)
_SECRET_UNLESS_PYTHON = ("*credential*", "*secret*")
_STALE_S = 3600.0  # a snapshot takes seconds: what is left of one after so long belongs to a process that was killed
_FIND_ANOTHER_REPOSITORY = (
    "GIT_DIR",
    "GIT_WORK_TREE",
    "GIT_INDEX_FILE",
    "GIT_COMMON_DIR",
    "GIT_OBJECT_DIRECTORY",
    "GIT_PREFIX",
)


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
    own = _own_code(config)
    try:
        contents = _contents(root.resolve())
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
            "Remedy this, or set runs=FOLDER to another place."
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


@dataclass
class _Contents:
    """What belongs into a snapshot; places are relative to it."""

    files: dict[str, Path] = field(default_factory=dict)  # place: where it is copied from
    links: dict[str, str] = field(default_factory=dict)  # place: the place that it leads to
    left_out: list[tuple[str, str]] = field(default_factory=list)
    commit: str | None = None
    changes: list[str] = field(default_factory=list)  # names of the files that differ from the commit
    untracked: list[str] = field(default_factory=list)

    def add(self, place: str, source: Path, root: Path | None) -> bool:
        """Takes up a file, or says why not; a symbolic link too, which must stay in `root`: without one, links are followed."""
        if is_secret(place):
            return self.leave_out(place, "its name is one that holds secrets")
        status = source.stat(follow_symlinks=root is None)
        if stat.S_ISLNK(status.st_mode):
            target = os.path.relpath(os.path.realpath(source), root)
            if target.split(os.sep)[0] == "..":
                return self.leave_out(place, "a symbolic link out of the checkout")
            self.links[place] = target
        elif not stat.S_ISREG(status.st_mode):
            return self.leave_out(place, "not a file (a repository of its own, perhaps)")
        elif status.st_size > LARGEST_FILE:
            return self.leave_out(place, f"{status.st_size / 2**20:.0f} MB, and code has at most {LARGEST_FILE >> 20}")
        else:
            self.files[place] = source
        return True

    def leave_out(self, place: str, reason: str) -> bool:
        self.left_out.append((place, reason))
        return False


def is_secret(place: str) -> bool:
    """Whether a file's name, or that of a folder that it lies in, is one that usually holds secrets."""
    patterns = _SECRET if place.endswith(".py") else _SECRET + _SECRET_UNLESS_PYTHON
    return any(fnmatch.fnmatchcase(part.lower(), pattern) for part in PurePosixPath(place).parts for pattern in patterns)


def _contents(root: Path) -> _Contents:
    """The code at `root`: of a checkout, what git tracks; else the package's files."""
    try:
        tracked = _git(root, "ls-files", "-z")
    except _GitFails as error:
        contents = _package(root)
        if (root / ".git").exists():
            contents.leave_out(".git", f"git does not read this checkout, so its commit is not known: {error}")
        return contents
    # An unpacked source archive, or a snapshot, may lie in somebody's repository: then git answers, but does not know it.
    return _checkout(root, tracked) if "src/phalanx/__init__.py" in tracked else _package(root)


def _checkout(root: Path, tracked: list[str]) -> _Contents:
    contents = _Contents()
    rooms = {link.name for link in (root / "src/phalanx").iterdir() if link.is_symlink()}
    needed = rooms | {"src"}
    for place in dict.fromkeys(tracked):  # a file in conflict is listed once a side
        if (place in _TOP_FILES or PurePosixPath(place).parts[0] in needed) and os.path.lexists(root / place):
            contents.add(place, root / place, root)
    # The checkout's own .gitignore counts, the user's and .git/info/exclude do not.
    for place in _git(root, "ls-files", "-z", "--others", "--exclude-per-directory=.gitignore", "--", *sorted(needed)):
        imported = place.endswith((".py", "/")) or (root / place).is_symlink()
        if imported and contents.add(place.rstrip("/"), root / place.rstrip("/"), root):
            contents.untracked.append(place)
    try:
        contents.commit = _git(root, "rev-parse", "--verify", "HEAD")[0].strip()
        differ = ("diff", "--name-only", "-z", "--no-renames", "--no-ext-diff", "--relative", "HEAD", "--")
        contents.changes = _git(root, *differ)
    except _GitFails:
        contents.changes = tracked  # nothing was committed yet
    return contents


def _package(root: Path) -> _Contents:
    """The files of a package that is no checkout; `root` is the package, or holds it as src/phalanx."""
    package = root / "src/phalanx" if (root / "src/phalanx").is_dir() else root
    contents = _Contents()
    for entry in sorted(package.iterdir()):
        # The rooms are symbolic links in a source archive and in a snapshot; so is each file where some installers put it.
        for file in _walk(entry):
            if file.is_file() and any(fnmatch.fnmatchcase(file.name, pattern) for pattern in _PACKAGED):
                contents.add(f"src/phalanx/{file.relative_to(package).as_posix()}", file, None)
    return contents


def _walk(entry: Path) -> Iterator[Path]:
    """A file itself, or all files of a folder."""
    if not entry.is_dir():
        yield entry
    for folder, folders, files in os.walk(entry):
        folders[:] = sorted(set(folders) - {"__pycache__"})
        yield from (Path(folder, name) for name in sorted(files))


def _own_code(config: RunConfig) -> dict[str, Path]:
    """The user's own files that a recipe names."""
    named = {key: value for key, value in flat(config).items() if isinstance(value, str) and own_code.is_own(value)}
    for key, name in named.items():
        own_code.check(key, name)
    return {f"own/{own_code.place(name)}": own_code.file_of(name) for name in named.values()}


class _GitFails(Exception):
    """There is no git, or no repository that it reads here."""


def _git(root: Path, *arguments: str) -> list[str]:
    """What git prints in a folder, split at NUL."""
    environment = {k: v for k, v in os.environ.items() if k not in _FIND_ANOTHER_REPOSITORY}
    command = ["git", "--no-optional-locks", *arguments]
    try:
        done = subprocess.run(command, cwd=root, env=environment, capture_output=True, check=True, timeout=120)
    except subprocess.CalledProcessError as error:
        said = os.fsdecode(error.stderr).strip().splitlines()
        raise _GitFails(said[0] if said else f"exit code {error.returncode}") from None
    except (OSError, subprocess.SubprocessError) as error:
        raise _GitFails(str(error)) from None
    return [os.fsdecode(part) for part in done.stdout.split(b"\0") if part]


def _fill(aside: Path, contents: _Contents) -> None:
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
        said: dict[str, Any] = json.loads((code / "commit.json").read_text())
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
