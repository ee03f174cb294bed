"""The detections of all ranks in one file of COCO's results: each rank writes its own aside, rank 0 joins them."""

import contextlib
import heapq
import json
import os
import secrets
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Self, TextIO

from phalanx.dist.comm.collectives import barrier, broadcast_object, run_and_agree, run_on_main
from phalanx.dist.comm.process_group import World
from phalanx.dist.storage.durable_files import create_aside, fsync_directory


class ResultsFile:
    """A JSON list with the entries of all images, in order, written completely or not at all. All ranks make it together.

    No rank holds more than one image's entries at a time: masks of a whole dataset are large. Leaving the context joins the
    files, or, after a failure, removes them.

    Args:
        path: the file's, in a folder that all ranks see.

    Raises:
        UserError: if it cannot be written there; a full disk is reported at the end.
    """

    def __init__(self, world: World, path: Path):
        self._world, self._path = world, path
        self._problem: OSError | None = None
        self._word = broadcast_object(world, secrets.token_hex(8))  # so that nobody could have put a link under the names
        self._part = self._part_of(world.ranks.rank)
        self._file: TextIO = run_and_agree(world, lambda: open(self._part, "x", encoding="utf-8"))  # noqa: SIM115 (closed by exit)

    def _part_of(self, rank: int) -> Path:
        return self._path.with_name(f".{self._path.name}.rank-{rank:05d}.{self._word}.tmp")

    def add(self, number: int, entries: list[dict[str, Any]]) -> None:
        """The entries of an image, whose numbers rise on each rank."""
        if self._problem is not None:
            return
        try:
            self._file.write(json.dumps([number, entries]) + "\n")
        except OSError as problem:
            self._problem = problem

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        try:
            if kind is None:
                run_and_agree(self._world, lambda: self._say_where(self._part, self._end))
                run_on_main(self._world, lambda: self._say_where(self._path, self._join))
                barrier(self._world)
        finally:
            with contextlib.suppress(OSError):  # told of already, or less to the point than what has failed
                self._file.close()
            self._part.unlink(missing_ok=True)

    def _end(self) -> None:
        if self._problem is not None:
            raise self._problem
        self._file.close()

    @staticmethod
    def _say_where(path: Path, action: Callable[[], None]) -> None:
        """Adds the file's name to write errors."""
        try:
            action()
        except OSError as error:
            raise OSError(error.errno, error.strerror, error.filename or str(path)) from error

    def _join(self) -> None:
        descriptor, aside = create_aside(self._path)
        parts = [self._lines(rank) for rank in range(self._world.ranks.world)]
        try:
            with open(descriptor, "w", encoding="utf-8") as file:
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
        with open(self._part_of(rank), encoding="utf-8") as file:
            for line in file:
                yield json.loads(line)
