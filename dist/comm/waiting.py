"""Waiting for ranks that are still to start: says for whom, stops when asked to, and gives up in time. No torch here.

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
    """A rank that waits.

    Args:
        whom: for whom and where, such as "rank 1 at 127.0.0.1:29500".
        patience: seconds after which it gives up.
        speaks: whether it says so; where rank 0 already does, the others need not.
    """

    def __init__(self, ranks: Ranks, whom: Callable[[], str], patience: float, speaks: bool = True):
        self._ranks, self._whom, self._patience, self._speaks = ranks, whom, patience, speaks
        self._begun = time.monotonic()
        self._next = _moments()
        self._speak_at = next(self._next)

    def pause(self) -> None:
        """One look around, and a moment's sleep.

        Raises:
            Stopped: where this rank was asked to stop, once it has waited for longer than ranks take that start together.
            RanksApart: where the patience is over.
        """
        heartbeat.beat("join")  # this ends by itself: it must not look like a rank that hangs before
        waited = time.monotonic() - self._begun
        # Ranks that start together meet within a second or so: then the run begins, and stops as asked with a checkpoint.
        if (number := stop.asked()) is not None and waited > _SPEAK_AFTER_S[0]:
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
    """Seconds of waiting after which the rank speaks."""
    yield from _SPEAK_AFTER_S
    number = 1
    while True:
        yield number * _SPEAK_EVERY_S
        number += 1


def _remedy(ranks: Ranks) -> str:
    if ranks.launcher == "slurm":
        return "Look into the logs of the others; in a shell of srun's, `phalanx train --nproc N` starts ranks of its own."
    return f"Start all {ranks.world} ranks (`phalanx train --nproc {ranks.world}` does), or unset RANK and WORLD_SIZE."


def listed(ranks: Sequence[int]) -> str:
    """Ranks by their numbers, at most a few."""
    named = ", ".join(map(str, ranks[:_NAMED])) + (f" and {len(ranks) - _NAMED} more" if len(ranks) > _NAMED else "")
    return f"rank{'s' if len(ranks) > 1 else ''} {named}"
