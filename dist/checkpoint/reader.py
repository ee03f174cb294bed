"""Judging a checkpoint on the disk and reading ranges of its tensors, whoever wrote them. No torch here."""

from pathlib import Path

from phalanx.dist.checkpoint import directory, manifest, shard_file
from phalanx.dist.checkpoint.layout import ITEM_SIZE, Range
from phalanx.dist.checkpoint.manifest import BrokenCheckpoint, Manifest, entry_name


def problem(checkpoint: Path, rank: int = 0, world: int = 1) -> str | None:
    """What is wrong with a checkpoint, None if nothing: its manifest, and every `world`-th block of its files."""
    try:
        stored = manifest.read(checkpoint)
        blocks = [(f, i, s) for f, d in stored.files.items() for i, s in enumerate(d["xxh3_64"])]
        for file, index, expected in blocks[rank::world]:
            if shard_file.block_sum(checkpoint / file, index) != expected:
                return f"{file} was changed after it was written (block {index})"
    except BrokenCheckpoint as broken:
        return str(broken)
    except OSError as error:
        return f"{error.filename}: {error.strerror}"
    return None


def newest_whole(checkpoints: Path) -> tuple[Path | None, list[tuple[int, str]]]:
    """The newest checkpoint that is whole, and (step, problem) of newer ones that are not."""
    passed_over: list[tuple[int, str]] = []
    for step in reversed(directory.steps(checkpoints)):
        path = directory.step_directory(checkpoints, step)
        found = problem(path)
        if found is None:
            return path, passed_over
        passed_over.append((step, found))
    return None, passed_over


class Readers:
    """The shards of a checkpoint, each opened when it is first needed."""

    def __init__(self, checkpoint: Path, stored: Manifest):
        self._checkpoint, self._stored = checkpoint, stored
        self._open: dict[str, shard_file.ShardReader] = {}

    def __enter__(self) -> "Readers":
        return self

    def __exit__(self, *_: object) -> None:
        for reader in self._open.values():
            reader.close()

    def fill(self, name: str, wanted: Range, target: memoryview) -> None:
        """Fills `target` with the elements `wanted` of a stored tensor, from whatever shards hold them."""
        tensor = self._stored.tensors[name]
        item = ITEM_SIZE[tensor.dtype]
        for part in tensor.ranges:
            start, stop = max(part.range.start, wanted.start), min(part.range.stop, wanted.stop)
            if start >= stop:
                continue
            if part.file not in self._open:
                self._open[part.file] = shard_file.ShardReader(self._checkpoint / part.file)
            into = target[(start - wanted.start) * item : (stop - wanted.start) * item]
            entry = entry_name(name, part.range, tensor.elements)
            self._open[part.file].read_into(entry, (start - part.range.start) * item, into)
