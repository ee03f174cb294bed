"""Which rank hangs: what ranks publish, and the diagnosis from it. No torch here.

Clocks of different nodes are never compared: a rank publishes how long ago it made progress, and a reader adds the time since
it last saw a newer sign. So a rank whose sign does not change counts as one without progress.
"""

import json
import os
import stat
import sys
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, TypeVar

from phalanx.dist.heartbeat import STAGES, Stage

# Saving has the timeout of `checkpoint/saver.py`: a slow disk must not look like a hang.
_SAVE_S = 3600.0


@dataclass(frozen=True)
class Sign:
    """What a rank publishes.

    Attributes:
        attempt: the start of the run that it belongs to; other starts left signs too.
        number: counts the signs.
        age: seconds since its last progress.
        place: where its main thread is (`my_task.py:12, losses`), if it has been there for a while.
        waits: whether it waits for other ranks.
        noted: whether it has written its report of the hang, and is ready to end.
        host, process, born: node, process id, and the clock ticks at which the kernel started it.
        gpu_step, gpu_stage: the first work that its GPU has not finished, if it has stood still for a while; step -1 for none.
    """

    attempt: str
    number: int
    step: int
    stage: Stage
    age: float
    place: str
    waits: bool
    noted: bool
    host: str
    process: int
    born: int
    gpu_step: int = -1
    gpu_stage: Stage = "end"


@dataclass(frozen=True)
class Heard:
    """A rank's last sign, if there is any, and the seconds since it was first seen."""

    sign: Sign | None
    silence: float

    @property
    def still(self) -> float:
        """Seconds without progress, as far as is known."""
        return self.silence + (self.sign.age if self.sign else 0.0)

    def answers(self, hang_s: float) -> bool:
        return self.silence < hang_s / 2

    def position(self, hang_s: float) -> tuple[int, ...]:
        """How far it has come; larger is farther.

        In the same stage, a rank whose GPU is farther, or has no work, is farther; then one that answers, or waits for others.
        """
        if self.sign is None:
            return (-1, -1, 0, 0, False, False)
        gpu = (self.sign.gpu_step if self.sign.gpu_step >= 0 else sys.maxsize, STAGES.index(self.sign.gpu_stage))
        return (self.sign.step, STAGES.index(self.sign.stage), *gpu, self.answers(hang_s), self.sign.waits)

    def is_saving(self, hang_s: float) -> bool:
        """Whether it may be in a slow save."""
        return self.sign is not None and self.sign.stage == "save" and self.answers(hang_s) and self.still < _SAVE_S


@dataclass(frozen=True)
class HangReport:
    """A hang of the run, and the ranks that cause it.

    Attributes:
        judge: the rank that found it.
        hung: the ranks that are behind all others.
        silent: the ranks that do not answer.
        step, stage, places: where the hung ranks are; step -1 if they never published.
        seconds: since the last progress.
        gpu: the first work that their GPUs have not finished, such as "backward of step 39"; empty for none.
    """

    attempt: str
    judge: int
    hung: list[int]
    silent: list[int]
    step: int
    stage: str
    places: list[str]
    seconds: float
    gpu: str = ""

    def sentence(self, world: int) -> str:
        """Which ranks hang, where, for how long."""
        one = len(self.hung) == 1
        who = f"rank {self.hung[0]}" if one else f"ranks {', '.join(map(str, self.hung))}"
        if self.step < 0:
            return f"{who} {'was' if one else 'were'} not heard from for {self.seconds:.0f} s"
        where = f"in {'its' if one else 'their'} {self.stage}" + (f" of step {self.step}" if self.step else "")
        places = f" ({'; '.join(self.places)})" if self.places else ""
        stuck = f"{who} {'has' if one else 'have'} not moved for {self.seconds:.0f} s, {where}{places}"
        if self.gpu:
            stuck += f", and {'its GPU has' if one else 'their GPUs have'} not finished the {self.gpu}"
        if set(self.hung) & set(self.silent):
            mute = "it does" if one else "some do" if set(self.hung) - set(self.silent) else "they do"
            return (
                f"{stuck}, and {mute} not answer: stopped, cut off from its node or file system, or in code that holds the GIL"
            )
        return stuck + (", and none is behind the others: check the network" if len(self.hung) == world > 1 else "")


T = TypeVar("T", Sign, HangReport)


def judge(own: int, heard: Mapping[int, Heard], hang_s: float) -> HangReport | None:
    """The hang, if no rank has made progress for `hang_s` seconds; None otherwise.

    Args:
        own: the judging rank.
        heard: what was heard of every rank, itself included.
    """
    if any(known.still < hang_s for known in heard.values()):
        return None
    behind = min(known.position(hang_s) for known in heard.values())
    hung = {rank: known for rank, known in sorted(heard.items()) if known.position(hang_s) == behind}
    if any(known.is_saving(hang_s) for known in hung.values()):
        return None
    signs = [known.sign for known in hung.values() if known.sign]
    own_sign = heard[own].sign
    assert own_sign is not None
    return HangReport(
        attempt=own_sign.attempt,
        judge=own,
        hung=list(hung),
        silent=[rank for rank, known in sorted(heard.items()) if not known.answers(hang_s)],
        step=behind[0],
        stage=signs[0].stage if signs else "start",
        places=list(dict.fromkeys(sign.place for sign in signs if sign.place)),
        seconds=max(known.still for known in hung.values()),
        gpu=f"{signs[0].gpu_stage} of step {signs[0].gpu_step}" if signs and signs[0].gpu_step >= 0 else "",
    )


class Noticeboard:
    """`RUN/.heartbeat/`: one file per rank, and the report of a hang; each is renamed into place, and none is fsynced.

    Files need nothing but the run directory, which all ranks share: they work before the ranks have met, and
    without the node of rank 0, which may be the one that hangs. Over NFS a file may be seen up to a minute late; its rank
    then seems to stand still by as much.

    They name processes, and end runs: if others may write to the run directory, only those files count that belong to the
    owner of this rank's own, and that nobody else may write to.
    """

    def __init__(self, folder: Path, rank: int, attempt: str):
        self._folder, self._rank, self._attempt = folder, rank, attempt
        self._owner: int | None = None  # by the file system, which over NFS may not be this process's user

    def publish(self, sign: Sign) -> None:
        """
        Raises:
            OSError: if it cannot be written.
        """
        self._write(self._sign(self._rank), asdict(sign))

    def announce(self, report: HangReport) -> None:
        """
        Raises:
            OSError: if it cannot be written.
        """
        self._write(self._report, asdict(report))

    def sign_of(self, rank: int) -> Sign | None:
        """A rank's newest sign of this attempt, if it can be read."""
        return self._read(self._sign(rank), Sign)

    def report(self) -> HangReport | None:
        return self._read(self._report, HangReport)

    def clear(self) -> None:
        """Removes this rank's sign of an earlier attempt, and a report of its hang."""
        for path in (self._sign(self._rank), self._report):
            with suppress(OSError):  # it is absent, or will be overwritten
                path.unlink()

    @property
    def _report(self) -> Path:
        return self._folder / "verdict.json"

    def _sign(self, rank: int) -> Path:
        return self._folder / f"rank-{rank}.json"

    def _write(self, path: Path, content: Mapping[str, Any]) -> None:
        self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        aside = path.with_name(f".{path.name}.{self._rank}.{os.getpid()}.tmp")
        with suppress(FileNotFoundError):
            aside.unlink()  # left by a killed process of the same id
        descriptor = os.open(aside, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600)
        with open(descriptor, "w") as file:
            self._owner = os.fstat(descriptor).st_uid
            file.write(json.dumps(content))
        os.replace(aside, path)

    def _read(self, path: Path, kind: type[T]) -> T | None:
        try:
            with open(os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)) as file:
                if not self._is_ours(os.fstat(file.fileno())):
                    return None
                found = kind(**json.loads(file.read()))
        except (OSError, ValueError, TypeError):  # absent, or written by another version
            return None
        return found if found.attempt == self._attempt else None

    def _is_ours(self, status: os.stat_result) -> bool:
        owner = os.geteuid() if self._owner is None else self._owner
        writable_by_others = status.st_mode & (stat.S_IWGRP | stat.S_IWOTH)
        return stat.S_ISREG(status.st_mode) and status.st_uid == owner and not writable_by_others
