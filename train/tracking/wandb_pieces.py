"""W&B's offline files: each attempt at a run leaves one, truncated if the process was killed.

The files are LevelDB's log format (blocks of 32 KiB, records in up to four kinds of parts) around protobuf records, whose
classes the wandb package ships.
"""

import json
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

_BLOCK, _HEADER = 32768, 7
_MAGIC = b":W&B"
_FULL, _FIRST, _LAST = 1, 2, 4  # kinds of parts; 3 is one in the middle


def pieces(run_directory: Path) -> list[Path]:
    """The offline files of a run, the oldest first."""
    return sorted((run_directory / "wandb").glob("offline-run-*/*.wandb"))


def rows(piece: Path) -> Iterator[dict[str, Any]]:
    """The logged rows of a piece, `_step` among their values, up to where the file is truncated.

    Raises:
        ValueError: if it is another kind of file.
    """
    from wandb.proto import wandb_internal_pb2

    for content in _records(piece.read_bytes()):
        record = wandb_internal_pb2.Record()
        record.ParseFromString(content)
        if record.WhichOneof("record_type") == "history":
            yield {(i.key or "/".join(i.nested_key)): json.loads(i.value_json) for i in record.history.item}


def _records(content: bytes) -> Iterator[bytes]:
    if not content.startswith(_MAGIC):
        raise ValueError("this is not a .wandb file")
    place, record = _HEADER, b""
    while place + _HEADER <= len(content):
        if _BLOCK - place % _BLOCK < _HEADER:
            place += _BLOCK - place % _BLOCK  # too short for a header: the rest of the block is empty
            continue
        _, length, kind = struct.unpack("<IHB", content[place : place + _HEADER])
        place += _HEADER
        if kind == 0 or place + length > len(content):
            return
        record = (b"" if kind in (_FULL, _FIRST) else record) + content[place : place + length]
        place += length
        if kind in (_FULL, _LAST):
            yield record


def logged_steps(run_directory: Path) -> set[int]:
    """The steps of all offline files.

    Raises:
        ValueError: if one cannot be read.
    """
    return {int(row["_step"]) for piece in pieces(run_directory) for row in rows(piece)}
