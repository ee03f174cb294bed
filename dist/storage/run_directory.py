"""The run directory, `RUNS/NAME`: where everything about a run is stored, and which experiment's it is. No torch here."""

import os
import secrets
import shutil
import subprocess
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from phalanx import __version__
from phalanx.configs import own_code
from phalanx.configs.errors import UserError
from phalanx.configs.load import differences, stored, to_yaml
from phalanx.configs.schema import RunConfig, digest, flat
from phalanx.configs.system_errors import trouble
from phalanx.dist.storage.durable_files import read_json_object, write_atomically, write_json
from phalanx.dist.storage.json_lines import JsonLines, read_lines

_OF_TRAINERS = {".trainer", ".heartbeat"}


@dataclass(frozen=True)
class RunDirectory:
    """Paths of a run."""

    path: Path

    @classmethod
    def of(cls, config: RunConfig) -> "RunDirectory":
        return cls(Path(config.runs) / config.name)

    @property
    def config(self) -> Path:
        return self.path / "config.yaml"

    @property
    def identity(self) -> Path:
        return self.path / "run.json"

    @property
    def data(self) -> Path:
        """What is known of the training data."""
        return self.path / "data.json"

    @property
    def metrics(self) -> Path:
        return self.path / "metrics.jsonl"

    @property
    def events(self) -> Path:
        return self.path / "events.jsonl"

    @property
    def ledger(self) -> Path:
        return self.path / "ledger"

    @property
    def checkpoints(self) -> Path:
        return self.path / "checkpoints"

    @property
    def errors(self) -> Path:
        return self.path / "errors"

    @property
    def logs(self) -> Path:
        """The output of each rank under SLURM, `rank-N.log`; elsewhere the lines of rank 0 that stay."""
        return self.path / "logs"

    @property
    def code(self) -> Path:
        """The snapshot of the code, which a job imports."""
        return self.path / "code"

    @property
    def evaluations(self) -> Path:
        """What evaluations left besides metrics: results by class, and predictions on a few samples."""
        return self.path / "evaluations"

    @property
    def slurm(self) -> Path:
        """Submissions, and how they ended."""
        return self.path / "slurm"

    def exists(self) -> bool:
        """
        Raises:
            UserError: if permissions hide it.
        """
        try:
            self.identity.stat()
        except (FileNotFoundError, NotADirectoryError):
            return False
        except OSError as error:
            raise UserError(trouble(error) or f"{self.identity}: {error.strerror}. Check the path.") from None
        return True

    def is_new(self) -> bool:
        """Whether the directory holds nothing but a trainer's claim."""
        return not self.path.exists() or set(os.listdir(self.path)) <= _OF_TRAINERS

    def forget(self) -> None:
        """Removes all but a trainer's claim: the run was refused before its first step."""
        for entry in os.scandir(self.path):
            if entry.name in _OF_TRAINERS:
                continue
            if entry.is_dir(follow_symlinks=False):
                shutil.rmtree(entry.path, ignore_errors=True)
            else:
                os.unlink(entry.path)

    def read_config(self) -> RunConfig:
        """The configuration that the run was last started with.

        Raises:
            UserError: if there is no run, or its config.yaml cannot be read.
        """
        if not self.exists():
            raise UserError(f"{self.path}: there is no run here (no run.json). Give the run directory that `train` printed.")
        recorded = stored(str(self.config))
        # The directory may have been moved since.
        return recorded.model_copy(update={"runs": str(self.path.parent), "name": self.path.name})

    def read_identity(self) -> dict[str, Any]:
        """run.json: `run`, `wandb`, `created`, `version`, `commit`, `threads`, `experiment`; `forked_from` of a fork;
        `own_code`, digests of the user's own files by their name in the recipe."""
        try:
            identity = read_json_object(self.identity)
            if not all(isinstance(identity.get(key), str) for key in ("run", "wandb")):
                raise ValueError
            if not isinstance(identity.get("threads"), int | None) or isinstance(identity.get("threads"), bool):
                raise ValueError
        except PermissionError as error:
            raise UserError(trouble(error) or str(error)) from None
        except (OSError, ValueError):
            raise UserError(f"{self.identity}: this file is broken. Restore it, or start a run under another name.") from None
        return identity

    def refuse_another_experiment(self, config: RunConfig) -> bool:
        """Whether the run exists already; refuses another experiment.

        Raises:
            UserError: naming the keys that differ.
        """
        if not self.exists():
            return False
        stored = self.read_config()
        changed = differences(stored, config, ["experiment"])
        if changed:
            listed = ", ".join(f"{key} (there {old}, here {new})" for key, old, new in changed)
            raise UserError(
                f"{self.path} holds another experiment; it differs in {listed}. "
                f"Give this one another name (name={config.name}-2), or move {self.path} away."
            )
        return True

    def create(self, config: RunConfig, threads: int) -> None:
        """Writes what identifies the run; for an existing run, only what may change (hardware, length, bookkeeping)."""
        for folder in (self.path, self.checkpoints):
            try:
                folder.mkdir(parents=True, exist_ok=True)
            except OSError as error:
                raise UserError(f"{folder}: cannot be made: {error.strerror}. Set runs=FOLDER to another folder.") from None
        try:
            write_atomically(self.config, to_yaml(config))
            if not self.exists():
                write_json(self.identity, new_identity(config, threads))
            elif self.read_identity().get("own_code", {}) != (own := own_code.digests(flat(config).values())):
                write_json(self.identity, self.read_identity() | {"own_code": own})
        except OSError as error:
            raise UserError(f"{self.path}: cannot be written: {error.strerror}. Set runs=FOLDER to another folder.") from None

    def edited_own_code(self, config: RunConfig) -> list[str]:
        """The user's own files, by their names in the recipe, that were edited since the run was last started."""
        known = self.read_identity().get("own_code", {}) if self.exists() else {}
        return [name for name, digest in own_code.digests(flat(config).values()).items() if known.get(name, digest) != digest]


def new_identity(config: RunConfig, threads: int | None) -> dict[str, Any]:
    """The content of run.json for a new run, with new ids."""
    word = secrets.token_hex(4)
    ids = {"run": f"{config.name}-{word}", "wandb": word, "created": time.time()}
    facts = {"version": __version__, "commit": _commit(), "threads": threads, "experiment": digest(config)}
    own = own_code.digests(flat(config).values())
    return ids | facts | ({"own_code": own} if own else {})


def _commit() -> str | None:
    """The commit of the running code, with `+` if files were changed; None outside a git checkout and a snapshot of one."""
    file = Path(__file__).resolve()
    # A snapshot records its own, as the repository around it may be at another commit by now. One of a checkout has this
    # file in CODE/dist/storage, one of a package in CODE/src/phalanx/dist/storage.
    for root in (file.parents[2], file.parents[4]):
        if (said := _from_snapshot(root / "commit.json")) is not None:
            commit, changed = said
            return commit and commit + ("+" if changed else "")
    # An installed package may lie in another repository: git must track the file.
    known = ["git", "ls-files", "--error-unmatch", file.name]
    commands = (known, ["git", "rev-parse", "HEAD"], ["git", "status", "--porcelain", "--untracked-files=no"])
    try:
        _, head, changes = (
            subprocess.run(c, cwd=file.parent, capture_output=True, text=True, check=True, timeout=10).stdout.strip()
            for c in commands
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return head + ("+" if changes else "")


def _from_snapshot(file: Path) -> tuple[str | None, bool] | None:
    """The commit, and whether files were changed, as `slurm/snapshot.py` recorded them; None without a snapshot."""
    try:
        said = read_json_object(file)
        return said["commit"], said["changed"]
    except (OSError, ValueError, KeyError, TypeError):
        return None


class Events:
    """events.jsonl: what happened to the run, one line per event. Never cut back: goodput is computed from it."""

    def __init__(self, run: RunDirectory):
        self._lines = JsonLines(run.events)

    def write(self, event: str, step: int, **details: Any) -> OSError | None:
        """Returns why the line could not be written yet, if so: the next call writes it too."""
        self._lines.append({"time": time.time(), "event": event, "step": step, **details})
        try:
            self._lines.sync()
        except OSError as error:
            return error
        return None

    def sync(self) -> None:
        """
        Raises:
            OSError: if a line cannot be written yet.
        """
        self._lines.sync()

    def abandon(self) -> None:
        """Closes the file without what still waits."""
        self._lines.abandon()

    def close(self) -> None:
        """
        Raises:
            OSError: if a line cannot be written; the file is closed.
        """
        self._lines.close()


def read_events(run: RunDirectory) -> Sequence[dict[str, Any]]:
    """`time`, `event`, `step`, and more, of each event."""
    return list(read_lines(run.events, time=float, event=str, step=int))


def is_writable(directory: Path) -> bool:
    """Whether files can be made in a directory that may not exist yet."""
    while not directory.exists():
        directory = directory.parent
    return os.access(directory, os.W_OK | os.X_OK)
