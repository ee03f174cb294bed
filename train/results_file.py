"""What all ranks detect, in one file of COCO's results: each rank writes its own aside, rank 0 puts them together."""

import heapq
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TextIO

from phalanx.dist.collectives import barrier, main_does, together
from phalanx.dist.files import fsync_directory
from phalanx.dist.process_group import World


class ResultsFile:
    """A JSON list with the entries of all images, in their order, whole or not at all. All ranks make it together.

    No rank holds more than one image's entries at a time: masks of a whole dataset are large.

    Args:
        path: of the file, in a folder that all ranks see.

    Raises:
        UserError: where it cannot be written there.
    """

    def __init__(self, world: World, path: Path):
        self._world, self._path = world, path
        self._file: TextIO = together(world, lambda: open(self._part(world.ranks.rank), "w", encoding="utf-8"))  # noqa: SIM115 (closed by finish)

    def _part(self, rank: int) -> Path:
        return self._path.with_name(f".{self._path.name}.rank-{rank:05d}.tmp")

    def add(self, number: int, entries: list[dict[str, Any]]) -> None:
        """The entries of an image, whose numbers rise on each rank."""
        self._file.write(json.dumps([number, entries]) + "\n")

    def finish(self) -> None:
        """Puts everything together.

        Raises:
            UserError: where it cannot be written.
        """
        try:
            together(self._world, self._file.close)
            main_does(self._world, self._join)
            barrier(self._world)
        finally:
            self._part(self._world.ranks.rank).unlink(missing_ok=True)

    def _join(self) -> None:
        aside = self._path.with_name(f".{self._path.name}.tmp")
        parts = [self._lines(rank) for rank in range(self._world.ranks.world)]
        try:
            with open(aside, "w", encoding="utf-8") as file:
                before = "["
                for _, entries in heapq.merge(*parts, key=lambda line: line[0]):
                    for entry in entries:
                        file.write(before + json.dumps(entry))
                        before = ",\n"
                file.write("]\n" if before != "[" else "[]\n")
                file.flush()
                os.fsync(file.fileno())
            os.rename(aside, self._path)
        except BaseException:
            aside.unlink(missing_ok=True)
            raise
        fsync_directory(self._path.parent)

    def _lines(self, rank: int) -> Iterator[list[Any]]:
        with open(self._part(rank), encoding="utf-8") as file:
            for line in file:
                yield json.loads(line)
