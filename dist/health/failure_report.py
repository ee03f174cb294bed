"""errors/rank-N.json: why a rank failed, when, and whether its failure only follows from another rank's. No torch here."""

import os
import re
import socket
import sys
import time
import traceback
from collections.abc import Iterator

from phalanx.configs.errors import RanksApart
from phalanx.dist import heartbeat
from phalanx.dist.processes.environment import attempt
from phalanx.dist.storage.durable_files import write_json
from phalanx.dist.storage.run_directory import RunDirectory

# gloo has no exception class; NCCL's and the store's derive from torch.distributed.DistError.
_LOST_EACH_OTHER = re.compile(
    r"(?i)connection (closed|reset|refused|aborted)|socket (closed|timeout)|broken pipe|timed out (waiting|after)|"
    r"gloo.*(timeout|timed out|peer)|transport/tcp"
)
# These of NCCL's errors are the program's or the launcher's: no other rank has the reason.
_MISUSE = re.compile(r"ncclInvalid(Usage|Argument)")


def is_echo(error: BaseException) -> bool:
    """Whether a failure is one of communication: the other side was gone or did not answer, and has the reason."""
    distributed = sys.modules.get("torch.distributed")
    for one in _chain(error):
        if distributed is not None and isinstance(one, distributed.DistError):
            return _MISUSE.search(str(one)) is None
        if isinstance(one, ConnectionError | RanksApart):
            return True
        if isinstance(one, RuntimeError) and _LOST_EACH_OTHER.search(str(one)):
            return True
    return False


def _chain(error: BaseException) -> Iterator[BaseException]:
    """An exception and those it was raised from, each once: `raise error from error` makes a circle."""
    one: BaseException | None = error
    seen: set[int] = set()
    while one is not None and id(one) not in seen:
        seen.add(id(one))
        yield one
        one = one.__cause__ or one.__context__


def write(run: RunDirectory, rank: int, error: BaseException) -> None:
    """Writes the report of a failure, if the run directory exists."""
    write_failure(run, rank, type(error).__name__, str(error), traceback.format_exception(error), is_echo(error))


def write_failure(
    run: RunDirectory, rank: int, kind: str, message: str, lines: list[str], echo: bool, host: str | None = None
) -> None:
    """The same for a failure that is not an exception.

    Args:
        kind: type of the failure.
        lines: the stack.
        echo: whether another rank's report has the reason.
        host: the rank's, if it is not this one.
    """
    node = "" if host else os.environ.get("SLURMD_NODENAME", "")  # SLURM's name, which may differ from the host's
    host = host or socket.gethostname()
    report = {"time": time.time(), "rank": rank, "host": host, "node": node, "attempt": attempt(), "type": kind}
    report |= {"step": heartbeat.latest().step, "message": message, "echo": echo, "traceback": lines}
    try:
        run.errors.mkdir(exist_ok=True)
        write_json(run.errors / f"rank-{rank}.json", report)
    except OSError as problem:
        print(f"phalanx: {run.errors} could not be written: {problem.strerror}", file=sys.stderr)
