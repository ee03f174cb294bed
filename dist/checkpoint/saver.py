"""Asynchronous saving: a thread copies the step's state and writes it during training; at most one save is in flight."""

import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import timedelta
from pathlib import Path

from phalanx.dist.checkpoint import plan, retention
from phalanx.dist.checkpoint.entries import Entry
from phalanx.dist.checkpoint.retention import Retention
from phalanx.dist.checkpoint.save import CheckpointInfo, SaveFailed, write
from phalanx.dist.checkpoint.staging import Staging
from phalanx.dist.comm.process_group import World, patient_control

# A slow disk must not look like a hang; a rank that dies closes its connections.
_TIMEOUT_S = 3600.0


@dataclass(frozen=True)
class Saved:
    """The result of a save.

    Attributes:
        path: of the checkpoint; None if it could not be written.
        problem: why it could not; or, if it was written, why older ones could not be removed.
        seconds: from the call to the commit.
        waited: of them, seconds in the call; a later wait of the update for the copy is not counted.
    """

    step: int
    path: Path | None
    problem: str | None
    seconds: float
    waited: float


class Saver:
    """Writes a run's checkpoints. All ranks construct it together, and call it at the same steps.

    Args:
        asynchronous: whether `start` returns at once; then `wait_for_copy` must be called before the state changes.
        refused: returns why nothing may be written any more, or None.
    """

    def __init__(
        self,
        world: World,
        checkpoints: Path,
        policy: Retention,
        asynchronous: bool,
        refused: Callable[[], str | None] = lambda: None,
    ):
        # A separate group: messages of training and of saving must not mix.
        self._world = replace(world, control=patient_control(world, timedelta(seconds=_TIMEOUT_S)))
        self._checkpoints, self._policy, self._asynchronous = checkpoints, policy, asynchronous
        self._refused = refused
        self._staging = Staging()
        self._left: list[str] = []  # what could not be removed, already reported
        self._thread: threading.Thread | None = None
        self._ended: Saved | None = None
        self._error: BaseException | None = None

    def start(self, entries: Sequence[Entry], progress: CheckpointInfo, awaited: bool = False) -> list[Saved]:
        """Starts a save, and waits for its commit if `awaited`. Always waits for the end of an earlier save first.

        Returns:
            The results of finished saves that were not returned before.
        """
        begun = time.monotonic()
        ended = self.wait()
        ranks, tensors = self._world.ranks, plan.tensor_infos(entries)
        together = plan.ranks_per_file(tensors, ranks.world)
        mine = plan.own_ranges(entries, ranks.rank, ranks.world, together)
        if awaited or not self._asynchronous:
            saved = self._write(tensors, plan.parts(mine), together, progress, begun, None)
            self._begin(lambda: self._prune(saved))
            return [*ended, saved]
        parts = self._staging.begin(mine)
        waited = time.monotonic() - begun

        def write_and_prune() -> Saved:
            self._staging.finish()
            saved = self._write(tensors, parts, together, progress, begun, waited)
            return self._prune(saved) or saved

        self._begin(write_and_prune)
        return ended

    def wait_for_copy(self) -> None:
        """Returns when the weights and the optimizer's state may change."""
        self._staging.wait()

    def take_ended(self) -> list[Saved]:
        """The result of the save in flight, if it has finished; never waits.

        Raises:
            BaseException: an unexpected error in the thread.
        """
        return [] if self._thread is None or self._thread.is_alive() else self.wait()

    def wait(self, timeout: float | None = None) -> list[Saved]:
        """Waits for the save in flight and returns its result; nothing if there is none, or it takes longer than `timeout`."""
        if self._thread is not None:
            self._thread.join(timeout)
            if self._thread.is_alive():
                return []
            self._thread = None
        if self._error is not None:
            error, self._error = self._error, None
            raise error
        ended, self._ended = self._ended, None
        return [] if ended is None else [ended]

    def prune(self, saved: Saved) -> None:
        """Removes superseded checkpoints in the background, now that a checkpoint's metrics are known; no save is in flight."""
        assert self._thread is None
        self._begin(lambda: self._prune(saved))

    def _begin(self, action: Callable[[], Saved | None]) -> None:
        def in_background() -> None:
            try:
                self._ended = action()
            except BaseException as error:  # raised again in the training thread
                self._error = error

        # A daemon, so that a failing rank can exit.
        self._thread = threading.Thread(target=in_background, name="checkpoint", daemon=True)
        self._thread.start()

    def _prune(self, saved: Saved) -> Saved | None:
        """Removes superseded checkpoints, which is slow on some disks; returns newly found problems."""
        if saved.path is None or not self._world.ranks.is_main:
            return None
        try:
            left = retention.prune(self._checkpoints, self._policy)
        except OSError as error:
            left = [f"{error.filename}: {error.strerror}"]
        news = [problem for problem in left if problem not in self._left]
        self._left = left
        return replace(saved, problem=f"left in place: {'; '.join(news)}") if news else None

    def _write(
        self,
        tensors: Sequence[plan.TensorInfo],
        parts: Sequence[plan.Part],
        together: int,
        progress: CheckpointInfo,
        begun: float,
        waited: float | None,
    ) -> Saved:
        path, problem = None, None
        try:
            path = write(self._world, self._checkpoints, tensors, parts, together, progress, self._refused)
        except SaveFailed as error:
            problem = str(error)
        seconds = time.monotonic() - begun
        return Saved(progress.step, path, problem, seconds, seconds if waited is None else waited)
