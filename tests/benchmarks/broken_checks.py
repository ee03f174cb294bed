"""Checks for `test_gpu_checks.py`: some that go wrong, and a sound one after them."""

import os
import signal
import time
from collections.abc import Sequence
from typing import Any

from benchmarks import gpu
from benchmarks.gpu_checks.check import Bench, Check, NotShown


def is_killed(bench: Bench) -> tuple[bool, dict[str, Any]]:
    bench.tell("before", {"figure": 1})
    os.kill(os.getpid(), signal.SIGKILL)
    return True, {}


def exits(bench: Bench) -> tuple[bool, dict[str, Any]]:
    os._exit(3)


def raises(bench: Bench) -> tuple[bool, dict[str, Any]]:
    raise ValueError("a sentence of its own")


def hangs(bench: Bench) -> tuple[bool, dict[str, Any]]:
    """Beside a process of its own, which has the pipe of the results too."""
    if os.fork() == 0:
        time.sleep(600)
    time.sleep(600)
    return True, {}


def fails(bench: Bench) -> tuple[bool, dict[str, Any]]:
    return False, {"figure": float("nan")}


def not_shown(bench: Bench) -> tuple[bool, dict[str, Any]]:
    raise NotShown("there is no such device")


def holds(bench: Bench) -> tuple[bool, dict[str, Any]]:
    """On the device that the harness has made."""
    import torch

    return torch.zeros(2, device=bench.device).device.type == bench.device, {"pretended": bench.way.pretended}


FUNCTIONS = (is_killed, exits, raises, hangs, fails, not_shown, holds)
CHECKS = [Check(f.__name__, f"{__name__}:{f.__name__}", 0.3 if f is hangs else 30) for f in FUNCTIONS]


def main(arguments: Sequence[str]) -> int:
    """`benchmarks/gpu.py` with these checks."""
    return gpu.main(arguments, CHECKS)
