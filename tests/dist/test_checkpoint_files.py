"""The format on the disk: real safetensors, whole or not there; nothing foreign is believed or executed."""

import json
import pickle
import shutil
import struct
from collections.abc import Callable
from pathlib import Path

import numpy
import pytest
import torch
from safetensors.torch import load_file

from benchmarks.support.rank_pool import Pool
from phalanx.dist.checkpoint import directory, manifest, reader, retention, shard_file
from phalanx.dist.checkpoint.entries import Entry, full_entry
from phalanx.dist.checkpoint.layout import Range, cut, gaps
from phalanx.dist.checkpoint.manifest import BrokenCheckpoint, scalars_from_json, scalars_to_json
from phalanx.dist.checkpoint.plan import own_ranges
from phalanx.dist.checkpoint.retention import Retention
from phalanx.dist.checkpoint.save import CheckpointInfo, save
from phalanx.dist.checkpoint.shard_file import ShardReader
from phalanx.dist.checkpoint.tools.consolidate import consolidate
from phalanx.dist.comm.process_group import World

# Odd sizes, several formats, an empty tensor, one without dimensions, and one not in memory's order.
TENSORS = {
    "weight": torch.arange(1234, dtype=torch.float32).reshape(2, 617),
    "half": torch.arange(777, dtype=torch.bfloat16),
    "count": torch.tensor(12345678901),
    "mask": torch.tensor([True, False, True]),
    "nothing": torch.zeros(0, 3),
    "nhwc": torch.randn(4, 3, 5, 5, generator=torch.Generator().manual_seed(0)).contiguous(memory_format=torch.channels_last),
}
ROWS = torch.arange(24, dtype=torch.float32).reshape(8, 3) ** 1.5  # statistics of eight micro-batches, three channels


def write(world: World, folder: Path, step: int) -> int:
    """Every rank saves; returns the bytes of this rank's shard."""
    first, last = world.ranks.rank * 8 // world.ranks.world, (world.ranks.rank + 1) * 8 // world.ranks.world
    rows = Entry("bn.running_mean@micro_batches", "statistics", ROWS[first:last], (8, 3), first * 3, replicated=False)
    moment = full_entry("weight@exp_avg", "optimizer", torch.ones(2, 617))
    entries = [*(full_entry(n, "model", t) for n, t in TENSORS.items()), moment, rows]
    state = {"nan": float("nan"), "infinite": float("-inf"), "third": 1 / 3}
    progress = CheckpointInfo(step, 10 * step, "ddp", "digest", state, {"val/top1": step / 10})
    path = save(world, folder, entries, progress, smallest_file=0)
    return (path / f"shards/rank-{world.ranks.rank:05d}.safetensors").stat().st_size


@pytest.fixture
def checkpoints(pool: Pool, tmp_path: Path) -> Path:
    """A folder with the checkpoints of steps 1 and 2, written by three ranks."""
    folder = tmp_path / "checkpoints"
    folder.mkdir()
    for step in (1, 2):
        pool.run(3, write, folder, step)
    return folder


@pytest.mark.quick
def test_shards_are_safetensors_that_the_library_reads(checkpoints: Path) -> None:
    shards = [load_file(p) for p in sorted((checkpoints / "step-00000002/shards").iterdir())]
    assert len(shards) == 3
    stored = manifest.read(checkpoints / "step-00000002")
    for name, tensor in TENSORS.items():
        found = [
            shards[int(part.file[12:17])][manifest.entry_name(name, part.range, tensor.numel())].reshape(-1)
            for part in stored.tensors[name].ranges
        ]
        assert torch.equal(torch.cat(found) if found else tensor.reshape(-1), tensor.reshape(-1))
    assert stored.metrics == {"val/top1": 0.2}
    assert stored.state["third"] == 1 / 3 and numpy.isnan(stored.state["nan"]) and stored.state["infinite"] == -numpy.inf


def test_consolidated_weights_are_plain_and_the_statistics_their_mean(checkpoints: Path, tmp_path: Path) -> None:
    count = consolidate(checkpoints / "step-00000002", tmp_path / "w.safetensors")
    found = load_file(tmp_path / "w.safetensors")
    assert count == len(found) == len(TENSORS) + 1 and "weight@exp_avg" not in found
    assert all(torch.equal(found[n], t) and found[n].dtype == t.dtype for n, t in TENSORS.items())
    total = ROWS[0].clone()
    for row in ROWS[1:]:
        total += row
    assert torch.equal(found["bn.running_mean"], total / 8)
    consolidate(checkpoints / "step-00000002", tmp_path / "w.safetensors", with_optimizer=True)
    assert torch.equal(load_file(tmp_path / "w.safetensors")["weight@exp_avg"], torch.ones(2, 617))


def test_replicated_tensors_are_written_once_and_spread_evenly(pool: Pool, tmp_path: Path) -> None:
    sizes = pool.run(4, write, tmp_path, 1)
    assert max(sizes) / (sum(sizes) / 4) < 1.2


def _flip(path: Path, place: int) -> None:
    content = bytearray(path.read_bytes())
    content[place] ^= 1
    path.write_bytes(content)


def _shard(checkpoint: Path) -> Path:
    return checkpoint / "shards/rank-00001.safetensors"


def _edit(checkpoint: Path, change: Callable[[dict], None], again: bool) -> None:
    """Edits a manifest; with `again`, mends its checksum too, as one who means harm would."""
    body = json.loads((checkpoint / "manifest.json").read_text())
    change(body)
    if again:
        body.pop("xxh3_64")
        body["xxh3_64"] = manifest._sum(body)
    (checkpoint / "manifest.json").write_text(json.dumps(body))


def _escape(body: dict) -> None:
    body["files"]["../../etc/passwd"] = body["files"].pop("shards/rank-00001.safetensors")


def _without_blocks(body: dict) -> None:
    body["files"]["shards/rank-00001.safetensors"]["block_bytes"] = 0


def _unvouched(body: dict) -> None:
    body["files"]["shards/rank-00001.safetensors"]["xxh3_64"].pop()


class _Harm:
    def __reduce__(self) -> tuple[Callable[..., object], tuple[str]]:
        return (open, ("harmed", "w"))  # type: ignore[return-value]


def _pickle(checkpoint: Path) -> None:
    _shard(checkpoint).write_bytes(pickle.dumps(_Harm()))


DAMAGE: dict[str, tuple[Callable[[Path], None], str]] = {
    "a flipped bit": (lambda c: _flip(_shard(c), -5), "was changed after it was written"),
    "a flipped bit in a header": (lambda c: _flip(_shard(c), 20), "was changed after it was written"),
    "a truncated shard": (lambda c: _shard(c).write_bytes(_shard(c).read_bytes()[:-1]), "bytes instead of"),
    "a missing shard": (lambda c: _shard(c).unlink(), "is missing"),
    "a swapped shard": (lambda c: shutil.copy(c / "shards/rank-00000.safetensors", _shard(c)), "rank-00001"),
    "a shard that is a pickle": (_pickle, "bytes instead of"),
    "a missing manifest": (lambda c: (c / "manifest.json").unlink(), "has no manifest"),
    "a truncated manifest": (lambda c: (c / "manifest.json").write_text('{"format": '), "cannot be read"),
    "an edited manifest": (lambda c: _edit(c, lambda b: b.update(step=7), again=False), "was changed after it was written"),
    "a manifest that leaves the directory": (lambda c: _edit(c, _escape, again=True), "not a shard"),
    "a manifest without checksums for all": (lambda c: _edit(c, _unvouched, again=True), "has no checksums for all of"),
    "a manifest with blocks of no bytes": (lambda c: _edit(c, _without_blocks, again=True), "has no checksums for all of"),
    "a renamed folder": (lambda c: _edit(c, lambda b: b.update(step=7), again=True), "it holds step 7"),
    "a newer format": (lambda c: _edit(c, lambda b: b.update(version=99), again=True), "version 99"),
    "a manifest that lacks something": (lambda c: _edit(c, lambda b: b.pop("tensors"), again=True), "is incomplete"),
    "another manifest": (lambda c: (c / "manifest.json").write_text("[]"), "not Phalanx's"),
}


@pytest.mark.quick
@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_checkpoint_is_skipped_for_the_one_before(
    checkpoints: Path, damage: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    harm, sentence = DAMAGE[damage]
    monkeypatch.chdir(checkpoints)
    harm(checkpoints / "step-00000002")
    path, skipped = reader.newest_valid(checkpoints)
    assert path == checkpoints / "step-00000001"
    assert len(skipped) == 1 and skipped[0][0] == 2 and sentence in skipped[0][1]
    assert not (checkpoints / "harmed").exists()


def test_a_manifest_with_a_hole_is_broken(checkpoints: Path) -> None:
    _edit(checkpoints / "step-00000002", lambda b: b["tensors"]["weight"]["ranges"].pop(), again=True)
    with pytest.raises(BrokenCheckpoint, match="incomplete"):
        manifest.read(checkpoints / "step-00000002")


def test_what_a_kill_left_behind_goes_with_the_next_save(checkpoints: Path, pool: Pool) -> None:
    (checkpoints / ".saving-00000003-0123abcd/shards").mkdir(parents=True)
    assert directory.steps(checkpoints) == [1, 2]
    pool.run(1, write, checkpoints, 3)
    assert sorted(p.name for p in checkpoints.iterdir()) == ["step-00000001", "step-00000002", "step-00000003"]
    assert retention.prune(checkpoints, Retention(keep=1)) == [] and directory.steps(checkpoints) == [3]


@pytest.mark.parametrize("world", [1, 2, 3, 7, 64])
def test_the_cut_covers_everything_once_in_few_ranges(world: int) -> None:
    sizes = [(1000, 4), (1, 8), (0, 4), (777, 2), (3, 1), (5000, 8)]
    covered: list[list[Range]] = [[] for _ in sizes]
    for rank in range(world):
        for index, part in cut(sizes, rank, world):
            covered[index].append(part)
    assert all(gaps(ranges, count) is None for ranges, (count, _) in zip(covered, sizes, strict=True))
    assert sum(map(len, covered)) <= len(sizes) + world


def test_every_rank_writes_only_its_own(pool: Pool) -> None:
    entries = [full_entry("a", "model", torch.zeros(10)), Entry("b", "model", torch.zeros(3), (6,), 3, replicated=False)]
    mine = own_ranges(entries, rank=1, world=2)
    assert [(e.name, r) for e, r in mine] == [("a", Range(5, 10)), ("b", Range(3, 6))]


def test_floats_round_trip_and_so_do_those_json_has_no_word_for() -> None:
    values = {"a": [0.1, float("inf"), float("-inf")], "b": {"c": 1e-320, "d": None, "e": 3}}
    assert scalars_from_json(json.loads(json.dumps(scalars_to_json(values), allow_nan=False))) == values


def test_checksums_come_in_blocks_that_can_be_checked_apart(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shard_file, "BLOCK_BYTES", 1000)
    content = memoryview(bytes(range(256)) * 20)
    written = shard_file.write(tmp_path / "f", [shard_file.Segment("x", "U8", (5120,), content)])
    assert len(written.blocks) == -(-written.size // 1000) == 6
    assert list(written.blocks) == [shard_file.block_sum(tmp_path / "f", i) for i in range(6)]


@pytest.mark.parametrize(
    ("shape", "offsets"), [([2.0], [0, 8]), ([2], [0, 8.0]), ([2], [0.0, 8]), ([True, 2], [0, 8]), ([-1, -2], [0, 8])], ids=str
)
def test_a_shard_whose_header_has_other_numbers_than_whole_ones_is_refused(
    tmp_path: Path, shape: list[float], offsets: list[float]
) -> None:
    header = json.dumps({"w": {"dtype": "F32", "shape": shape, "data_offsets": offsets}}).encode()
    (tmp_path / "shard").write_bytes(struct.pack("<Q", len(header)) + header + bytes(8))
    with pytest.raises(ValueError, match="its header is broken"):
        ShardReader(tmp_path / "shard")
