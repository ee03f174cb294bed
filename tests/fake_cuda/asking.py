"""The side of the tests: a worker that is started when it is needed, and again after it was lost."""

import json
import os
import select
import subprocess
import sys
from dataclasses import dataclass
from typing import Any

from tests.support.running import ROOT

_START_S = 90.0
_GRACE_S = 10.0  # a call that does not end in time by itself is in a kernel, and its process is killed


@dataclass(frozen=True)
class Answer:
    """What a call returned, or why it did not."""

    result: Any
    error: str | None
    traceback: str
    seconds: float
    cpu_seconds: float


class Worker:
    """One process with the pretended device, for any number of calls."""

    def __init__(self) -> None:
        self._process: subprocess.Popen[bytes] | None = None

    def ask(self, function: str, limit_s: float = 60.0, **arguments: Any) -> Answer:
        """Calls `module:name` there with arguments, and returns what that returns, as JSON.

        A call that raises, takes too long or ends its process is an error in the answer, and the next one goes well.
        """
        first = self._process is None
        process = self._process = self._process or self._start()
        assert process.stdin is not None and process.stdout is not None
        order = {"function": function, "limit_s": limit_s, "arguments": arguments}
        try:
            process.stdin.write(json.dumps(order).encode() + b"\n")
            process.stdin.flush()
        except BrokenPipeError:
            return self._lost(f"the process had ended with {process.wait(_GRACE_S)}")
        ready, _, _ = select.select([process.stdout], [], [], limit_s + _GRACE_S + (_START_S if first else 0.0))
        if not ready:
            return self._lost("the process did not answer, and was killed")
        line = process.stdout.readline()
        if not line:
            return self._lost(f"the process ended with {process.wait(_GRACE_S)}")
        told = json.loads(line)
        return Answer(told.get("result"), told.get("error"), told.get("traceback", ""), told["seconds"], told["cpu_seconds"])

    def _start(self) -> "subprocess.Popen[bytes]":
        environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": f"{ROOT}/src", "ACCELERATE_CONFIG_FILE": ""}
        environment.pop("ACCELERATE_USE_CPU", None)
        command = [sys.executable, "-m", "tests.fake_cuda.worker"]
        return subprocess.Popen(command, cwd=ROOT, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE)

    def _lost(self, why: str) -> Answer:
        self.close()
        return Answer(None, why, "", 0.0, 0.0)

    def close(self) -> None:
        """Ends the process."""
        if self._process is not None:
            self._process.kill()
            self._process.communicate()
            self._process = None
