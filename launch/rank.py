"""Runs a rank's work: the rank dies with its launcher, reports why it failed, and exits with its own code."""

import logging
import os
import sys
import time
import traceback
from collections.abc import Callable
from contextlib import suppress
from typing import NoReturn

from phalanx.configs.errors import ExitCode, NeverBegun, RunLost, RunTaken, Stopped, TrainingFailed, UserError
from phalanx.configs.schema import RunConfig
from phalanx.configs.system_errors import trouble
from phalanx.data.loading.resource_errors import explained, is_of_a_worker
from phalanx.data.loading.worker_memory import raise_file_limit
from phalanx.dist import heartbeat
from phalanx.dist.health import failure_report
from phalanx.dist.processes import environment, output, rank_status, scratch
from phalanx.dist.processes.children import die_with_parent, kill_children
from phalanx.dist.processes.environment import Ranks
from phalanx.dist.processes.stop import ignore_signals
from phalanx.dist.storage.run_directory import RunDirectory

_ECHO_S = 2.0  # for the rank that failed first to report why


def run(configure: Callable[[], RunConfig], work: Callable[[RunConfig, Ranks], ExitCode]) -> int:
    """Runs a rank's work; returns its exit code, and reports it to the command that started the rank."""
    output.keep_steady()
    raise_file_limit()
    with scratch.used():
        code = _run(configure, work)
    if code != ExitCode.DONE and _holds_gpus():
        leave_at_once(code)
    return code


def _holds_gpus() -> bool:
    """Whether this rank has joined others over NCCL; no import of torch where nothing else needed it."""
    process_group = sys.modules.get("phalanx.dist.comm.process_group")
    return process_group is not None and bool(process_group.holds_gpus())


def leave_at_once(code: int) -> NoReturn:
    """Ends this process without waiting for anything, after all that it printed.

    A failed rank's unfinished collectives keep its interpreter from ending, and its open sockets keep the other ranks waiting.
    Reports and trackers are written by now.
    """
    logging.shutdown()
    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError, ValueError):  # it is closed
            stream.flush()
    os._exit(code)


def _run(configure: Callable[[], RunConfig], work: Callable[[RunConfig, Ranks], ExitCode]) -> int:
    ranks, config = Ranks(), None
    if "TORCHELASTIC_RUN_ID" in os.environ:
        die_with_parent()
    try:
        ranks = environment.find()
        rank_status.arrived(ranks.rank)
        config = configure()
        code = work(config, ranks)
    except (UserError, TrainingFailed) as error:
        code = ExitCode.BAD_INPUT if isinstance(error, UserError) else ExitCode.FAILED
        if ranks.is_main or not error.shared:
            speaker = "phalanx" if ranks.is_main else f"phalanx: rank {ranks.rank}"
            print("\n".join(f"{speaker}: {line}" for line in str(error).splitlines()), file=sys.stderr, flush=True)
        _note(config, ranks, error)
    except KeyboardInterrupt:
        code = ExitCode.FAILED
        if ranks.is_main:
            print("phalanx: interrupted", file=sys.stderr, flush=True)
    except Stopped as error:
        code = ExitCode.STOPPED_EARLY
        if ranks.is_main or not rank_status.is_open():
            print(f"phalanx: {error}", file=sys.stderr, flush=True)
    except Exception as error:
        code = ExitCode.FAILED
        if is_of_a_worker(error):
            print(f"phalanx: rank {ranks.rank}: {explained(error)}", file=sys.stderr, flush=True)
        elif isinstance(error, OSError) and (sentence := trouble(error)) is not None:
            print(f"phalanx: rank {ranks.rank}: {sentence}", file=sys.stderr, flush=True)  # errors/ has the traceback
        elif (echo := _echo(ranks, error)) is None:
            step = heartbeat.latest().step
            when = f"in step {step}" if step else "before the first step"
            print(f"phalanx: rank {ranks.rank} failed {when}:\n{traceback.format_exc()}", end="", file=sys.stderr, flush=True)
        elif echo:
            print(f"phalanx: rank {ranks.rank} {echo}", file=sys.stderr, flush=True)
        _note(config, ranks, error)
    kill_children()
    ignore_signals()
    rank_status.ended(ranks.rank, code)
    return int(code)


def _echo(ranks: Ranks, error: Exception) -> str | None:
    """The message on a failure that follows from another rank's; empty if that one has reported. None for other failures."""
    if ranks.world == 1 or not failure_report.is_echo(error):
        return None
    deadline = time.monotonic() + _ECHO_S
    while rank_status.is_open() and time.monotonic() < deadline:
        if rank_status.has_failed_before(ranks.rank):
            return ""
        time.sleep(0.05)
    if isinstance(error, ConnectionError):
        return None  # it may be the rank's own: from its dataset or a tracker
    message = (str(error).strip() or type(error).__name__).splitlines()[0]
    return f"lost another rank, and ends with it: {message}"


def _note(config: RunConfig | None, ranks: Ranks, error: Exception) -> None:
    """Writes errors/rank-N.json, if the run directory exists."""
    if config is not None and not isinstance(error, NeverBegun | RunLost | RunTaken) and RunDirectory.of(config).exists():
        failure_report.write(RunDirectory.of(config), ranks.rank, error)
