"""manifest.json: what a checkpoint holds, and where. Written last: a folder without one is not a checkpoint. No torch here."""

import json
import math
import re
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import xxhash

from phalanx.configs.errors import printable
from phalanx.dist.checkpoint.layout import ITEM_SIZE, Range, elements, gaps
from phalanx.dist.storage.durable_files import read_bytes

FORMAT, VERSION = "phalanx.checkpoint", 2
READABLE = (1, 2)  # 1 had neither metrics nor runs of pieces
NAME = "manifest.json"
_SHARD = re.compile(r"shards/rank-\d{5,}(-\d{3})?\.safetensors")


class BrokenCheckpoint(ValueError):
    """A checkpoint that cannot be used; the message is the reason, as the end of a sentence."""

    def __init__(self, message: str):
        super().__init__(printable(message))


@dataclass(frozen=True)
class StoredRange:
    """A range of a tensor and the file that holds it, under the name that `entry_name` gives."""

    file: str
    range: Range


@dataclass(frozen=True)
class ShardRun:
    """A range of a tensor cut into pieces of equal size, in consecutive files.

    So a tensor that is sharded over a thousand ranks takes four numbers, not three thousand.

    Attributes:
        file: index of the first piece's file.
        piece: elements of a piece; the last may have fewer.
    """

    file: int
    range: Range
    piece: int


@dataclass(frozen=True)
class StoredTensor:
    """A tensor of a checkpoint.

    Attributes:
        kind: model (parameters, buffers), optimizer (state of a parameter), ema (averaged weights), ema_buffers (averaged
            buffers and statistics), statistics (BatchNorm's, one row per micro-batch).
        runs: where its elements are, in order.
        files: names of all files of the checkpoint.
    """

    kind: str
    dtype: str
    shape: tuple[int, ...]
    runs: tuple[ShardRun, ...]
    files: Sequence[str]

    @property
    def elements(self) -> int:
        return elements(self.shape)

    @property
    def ranges(self) -> list[StoredRange]:
        """Every piece, in order."""
        return list(self.overlapping(Range(0, self.elements)))

    def overlapping(self, wanted: Range) -> Iterator[StoredRange]:
        """The pieces that hold any of the wanted elements, in order."""
        for run in self.runs[max(0, bisect_right(self.runs, wanted.start, key=lambda run: run.range.start) - 1) :]:
            if run.range.start >= wanted.stop:
                return
            number = max(0, (wanted.start - run.range.start) // run.piece)
            start = run.range.start + number * run.piece
            while start < min(run.range.stop, wanted.stop):
                stop = min(start + run.piece, run.range.stop)
                yield StoredRange(self.files[run.file + number], Range(start, stop))
                start, number = stop, number + 1


@dataclass(frozen=True)
class Manifest:
    """The description of a checkpoint.

    Attributes:
        step, samples: the run's position.
        world_size, strategy: of the run that wrote it.
        experiment: digest of the experiment.
        versions: of the libraries.
        state: scalars, as JSON.
        files: size and checksums of each file, in the order of the runs' indices.
        tensors: tensors by name.
        metrics: of the evaluation after that step, such as `val/top1`; empty if there was none.
    """

    step: int
    samples: int
    world_size: int
    strategy: str
    experiment: str
    versions: dict[str, str]
    state: dict[str, Any]
    files: dict[str, dict[str, Any]]
    tensors: dict[str, StoredTensor] = field(default_factory=dict)
    metrics: dict[str, float] = field(default_factory=dict)

    @property
    def bytes(self) -> int:
        return sum(int(f["size"]) for f in self.files.values())


def entry_name(tensor: str, part: Range, count: int) -> str:
    """An entry's name in a shard: the tensor's name, with the range unless it is complete."""
    return tensor if part == Range(0, count) else f"{tensor}[{part.start}:{part.stop}]"


def scalars_to_json(value: Any) -> Any:
    """JSON has neither NaN nor infinity; `{"float": "nan"}` stands for them."""
    if isinstance(value, dict):
        return {k: scalars_to_json(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [scalars_to_json(v) for v in value]
    if isinstance(value, float) and not math.isfinite(value):
        return {"float": str(value)}
    return value


def scalars_from_json(value: Any) -> Any:
    if isinstance(value, dict):
        if set(value) == {"float"}:
            return float(value["float"])
        return {k: scalars_from_json(v) for k, v in value.items()}
    if isinstance(value, list):
        return [scalars_from_json(v) for v in value]
    return value


def _sum(body: dict[str, Any]) -> str:
    return xxhash.xxh3_64(json.dumps(body, sort_keys=True, separators=(",", ":"), allow_nan=False).encode()).hexdigest()


def dumps(manifest: Manifest) -> str:
    """The manifest as JSON, with a checksum of itself."""
    body = {
        "format": FORMAT,
        "version": VERSION,
        "step": manifest.step,
        "samples": manifest.samples,
        "world_size": manifest.world_size,
        "strategy": manifest.strategy,
        "experiment": manifest.experiment,
        "versions": manifest.versions,
        "metrics": scalars_to_json(manifest.metrics),
        "state": scalars_to_json(manifest.state),
        "files": manifest.files,
        "tensors": {
            name: {
                "kind": t.kind,
                "dtype": t.dtype,
                "shape": list(t.shape),
                "ranges": [_run_to_json(run) for run in t.runs],
            }
            for name, t in manifest.tensors.items()
        },
    }
    return json.dumps(body | {"xxh3_64": _sum(body)}) + "\n"


def _tensor(name: str, stored: dict[str, Any], files: list[str]) -> StoredTensor:
    shape = tuple(int(side) for side in stored["shape"])
    if stored["dtype"] not in ITEM_SIZE or any(side < 0 for side in shape):
        raise BrokenCheckpoint(f"the manifest describes {name!r} inconsistently")
    runs = tuple(_run_from_json(*map(int, numbers)) for numbers in stored["ranges"])
    wrong = gaps([run.range for run in runs], elements(shape))
    if wrong:
        raise BrokenCheckpoint(f"the manifest's ranges of {name!r} are incomplete: {wrong}")
    if any(run.file < 0 or run.piece < 1 or run.file + -(-run.range.size // run.piece) > len(files) for run in runs):
        raise BrokenCheckpoint(f"the manifest's ranges of {name!r} are in files that it does not name")
    return StoredTensor(str(stored["kind"]), str(stored["dtype"]), shape, runs, files)


def _run_to_json(run: ShardRun) -> list[int]:
    numbers = [run.file, run.range.start, run.range.stop]
    return numbers if run.piece >= run.range.size else [*numbers, run.piece]


def _run_from_json(file: int, start: int, stop: int, piece: int | None = None) -> ShardRun:
    return ShardRun(file, Range(start, stop), stop - start if piece is None else piece)


def read(checkpoint: Path) -> Manifest:
    """Reads and checks the manifest of a checkpoint directory, and that its files exist with their full sizes.

    Raises:
        BrokenCheckpoint: naming the problem.
    """
    try:
        content = read_bytes(checkpoint / NAME)
    except FileNotFoundError:
        raise BrokenCheckpoint("it has no manifest: its save did not finish") from None
    except (OSError, ValueError):
        raise BrokenCheckpoint("its manifest cannot be read") from None
    manifest = loads(content)
    for name, described in manifest.files.items():
        path, size = checkpoint / name, int(described["size"])
        if not path.is_file() or path.is_symlink():
            raise BrokenCheckpoint(f"{name} is missing")
        if path.stat().st_size != size:
            raise BrokenCheckpoint(f"{name} has {path.stat().st_size} bytes instead of {size}")
    return manifest


def loads(content: bytes | str) -> Manifest:
    """A manifest from its JSON.

    Raises:
        BrokenCheckpoint: naming the problem.
    """
    try:
        body = json.loads(content)
    except (ValueError, RecursionError):
        raise BrokenCheckpoint("its manifest cannot be read") from None
    if not isinstance(body, dict) or body.get("format") != FORMAT:
        raise BrokenCheckpoint("its manifest is not Phalanx's")
    if body.get("version") not in READABLE:
        written = f"its format is version {body.get('version')}, this Phalanx reads versions {READABLE[0]} to {READABLE[-1]}"
        raise BrokenCheckpoint(f"{written}; use the Phalanx that wrote it")
    try:
        is_as_written = body.pop("xxh3_64", None) == _sum(body)
    except (ValueError, RecursionError):  # NaN, half a character, endless nesting: none is in a manifest of ours
        is_as_written = False
    if not is_as_written:
        raise BrokenCheckpoint("its manifest was changed after it was written")
    try:
        files = list(body["files"])
        for name in files:
            if not _SHARD.fullmatch(name):
                raise BrokenCheckpoint(f"its manifest names a file that is not a shard: {name!r}")
        tensors = {name: _tensor(name, stored, files) for name, stored in body["tensors"].items()}
        manifest = Manifest(
            step=int(body["step"]),
            samples=int(body["samples"]),
            world_size=int(body["world_size"]),
            strategy=str(body["strategy"]),
            experiment=str(body["experiment"]),
            versions=dict(body["versions"]),
            state=scalars_from_json(body["state"]),
            files=body["files"],
            tensors=tensors,
            metrics={name: float(value) for name, value in scalars_from_json(body.get("metrics", {})).items()},
        )
        for name, file in manifest.files.items():
            size, block = int(file["size"]), int(file["block_bytes"])
            if size < 0 or block < 1 or len(file["xxh3_64"]) != -(-size // block):
                raise BrokenCheckpoint(f"its manifest has no checksums for all of {name}")
    except BrokenCheckpoint:
        raise
    except (KeyError, TypeError, ValueError, IndexError, AttributeError, OverflowError):
        raise BrokenCheckpoint("its manifest is incomplete") from None
    return manifest
