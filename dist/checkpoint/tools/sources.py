"""A common interface of checkpoints and files of weights for comparisons: named tensors read by ranges. No torch here."""

import json
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path
from typing import Any, Protocol

from phalanx.configs.errors import UserError
from phalanx.dist.checkpoint import manifest
from phalanx.dist.checkpoint.layout import ITEM_SIZE, Range
from phalanx.dist.checkpoint.reader import Readers
from phalanx.dist.checkpoint.shard_file import ShardReader
from phalanx.dist.checkpoint.tools import contents
from phalanx.dist.checkpoint.tools.contents import NoAverages, TensorContent


class TensorSource(Protocol):
    """Tensors by name, and scalars by name."""

    @property
    def tensors(self) -> Mapping[str, TensorContent]:
        """Dtype and shape of each."""
        ...

    @property
    def scalars(self) -> Mapping[str, Any]:
        """Step, samples, and what a checkpoint holds besides tensors, such as `state.optimizer.lr`."""
        ...

    def read(self, name: str, part: Range) -> memoryview:
        """The bytes of a range of a tensor's elements."""
        ...

    def close(self) -> None: ...


class FileSource:
    """A safetensors file of any origin.

    Raises:
        ValueError: if it is not a valid safetensors file, with the reason.
        OSError: if it cannot be read.
    """

    def __init__(self, path: Path):
        self._reader = ShardReader(path)
        self.tensors = {n: TensorContent(n, e["dtype"], tuple(e["shape"])) for n, e in self._reader.entries.items()}
        metadata = _metadata(path)
        self.scalars = {name: int(metadata[name]) for name in ("step", "samples") if metadata.get(name, "").isdecimal()}
        self.averaged, self.with_optimizer = metadata.get("weights") == "averaged", metadata.get("optimizer") == "true"

    def read(self, name: str, part: Range) -> memoryview:
        item = ITEM_SIZE[self.tensors[name].dtype]
        target = memoryview(bytearray(part.size * item))
        self._reader.read_into(name, part.start * item, target)
        return target

    def close(self) -> None:
        self._reader.close()


class CheckpointSource:
    """A checkpoint as it is stored, or as `consolidate` would write it when it is compared with a file.

    Raises:
        BrokenCheckpoint: if its manifest cannot be used.
        NoAverages: if the file holds averaged weights, and the checkpoint does not.
    """

    def __init__(self, path: Path, like: FileSource | None = None):
        stored = manifest.read(path)
        self._readers = Readers(path, stored)
        self.tensors = contents.as_stored(stored)
        self.scalars = {"step": stored.step, "samples": stored.samples} | flat("state", stored.state)
        if like is not None:
            self.tensors = contents.as_loaded(stored, like.averaged, like.with_optimizer)
            self.scalars = {name: self.scalars[name] for name in like.scalars}

    def read(self, name: str, part: Range) -> memoryview:
        return contents.read(self._readers, self.tensors[name], part)

    def close(self) -> None:
        self._readers.__exit__()


@contextmanager
def open_both(a: Path, b: Path) -> Iterator[tuple[TensorSource, TensorSource]]:
    """Opens two checkpoints or files for comparison; against a file, a checkpoint is read as `consolidate` would write it.

    Raises:
        BrokenCheckpoint: if a manifest cannot be used.
        UserError: if a file is not a valid safetensors file, or holds averaged weights and the checkpoint does not.
    """
    with ExitStack() as stack:
        files = {path: stack.enter_context(closing(_open_file(path))) for path in (a, b) if path.is_file()}
        like = next(iter(files.values()), None)
        opened: list[TensorSource] = []
        for path in (a, b):
            try:
                opened.append(files[path] if path in files else stack.enter_context(closing(CheckpointSource(path, like))))
            except NoAverages as lacking:
                raise UserError(f"{path}: {lacking}, and the file holds them. Compare with another file.") from None
        yield opened[0], opened[1]


def _open_file(path: Path) -> FileSource:
    try:
        return FileSource(path)
    except ValueError as error:
        raise UserError(f"{path}: this is not a valid safetensors file: {error}. Check the path, or write it again.") from None
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {error.strerror}. Check the path.") from None


def flat(name: str, value: Any) -> dict[str, Any]:
    """Nested scalars by dotted names."""
    if isinstance(value, dict):
        return {n: v for key, below in value.items() for n, v in flat(f"{name}.{key}", below).items()}
    if isinstance(value, list):
        return {n: v for index, below in enumerate(value) for n, v in flat(f"{name}.{index}", below).items()}
    return {name: value}


def _metadata(path: Path) -> dict[str, str]:
    with open(path, "rb") as file:
        header = json.loads(file.read(int.from_bytes(file.read(8), "little")))
    found = header.get("__metadata__", {})
    return {k: v for k, v in found.items() if isinstance(v, str)} if isinstance(found, dict) else {}
