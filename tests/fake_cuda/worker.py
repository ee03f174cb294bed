"""A process with the pretended device: calls functions by name, one order after another, and answers each with a JSON line."""

import importlib
import json
import os
import signal
import sys
import time
import traceback
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any


class TooLong(Exception):
    """A call took longer than it may."""


@contextmanager
def _limited(seconds: float) -> Iterator[None]:
    def stop(number: int, frame: FrameType | None) -> None:
        raise TooLong(f"longer than {seconds:.0f} s")

    signal.signal(signal.SIGALRM, stop)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)


def _answer(order: dict[str, Any]) -> dict[str, Any]:
    module, _, name = order["function"].partition(":")
    begun, computed = time.monotonic(), time.process_time()
    try:
        with _limited(order["limit_s"]):
            found = {"result": getattr(importlib.import_module(module), name)(**order["arguments"])}
    except Exception as error:
        found = {"error": f"{type(error).__name__}: {error}", "traceback": traceback.format_exc()}
    seconds = {"seconds": time.monotonic() - begun, "cpu_seconds": time.process_time() - computed}
    return found | {name: round(value, 2) for name, value in seconds.items()}


def main() -> None:
    # What a library prints must not come between the answers.
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    warnings.filterwarnings("ignore")
    from benchmarks.support.fake_cuda.install import install

    install()
    for line in sys.stdin:
        answers.write(json.dumps(_answer(json.loads(line))) + "\n")
        answers.flush()
    # Nothing is freed one by one: a save in flight may still hold the device's memory.
    os._exit(0)


if __name__ == "__main__":
    main()
