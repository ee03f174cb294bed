"""Counting collectives as torch's execution trace has them: those that C++ starts too, and without the profiler."""

import json
import tempfile
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from torch.profiler import ExecutionTraceObserver


@contextmanager
def collectives() -> Iterator[Counter[str]]:
    """The collectives that are called while this lasts, by name; filled in at its end."""
    found = Counter[str]()
    with tempfile.NamedTemporaryFile(suffix=".json") as file:
        trace = ExecutionTraceObserver().register_callback(file.name)
        trace.start()
        yield found
        trace.stop()
        trace.unregister_callback()
        nodes = json.loads(Path(file.name).read_text())["nodes"]
    found.update(node["name"] for node in nodes if node["name"].startswith("c10d::"))
