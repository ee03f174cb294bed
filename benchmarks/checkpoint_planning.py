"""What planning a checkpoint costs with many ranks and tensors: no files of tensors, no processes, the real functions.

    python benchmarks/checkpoint_planning.py
    python benchmarks/checkpoint_planning.py --smoke    (8 ranks, 20 tensors)

Prints JSON: for tensors that every rank holds whole (as under DDP), and for shards along the first dimension (as under FSDP2
and ZeRO-3): seconds a rank plans, seconds rank 0 puts all reports together, seconds and bytes of the manifest, seconds every
rank needs to read it, and to find its own ranges of all tensors in it.
"""

import argparse
import json
import resource
import statistics
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from benchmarks.results import commit  # noqa: E402
from phalanx.dist.checkpoint import manifest, plan, shard_file  # noqa: E402
from phalanx.dist.checkpoint.entries import Entry, full_entry  # noqa: E402
from phalanx.dist.checkpoint.layout import Range  # noqa: E402
from phalanx.dist.checkpoint.manifest import Manifest, StoredTensor  # noqa: E402
from phalanx.dist.checkpoint.save import ShardContents  # noqa: E402

ROWS, COLUMNS = 2048, 256  # two megabytes of float32 a tensor


def replicated(tensors: int, rank: int, world: int) -> list[Entry]:
    shape = torch.empty(ROWS, COLUMNS, device="meta")
    return [full_entry(f"blocks.{number}.weight", "model", shape) for number in range(tensors)]


def sharded(tensors: int, rank: int, world: int) -> list[Entry]:
    rows = -(-ROWS // world)
    first, last = min(rank * rows, ROWS), min((rank + 1) * rows, ROWS)
    shard = torch.empty(last - first, COLUMNS, device="meta")
    return [
        Entry(f"blocks.{n}.weight", "model", shard, (ROWS, COLUMNS), first * COLUMNS, replicated=False) for n in range(tensors)
    ]


def report(ranges: Sequence[tuple[Entry, Range]], index: dict[str, int], rank: int) -> str:
    """What a rank tells rank 0, on the wire."""
    size = sum(part.size * entry.tensor.element_size() for entry, part in ranges)
    sums = ["0" * 16] * -(-size // shard_file.BLOCK_BYTES)
    blocks = {"size": size, "block_bytes": shard_file.BLOCK_BYTES, "xxh3_64": sums}
    listed = [[index[entry.name], part.start, part.stop] for entry, part in ranges]
    return json.dumps([{"file": plan.file_name(rank, 0), "sum": blocks, "ranges": listed}])


def measure(layout: Any, tensors: int, world: int) -> dict[str, Any]:
    facts = plan.tensor_infos(layout(tensors, 0, world))
    index = {tensor.name: number for number, tensor in enumerate(facts)}
    together = plan.ranks_per_file(facts, world)
    contents, planning, merging = ShardContents(tensors), [], 0.0
    for rank in range(world):
        entries = layout(tensors, rank, world)
        begun = time.perf_counter()
        ranges = plan.own_ranges(entries, rank, world, together)
        planning.append(time.perf_counter() - begun)
        message = report(ranges, index, rank)
        begun = time.perf_counter()
        contents.add(json.loads(message))
        merging += time.perf_counter() - begun
    begun = time.perf_counter()
    names = list(contents.files)
    stored = {t.name: StoredTensor(t.kind, t.dtype, t.shape, contents.runs(i), names) for i, t in enumerate(facts)}
    text = manifest.dumps(Manifest(1, 1, world, "fsdp", "digest", {}, {}, contents.files, stored))
    writing = time.perf_counter() - begun
    begun = time.perf_counter()
    read = manifest.loads(text)
    reading = time.perf_counter() - begun
    begun = time.perf_counter()
    pieces = sum(1 for entry in layout(tensors, world // 2, world) for _ in read.tensors[entry.name].overlapping(entry.held))
    finding = time.perf_counter() - begun
    return {
        "ranges": sum(len(tensor.ranges) for tensor in read.tensors.values()),
        "a rank plans, s": round(statistics.median(planning), 4),
        "rank 0 puts reports together, s": round(merging, 3),
        "manifest made, s": round(writing, 3),
        "manifest, MB": round(len(text) / 1e6, 2),
        "manifest read and judged, s": round(reading, 3),
        "a rank finds its ranges, s": round(finding, 3),
        "pieces it reads": pieces,
        "largest memory of this process, MB": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024,
    }


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--ranks", type=int, default=1024)
    parser.add_argument("--tensors", type=int, default=10_000)
    parser.add_argument("--smoke", action="store_true", help="8 ranks and 20 tensors")
    given = parser.parse_args(arguments)
    ranks, tensors = (8, 20) if given.smoke else (given.ranks, given.tensors)
    found = {layout.__name__: measure(layout, tensors, ranks) for layout in (replicated, sharded)}
    print(json.dumps({"commit": commit(), "ranks": ranks, "tensors": tensors} | found, indent=1))
    return 0


if __name__ == "__main__":
    sys.exit(main())
