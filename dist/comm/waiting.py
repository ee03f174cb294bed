"""Waiting for ranks that have not started: reports for which, stops when asked to, and times out. No torch here.

One rank of several is easily started alone: by hand, or by the variables that an interactive shell of SLURM's sets.
"""

import sys
import time
from collections.abc import Callable, Iterator, Sequence

from phalanx.configs.errors import RanksApart, Stopped
from phalanx.dist import heartbeat
from phalanx.dist.processes import stop
from phalanx.dist.processes.environment import Ranks

_SPEAK_AFTER_S = (3.0, 60.0, 300.0)  # and then every ten minutes
_SPEAK_EVERY_S = 600.0
_POLL_S = 0.05
_NAMED = 8


class Waiting:
    """A rank that waits for others.

    Args:
        whom: whom it waits for and where, such as "rank 1 at 127.0.0.1:29500".
        patience: seconds after which it times out.
        speaks: whether it prints that it waits; the others need not where rank 0 does.
    """

    def __init__(self, ranks: Ranks, whom: Callable[[], str], patience: float, speaks: bool = True):
        self._ranks, self._whom, self._patience, self._speaks = ranks, whom, patience, speaks
        self._begun = time.monotonic()
        self._next = _moments()
        self._speak_at = next(self._next)

    def pause(self) -> None:
        """Checks once, and sleeps for a moment.

        Raises:
            Stopped: if this rank was asked to stop, and has waited for longer than ranks need that start together.
            RanksApart: at the timeout.
        """
        heartbeat.beat("join")  # this times out by itself: until then it must not look like a hang
        waited = time.monotonic() - self._begun
        # Ranks that start together meet within a second or so: then the run begins, and stops as asked with a checkpoint.
        if waited > _SPEAK_AFTER_S[0] and (number := stop.asked()) is not None:
            raise Stopped(f"stopped by {number.name} while rank {self._ranks.rank} waited for {self._whom()}. Nothing is lost.")
        if waited > self._patience:
            raise RanksApart(f"rank {self._ranks.rank} waited {waited:.0f} s for {self._whom()}. {_remedy(self._ranks)}")
        if waited > self._speak_at:
            self._speak_at = next(self._next)
            if self._speaks:
                said = f"rank {self._ranks.rank} of {self._ranks.world} waits for {self._whom()}"
                print(f"phalanx: {said} ({waited:.0f} s so far). {_remedy(self._ranks)}", file=sys.stderr, flush=True)
        time.sleep(_POLL_S)


def _moments() -> Iterator[float]:
    """Seconds of waiting after which the rank prints a message."""
    yield from _SPEAK_AFTER_S
    number = 1
    while True:
        yield number * _SPEAK_EVERY_S
        number += 1


def _remedy(ranks: Ranks) -> str:
    if ranks.launcher == "slurm":
        return "Read the logs of the others; in a shell started by srun, `phalanx train --nproc N` starts its own ranks."
    return f"Start all {ranks.world} ranks (`phalanx train --nproc {ranks.world}` does), or unset RANK and WORLD_SIZE."


def listed(ranks: Sequence[int]) -> str:
    """The first few ranks, by number."""
    named = ", ".join(map(str, ranks[:_NAMED])) + (f" and {len(ranks) - _NAMED} more" if len(ranks) > _NAMED else "")
    return f"rank{'s' if len(ranks) > 1 else ''} {named}"
