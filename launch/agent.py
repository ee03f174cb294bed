"""accelerate launch as `phalanx train` starts it: it dies with its parent, and lets the ranks speak for themselves."""

import logging
import os
import signal
import sys

from phalanx.dist import output
from phalanx.dist.processes import die_with_parent


def main() -> int:
    die_with_parent()
    output.keep_steady()
    if signal.getsignal(signal.SIGHUP) is signal.SIG_IGN:
        # As under nohup. torchrun would answer it all the same, and its ranks would not start with it ignored.
        os.environ["TORCHELASTIC_SIGNALS_TO_HANDLE"] = "SIGTERM,SIGINT,SIGQUIT"
    from accelerate.commands.launch import launch_command, launch_command_parser
    from torch.distributed.elastic.multiprocessing.api import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError

    logging.getLogger("torch.distributed.elastic").setLevel(logging.CRITICAL)
    try:
        launch_command(launch_command_parser().parse_args())
    except (ChildFailedError, SignalException):
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
