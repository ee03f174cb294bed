"""Where the ranks of a SLURM step meet: rank 0 opens a port of the kernel's choice and publishes it in the run directory.

No port is guessed and no host name has to resolve. No step meets another's past: the file's name holds the job, the step,
the number of restarts, and the port of the srun that launched it, and rank 0 takes the file away once all have met.
"""

import json
import os
import socket
import time
from collections.abc import Mapping
from datetime import timedelta
from pathlib import Path

from torch.distributed import TCPStore  # type: ignore[attr-defined]

from phalanx.configs.errors import UserError
from phalanx.dist.environment import Ranks
from phalanx.dist.files import write_json


def _address(environment: Mapping[str, str]) -> str:
    """This node's address on the network over which srun reached it."""
    launcher = environment.get("SLURM_LAUNCH_NODE_IPADDR", "127.0.0.1")
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.connect((launcher, 9))  # a datagram socket: nothing is sent, the kernel only chooses the way
        return str(probe.getsockname()[0])


def meeting_place(folder: Path, environment: Mapping[str, str] = os.environ) -> Path:
    """The file in which rank 0 of this step of srun publishes its address."""
    names = ("SLURM_JOB_ID", "SLURM_STEP_ID", "SLURM_RESTART_COUNT", "SLURM_STEP_LAUNCHER_PORT")
    return folder / f".rendezvous-{'-'.join(environment.get(name, '0') for name in names)}.json"


def slurm_store(ranks: Ranks, folder: Path, timeout: timedelta, environment: Mapping[str, str] = os.environ) -> TCPStore:
    """The store over which the ranks of this step of srun find each other.

    Raises:
        UserError: where rank 0 does not publish its address in time.
    """
    published = meeting_place(folder, environment)
    if ranks.is_main:
        folder.mkdir(parents=True, exist_ok=True)
        store = TCPStore("0.0.0.0", 0, ranks.world, is_master=True, timeout=timeout, wait_for_workers=False)
        write_json(published, {"address": _address(environment), "port": store.port})
        return store
    deadline = time.monotonic() + timeout.total_seconds()
    while not published.exists():
        if time.monotonic() > deadline:
            raise UserError(
                f"rank {ranks.rank} waited {timeout.total_seconds():.0f} s for rank 0 to publish its address as {published}. "
                "Set runs=FOLDER to one that all nodes share."
            )
        time.sleep(0.1)
    meeting = json.loads(published.read_text())
    return TCPStore(meeting["address"], meeting["port"], ranks.world, is_master=False, timeout=timeout, wait_for_workers=False)
