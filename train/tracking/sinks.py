"""Trackers besides the run directory's own files: Weights & Biases, TensorBoard. Imported only when enabled."""

import os
import socket
from collections.abc import Callable, Mapping, Sequence
from netrc import NetrcParseError, netrc
from typing import Any, Literal, Protocol
from urllib.parse import urlsplit

from phalanx.configs.own_code import load_own
from phalanx.configs.schema import RunConfig, flat
from phalanx.dist.storage.run_directory import RunDirectory
from phalanx.train.tracking import wandb_pieces

Say = Callable[[str], None]
MetricRows = Sequence[Mapping[str, Any]]


class Sink(Protocol):
    """Takes the figures of each step once."""

    name: str

    def log(self, step: int, values: Mapping[str, float]) -> None: ...

    def close(self, exit_code: int) -> None: ...


def _host() -> tuple[str, int]:
    url = urlsplit(os.environ.get("WANDB_BASE_URL", "https://api.wandb.ai"))
    return url.hostname or "api.wandb.ai", url.port or (80 if url.scheme == "http" else 443)


def _has_key() -> bool:
    """Whether W&B would find a key: in the environment or in netrc. The key itself is not used."""
    if os.environ.get("WANDB_API_KEY"):
        return True
    try:
        return netrc(os.environ.get("NETRC") or None).authenticators(_host()[0]) is not None
    except (OSError, NetrcParseError):
        return False


def why_not_online() -> str | None:
    if not _has_key():
        return "there is no key (run `wandb login`)"
    try:
        socket.create_connection(_host(), timeout=5).close()
    except OSError as error:
        return f"{_host()[0]} cannot be reached ({error.strerror or error})"
    return None


class WandbSink:
    """One W&B run under the id in run.json, through every resume, with Phalanx's steps: all of them, none twice.

    Args:
        rows: of metrics.jsonl so far. Rows that an earlier process could not send come first.
        already_logged: the last step that an earlier process logged, if W&B cannot report it.
    """

    name = "W&B"

    def __init__(self, config: RunConfig, run: RunDirectory, rows: MetricRows, already_logged: int, say: Say):
        mode: Literal["online", "offline"] = "offline" if config.track.wandb == "offline" else "online"
        if mode == "online" and (reason := why_not_online()):
            say(f"phalanx: W&B goes offline: {reason}. Nothing is lost: `wandb sync` sends the pieces later.")
            mode = "offline"
        import wandb

        self._there = _there(run, already_logged)
        self._run = wandb.init(
            project=config.track.project,
            name=config.name,
            id=run.read_identity()["wandb"],
            resume="allow",
            mode=mode,
            dir=run.path,
            config=flat(config),
            settings=wandb.Settings(console="off", silent=True),
        )
        if mode == "online":
            self._there = set(range(self._run.starting_step))
        for row in rows:
            self.log(int(row["step"]), {name: value for name, value in row.items() if name not in ("step", "time")})

    def log(self, step: int, values: Mapping[str, float]) -> None:
        if step not in self._there:
            self._run.log(dict(values), step=step)
            self._there.add(step)

    def close(self, exit_code: int) -> None:
        self._run.finish(exit_code=exit_code)


def _there(run: RunDirectory, already_logged: int) -> set[int]:
    """The steps that earlier processes wrote offline."""
    try:
        return wandb_pieces.logged_steps(run.path)
    except (ImportError, AttributeError, KeyError, ValueError, OSError):
        return set(range(already_logged + 1))  # another version of wandb's format: a gap is better than a repeated step


class TensorBoardSink:
    """Event files in `tensorboard/`; TensorBoard hides those of steps that are repeated after a resume."""

    name = "TensorBoard"

    def __init__(self, run: RunDirectory, first_step: int):
        from torch.utils.tensorboard import SummaryWriter

        self._writer = SummaryWriter(str(run.path / "tensorboard"), purge_step=first_step + 1)

    def log(self, step: int, values: Mapping[str, float]) -> None:
        for name, value in values.items():
            self._writer.add_scalar(name, value, step)

    def close(self, exit_code: int) -> None:
        self._writer.close()


class OwnSink:
    """A user's own tracker: `Class(run_directory, recipe, step)`, with `log(step, values)` and `close(exit_code)`.

    Args:
        first_step: number of steps finished; after a kill some of the following ones were logged before, and come again.
    """

    def __init__(self, name: str, config: RunConfig, run: RunDirectory, first_step: int):
        self.name = name
        self._tracker: Any = load_own("track.own", name)(run.path, flat(config), first_step)

    def log(self, step: int, values: Mapping[str, float]) -> None:
        self._tracker.log(step, dict(values))

    def close(self, exit_code: int) -> None:
        self._tracker.close(exit_code)


def open_sinks(
    config: RunConfig, run: RunDirectory, first_step: int, rows: MetricRows, already_logged: int, say: Say
) -> list[Sink]:
    """The sinks that the configuration enables.

    Args:
        first_step: number of steps finished when this process starts.
        rows: of metrics.jsonl, up to that step.
        already_logged: the last step that an earlier process logged, which may be later than that.
    """
    sinks: list[Sink] = []
    if config.track.wandb != "off":
        sinks.append(WandbSink(config, run, rows, already_logged, say))
    if config.track.tensorboard:
        sinks.append(TensorBoardSink(run, first_step))
    sinks += [OwnSink(name, config, run, first_step) for name in config.track.own]
    return sinks
