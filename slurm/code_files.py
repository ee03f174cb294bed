"""The files of the code that a job runs; `slurm/snapshot.py` copies them.

Only what the package needs: the rooms, `src/` (with its symbolic links to the rooms), `pyproject.toml`,
`LICENSE`, `README.md`; the recipes and cluster files are in the room `configs/`. Tests, documentation and benchmarks are
not copied. Of a git checkout these are the tracked files in the state of the working tree, and untracked `*.py` in the rooms
and in `src/`, since the code may import them (also those that only the user's own git settings ignore: many of them ignore
`dist/` and `data/`). Of anything else (a wheel, a source archive, a checkout that git refuses to read, another snapshot)
these are the package's Python, YAML and shell files. The files of the user's own classes (`./file.py:Class`) are added.
No link leads out of the code, and it holds neither data nor secrets.
"""

import fnmatch
import os
import stat
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

from phalanx.configs import own_code
from phalanx.configs.schema import RunConfig, flat

LARGEST_FILE = 10 * 2**20  # bytes
_TOP_FILES = ("pyproject.toml", "LICENSE", "README.md")
_PACKAGED = ("*.py", "*.yaml", "*.sh", "py.typed")
_SECRET = (
    *(".env", ".env.*", ".netrc", "_netrc", ".pgpass", ".pypirc", ".npmrc", ".htpasswd", ".git-credentials", ".ssh", ".aws"),
    *("id_rsa*", "id_dsa*", "id_ecdsa*", "id_ed25519*", "*.pem", "*.key", "*.p12", "*.pfx", "*.kdbx", "kaggle.json"),
)
_SECRET_UNLESS_PYTHON = ("*credential*", "*secret*")
_FIND_ANOTHER_REPOSITORY = (
    "GIT_DIR",
    "GIT_WORK_TREE",
    "GIT_INDEX_FILE",
    "GIT_COMMON_DIR",
    "GIT_OBJECT_DIRECTORY",
    "GIT_PREFIX",
)


@dataclass
class CodeFiles:
    """The content of a snapshot; places are relative to it."""

    files: dict[str, Path] = field(default_factory=dict)  # place: its source
    links: dict[str, str] = field(default_factory=dict)  # place: its target
    left_out: list[tuple[str, str]] = field(default_factory=list)
    commit: str | None = None
    changes: list[str] = field(default_factory=list)  # names of the files that differ from the commit
    untracked: list[str] = field(default_factory=list)

    def add(self, place: str, source: Path, root: Path | None) -> bool:
        """Adds a file or a symbolic link, or records why not. Links must stay in `root`; without a root they are followed."""
        if is_secret(place):
            return self.leave_out(place, "files of this name usually hold secrets")
        status = source.stat(follow_symlinks=root is None)
        if stat.S_ISLNK(status.st_mode):
            target = os.path.relpath(os.path.realpath(source), root)
            if target.split(os.sep)[0] == "..":
                return self.leave_out(place, "a symbolic link out of the checkout")
            self.links[place] = target
        elif not stat.S_ISREG(status.st_mode):
            return self.leave_out(place, "not a file (possibly a separate repository)")
        elif status.st_size > LARGEST_FILE:
            return self.leave_out(place, f"{status.st_size / 2**20:.0f} MB, and code has at most {LARGEST_FILE >> 20}")
        else:
            self.files[place] = source
        return True

    def leave_out(self, place: str, reason: str) -> bool:
        self.left_out.append((place, reason))
        return False


def is_secret(place: str) -> bool:
    """Whether files of this name, or in a folder of this name, usually hold secrets."""
    patterns = _SECRET if place.endswith(".py") else _SECRET + _SECRET_UNLESS_PYTHON
    return any(fnmatch.fnmatchcase(part.lower(), pattern) for part in PurePosixPath(place).parts for pattern in patterns)


def contents_of(root: Path) -> CodeFiles:
    """The code at `root`: of a checkout, what git tracks; else the package's files."""
    try:
        tracked = _git(root, "ls-files", "-z")
    except _GitFails as error:
        contents = _package(root)
        if (root / ".git").exists():
            contents.leave_out(".git", f"git cannot read this checkout, so its commit is unknown: {error}")
        return contents
    # An unpacked source archive, or a snapshot, may be inside another repository: then git answers, but does not track it.
    return _checkout(root, tracked) if "src/phalanx/__init__.py" in tracked else _package(root)


def _checkout(root: Path, tracked: list[str]) -> CodeFiles:
    contents = CodeFiles()
    rooms = {link.name for link in (root / "src/phalanx").iterdir() if link.is_symlink()}
    needed = rooms | {"src"}
    for place in dict.fromkeys(tracked):  # a file in conflict is listed once per side
        if (place in _TOP_FILES or PurePosixPath(place).parts[0] in needed) and os.path.lexists(root / place):
            contents.add(place, root / place, root)
    # Only the checkout's .gitignore counts, not the user's and .git/info/exclude.
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


def _package(root: Path) -> CodeFiles:
    """The files of a package that is not a checkout; `root` is the package, or has it in src/phalanx."""
    package = root / "src/phalanx" if (root / "src/phalanx").is_dir() else root
    contents = CodeFiles()
    for entry in sorted(package.iterdir()):
        # The rooms are symbolic links in a source archive and in a snapshot; so is each file with some installers.
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


def own_files(config: RunConfig) -> dict[str, Path]:
    """The user's own files that a recipe names. An installed package is on every node already."""
    named = [(key, name) for key, value in flat(config).items() for name in own_code.files(value)]
    for key, name in named:
        own_code.check(key, name)
    return {f"own/{own_code.place(name)}": own_code.file_of(name) for _, name in named}


class _GitFails(Exception):
    """There is no git, or no repository that it can read."""


def _git(root: Path, *arguments: str) -> list[str]:
    """The output of git in a folder, split at NUL."""
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
