"""What a run leaves in its directory, as benchmarks and tests read and compare it."""

import json
from pathlib import Path
from typing import Any

import numpy

from phalanx.dist.checkpoint import directory, manifest
from phalanx.dist.checkpoint.layout import ITEM_SIZE, Range
from phalanx.dist.checkpoint.reader import Readers

_NUMPY = {"F64": numpy.float64, "F32": numpy.float32, "I64": numpy.int64}


def lines(path: Path) -> list[dict[str, Any]]:
    """The whole lines of a JSONL file; none where there is no such file."""
    if not path.exists():
        return []
    text = path.read_text()
    return [json.loads(line) for line in text[: text.rfind("\n") + 1].splitlines()]


def tensors(run_directory: Path, step: int | None = None) -> dict[str, numpy.ndarray]:
    """Every tensor of a run's checkpoint (the newest): model, optimizer, statistics."""
    checkpoints = run_directory / "checkpoints"
    path = directory.step_directory(checkpoints, directory.steps(checkpoints)[-1] if step is None else step)
    stored = manifest.read(path)
    found = {}
    with Readers(path, stored) as readers:
        for name, tensor in stored.tensors.items():
            content = bytearray(tensor.elements * ITEM_SIZE[tensor.dtype])
            readers.fill(name, Range(0, tensor.elements), memoryview(content))
            found[name] = numpy.frombuffer(content, _NUMPY[tensor.dtype]).reshape(tensor.shape)
    return found


def scalars(run_directory: Path) -> dict[str, Any]:
    """The scalars of a run's newest checkpoint."""
    checkpoints = run_directory / "checkpoints"
    return manifest.read(directory.step_directory(checkpoints, directory.steps(checkpoints)[-1])).state


def assert_bitwise(one: Path, other: Path) -> None:
    """The newest checkpoints of two runs are equal to the last bit."""
    a, b = tensors(one), tensors(other)
    assert a.keys() == b.keys()
    differing = [name for name in a if a[name].tobytes() != b[name].tobytes()]
    assert not differing, f"{len(differing)} of {len(a)} tensors differ, such as {differing[:3]}"
    assert scalars(one) == scalars(other)


def sample_ids(run_directory: Path) -> dict[int, list[int]]:
    """The sample ids of every step over all ranks, in the order of the stream, from the ledger."""
    steps: dict[int, list[tuple[int, list[int]]]] = {}
    for path in (run_directory / "ledger").glob("rank-*.jsonl"):
        for line in lines(path):
            steps.setdefault(line["step"], []).append((int(path.stem.removeprefix("rank-")), line["ids"]))
    return {step: [i for _, ids in sorted(parts) for i in ids] for step, parts in sorted(steps.items())}
