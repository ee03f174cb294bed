"""One rank's life around its work: it dies with its launcher, says why it failed, and ends with its own exit code."""

import os
import sys
import traceback
from collections.abc import Callable

from phalanx.configs.errors import ExitCode, RunLost, RunTaken, TrainingFailed, UserError
from phalanx.configs.schema import RunConfig
from phalanx.dist import environment, failure_report, mailbox, output
from phalanx.dist.environment import Ranks
from phalanx.dist.processes import die_with_parent, kill_children
from phalanx.dist.run_directory import RunDirectory
from phalanx.dist.stop import answer_no_more


def run(configure: Callable[[], RunConfig], work: Callable[[RunConfig, Ranks], ExitCode]) -> int:
    """Does a rank's work; returns its exit code, which the command that started it gets to know too."""
    output.keep_steady()
    ranks, config = Ranks(), None
    if "TORCHELASTIC_RUN_ID" in os.environ:
        die_with_parent()
    try:
        ranks = environment.find()
        mailbox.arrived(ranks.rank)
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
    except Exception as error:
        code = ExitCode.FAILED
        print(f"phalanx: rank {ranks.rank} failed:\n{traceback.format_exc()}", end="", file=sys.stderr, flush=True)
        _note(config, ranks, error)
    kill_children()
    answer_no_more()
    mailbox.ended(ranks.rank, code)
    return int(code)


def _note(config: RunConfig | None, ranks: Ranks, error: Exception) -> None:
    """Leaves errors/rank-N.json in a run directory that is there."""
    if config is not None and not isinstance(error, RunLost | RunTaken) and RunDirectory.of(config).exists():
        failure_report.write(RunDirectory.of(config), ranks.rank, error)
