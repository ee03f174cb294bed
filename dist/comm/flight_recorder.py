"""NCCL's flight recorder: torch's list of the last collectives, written as JSON when a rank hangs.

torch's own dump, at NCCL's timeout, is a pickle outside of the run, and comes later than our watchdog.
"""

import math
import os
import sys
from collections.abc import MutableMapping

_COLLECTIVES = "2000"  # torch's advice; some hundred bytes each


def prepare(timeout_s: float, environment: MutableMapping[str, str] = os.environ) -> None:
    """Switches it on for the process groups that are made from now on; what the user has set stays.

    Args:
        timeout_s: of collectives. Until then NCCL's thread may wait for a driver that does not answer; by default torch aborts
            the process after 480 s, before our watchdog finds out which rank hangs.
    """
    environment.setdefault("TORCH_FR_BUFFER_SIZE", environment.get("TORCH_NCCL_TRACE_BUFFER_SIZE", _COLLECTIVES))
    environment.setdefault("TORCH_NCCL_DUMP_ON_TIMEOUT", "0")
    environment.setdefault("TORCH_NCCL_HEARTBEAT_TIMEOUT_SEC", str(math.ceil(timeout_s)))


def recorded() -> dict[str, bytes]:
    """The last collectives of this process as JSON, by recorder, if there were any.

    NCCL has a recorder of its own; gloo's collectives, such as the control group's, are in the one of all other backends.
    """
    c10d = sys.modules.get("torch._C._distributed_c10d")
    dumps = {"nccl": "_dump_nccl_trace_json", "gloo": "_dump_fr_trace_json"}
    found = {name: getattr(c10d, dump)() for name, dump in dumps.items() if hasattr(c10d, dump)}
    return {name: content for name, content in found.items() if b'"collective_seq_id"' in content}
