"""accelerate launch as started by `phalanx train`: it dies with its parent, and leaves messages to the ranks."""

import logging
import os
import signal
import sys
from datetime import timedelta
from typing import TYPE_CHECKING

from phalanx.dist.processes import output
from phalanx.dist.processes.children import die_with_parent
from phalanx.launch.importing import importing

if TYPE_CHECKING:
    from torch.distributed import TCPStore  # type: ignore[attr-defined]


def main() -> int:
    die_with_parent()
    output.keep_steady()
    if signal.getsignal(signal.SIGHUP) is signal.SIG_IGN:
        # As under nohup. torchrun would handle it nevertheless, and its ranks would not start with it ignored.
        os.environ["TORCHELASTIC_SIGNALS_TO_HANDLE"] = "SIGTERM,SIGINT,SIGQUIT"
    with importing():
        from accelerate.commands.launch import launch_command, launch_command_parser
        from torch.distributed.elastic.multiprocessing.api import SignalException
        from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
        from torch.distributed.elastic.rendezvous import static_tcp_rendezvous

    static_tcp_rendezvous.TCPStore = _on_loopback  # type: ignore[assignment, attr-defined]
    logging.getLogger("torch.distributed.elastic").setLevel(logging.CRITICAL)
    try:
        launch_command(launch_command_parser().parse_args())
    except (ChildFailedError, SignalException):
        return 1
    return 0


def _on_loopback(
    address: str, port: int, world: int, is_master: bool, timeout: timedelta, multi_tenant: bool = False
) -> "TCPStore":
    """The launcher's store on the loopback interface: by default torch's listens on all interfaces."""
    from phalanx.dist.comm.rendezvous import LOOPBACK, open_store

    return open_store(LOOPBACK, port, world, timeout, multi_tenant)


if __name__ == "__main__":
    sys.exit(main())
