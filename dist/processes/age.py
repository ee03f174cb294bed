"""How long this process has been running."""

import os
import time
from pathlib import Path

_STARTED = 19  # the field `starttime` of /proc/PID/stat, counted behind the name, in ticks since the machine started


def seconds_since_start() -> float | None:
    """Of this process; None where the system does not say."""
    try:
        behind_name = Path("/proc/self/stat").read_text().rpartition(")")[2].split()
        ticks = int(behind_name[_STARTED])
    except (OSError, ValueError, IndexError):
        return None
    return max(0.0, time.clock_gettime(time.CLOCK_BOOTTIME) - ticks / os.sysconf("SC_CLK_TCK"))
