"""Reading back what W&B wrote offline."""

import json
import struct
from collections.abc import Iterator
from pathlib import Path


def history(path: Path) -> Iterator[dict[str, float]]:
    """The history rows of an offline .wandb file: LevelDB's log format, protobuf records."""
    from wandb.proto import wandb_internal_pb2

    block, content, place, buffer = 32768, path.read_bytes(), 7, b""
    assert content[:4] == b":W&B"
    while place + 7 <= len(content):
        if block - place % block < 7:
            place += block - place % block
            continue
        _, length, kind = struct.unpack("<IHB", content[place : place + 7])
        place += 7
        if kind == 0 or place + length > len(content):
            return  # padding, or a tail that a kill cut short
        first_or_whole, last_or_whole = kind in (1, 2), kind in (1, 4)
        buffer = (b"" if first_or_whole else buffer) + content[place : place + length]
        place += length
        if last_or_whole:
            record = wandb_internal_pb2.Record()
            record.ParseFromString(buffer)
            if record.WhichOneof("record_type") == "history":
                yield {(i.key or "/".join(i.nested_key)): json.loads(i.value_json) for i in record.history.item}


def records(run_directory: Path) -> tuple[set[str], list[int]]:
    """The ids of all pieces of a run, and the steps of all their rows."""
    pieces = sorted((run_directory / "wandb").glob("offline-run-*/*.wandb"))
    return {piece.stem.removeprefix("run-") for piece in pieces}, [int(row["_step"]) for p in pieces for row in history(p)]
