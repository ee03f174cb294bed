"""Runs of `phalanx train` as a user starts them: how long they took, and how much memory."""

import os
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from phalanx.dist.storage.json_lines import read_lines

ROOT = Path(__file__).resolve().parent.parent
_LEFT_OUT = ("OMP_NUM_THREADS", "ACCELERATE_CONFIG_FILE")


def measured(command: Sequence[str], **environment: str) -> tuple[float, int]:
    """Runs a command to its end; its seconds, and the peak memory in MB of the largest process that it started."""
    kept = {key: value for key, value in os.environ.items() if key not in _LEFT_OUT}
    begun = time.monotonic()
    process = subprocess.Popen(command, cwd=ROOT, env=kept | environment, stdout=sys.stderr)
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise SystemExit(f"{' '.join(command)}: exit code {process.returncode}")
    return time.monotonic() - begun, usage.ru_maxrss // 1024


def file_name(text: str) -> str:
    return "-".join(text.replace(",", "").lower().split())


def lines(path: Path) -> list[dict[str, Any]]:
    return list(read_lines(path)) if path.exists() else []


def spent(run: Path) -> float:
    """Seconds that earlier attempts took, from the start to what they last logged before their end or the kill."""
    total, begun, last = 0.0, None, 0.0
    marks = [(e["time"], e["event"]) for e in lines(run / "events.jsonl")]
    marks += [(line["time"], "line") for line in lines(run / "metrics.jsonl")]
    for when, what in sorted(marks):
        if what in ("start", "resume"):
            total += last - begun if begun is not None else 0.0
            begun = when
        last = when
    return total + (last - begun if begun is not None else 0.0)
