"""How checkpoints come about: in the background, in files of a reasonable size, as many as are to be kept, or not at all."""

import subprocess
import time
from contextlib import closing
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest
import torch

from benchmarks.support.rank_pool import Pool
from phalanx.dist.checkpoint import directory, manifest, plan, shard_file
from phalanx.dist.checkpoint.entries import Entry, full_entry
from phalanx.dist.checkpoint.restore import newest_valid_on_all, restore
from phalanx.dist.checkpoint.retention import Retention, is_better, superseded
from phalanx.dist.checkpoint.save import CheckpointInfo, save
from phalanx.dist.checkpoint.saver import Saver
from phalanx.dist.comm.process_group import World, patient_control
from tests.support.running import disk_in_memory

MEGABYTE = 1 << 18  # float32 elements


def state_of(world: World, step: int) -> list[Entry]:
    """A replicated tensor, one in memory of another order, and a row a rank: all tell the step."""
    shared = torch.arange(3 * MEGABYTE, dtype=torch.float32) + step
    nhwc = (
        (torch.arange(4 * 3 * 25, dtype=torch.float64) + step).reshape(4, 3, 5, 5).contiguous(memory_format=torch.channels_last)
    )
    rank, ranks = world.ranks.rank, world.ranks.world
    row = Entry(
        "row", "statistics", torch.full((5,), step + rank / 10), (ranks, 5), 5 * rank, replicated=False, changes_in_forward=True
    )
    return [full_entry("shared", "model", shared), full_entry("nhwc", "model", nhwc), row]


def progress(step: int, **metrics: float) -> CheckpointInfo:
    return CheckpointInfo(step, step, "ddp", "digest", {}, metrics)


def assert_holds(world: World, folder: Path, step: int) -> None:
    """The newest checkpoint is of this step, and holds what `state_of` gave then."""
    path, skipped = newest_valid_on_all(world, folder)
    assert path is not None and not skipped and path == directory.step_directory(folder, step)
    entries = [Entry(e.name, e.kind, torch.zeros_like(e.tensor), e.shape, e.start, e.replicated) for e in state_of(world, 0)]
    restore(path, manifest.read(path), entries, workers=2)
    for found, expected in zip(entries, state_of(world, step), strict=True):
        assert torch.equal(found.tensor, expected.tensor), found.name


# -- files


def sharing(world: World, folder: Path, smallest_file: int) -> list[str]:
    path = save(world, folder, state_of(world, 7), progress(7), smallest_file)
    assert_holds(world, folder, 7)
    return sorted(manifest.read(path).files)


@pytest.mark.parametrize(("smallest", "writers"), [(0, [0, 1, 2]), (3 << 19, [0, 2]), (1 << 30, [0])])
def test_ranks_with_little_share_files(pool: Pool, tmp_path: Path, smallest: int, writers: list[int]) -> None:
    """Three megabytes: a megabyte a rank. Two share where a file should hold more than that."""
    for files in pool.run(3, sharing, tmp_path, smallest):
        assert files == [plan.file_name(rank, 0) for rank in writers]


def test_a_thousand_ranks_of_a_small_model_write_few_files() -> None:
    tensors = [plan.TensorInfo("weight", "model", "F32", (11_000_000,))]
    assert plan.ranks_per_file(tensors, world=4) == 1
    together = plan.ranks_per_file(tensors, world=1024)
    assert 1024 // together < 50 and plan.total_bytes(tensors) / (1024 // together) > 1e6


def test_what_is_too_large_for_a_file_is_cut(tmp_path: Path) -> None:
    entries = [full_entry(str(size), "model", torch.arange(size, dtype=torch.float32)) for size in (10, 3000, 1, 250, 700)]
    groups = list(plan.files(plan.parts([(e, e.held) for e in entries]), largest=1003))
    assert len(groups) > 10 and all(sum(part.size for part in group) <= 1003 for group in groups)
    for number, group in enumerate(groups):
        shard_file.write(tmp_path / str(number), [part.segment() for part in group])
    for entry in entries:
        found, place = torch.zeros_like(entry.tensor), 0
        for number, group in enumerate(groups):
            for part in (p for p in group if p.name == entry.name):
                assert part.range.start == place
                content = bytearray(part.size)
                with closing(shard_file.ShardReader(tmp_path / str(number))) as file:
                    file.read_into(part.segment().name, 0, memoryview(content))
                found[part.range.start : part.range.stop] = torch.frombuffer(content, dtype=torch.float32)
                place = part.range.stop
        assert place == entry.tensor.numel() and torch.equal(found, entry.tensor)


# -- in the background


def in_background(world: World, folder: Path) -> None:
    saves = Saver(world, folder, Retention(keep=2), asynchronous=True)
    ended, entries = [], state_of(world, 0)
    for step in (1, 2, 3):
        for entry, now in zip(entries, state_of(world, step), strict=True):
            entry.tensor.copy_(now.tensor)
        ended += saves.start(entries, progress(step))
        entries[2].tensor.fill_(-1)  # a forward changes statistics at once
        saves.wait_for_copy()
        for entry in entries:
            entry.tensor.fill_(-1)  # what comes after the step does not reach the checkpoint
    ended += saves.wait()
    assert [save.step for save in ended] == [1, 2, 3] and all(save.path and not save.problem for save in ended)
    assert all(save.waited <= save.seconds for save in ended)
    assert not saves.wait() and not saves.take_ended()
    assert directory.steps(folder) == [2, 3] or not world.ranks.is_main
    assert_holds(world, folder, 3)
    # One that is awaited writes the tensors themselves.
    (save,) = saves.start(state_of(world, 4), progress(4), awaited=True)
    assert not saves.wait() and (directory.steps(folder) == [3, 4] or not world.ranks.is_main)
    assert save.path is not None and save.waited == save.seconds
    assert_holds(world, folder, 4)


@pytest.mark.parametrize("ranks", [1, 3])
def test_a_save_in_the_background_holds_its_step_whatever_comes_after(pool: Pool, tmp_path: Path, ranks: int) -> None:
    pool.run(ranks, in_background, tmp_path)


def with_a_bug(world: World, folder: Path) -> str:
    saves = Saver(world, folder, Retention(keep=2), asynchronous=True)
    entry = full_entry("weight", "model", torch.zeros(3))
    saves._checkpoints = None  # type: ignore[assignment]
    assert not saves.start([entry], progress(1))
    assert saves._thread is not None
    saves._thread.join()
    try:
        saves.take_ended()
    except TypeError as error:
        return str(error)
    return "nothing was said"


def test_what_a_save_in_the_background_should_not_have_met_is_raised_at_the_next_step(pool: Pool, tmp_path: Path) -> None:
    (said,) = pool.run(1, with_a_bug, tmp_path)
    assert "NoneType" in said


# -- what lies among checkpoints


def saves_three(world: World, folder: Path) -> list[str | None]:
    """Steps 11 to 13, of which one is kept; what was said of each."""
    saves = Saver(world, folder, Retention(keep=1), asynchronous=True)
    ended = []
    for step in (11, 12, 13):
        ended += saves.start(state_of(world, step), progress(step))
        saves.wait_for_copy()
        ended += saves.wait()
    assert [save.step for save in ended if save.path] == [11, 12, 13]
    assert_holds(world, folder, 13)
    return [save.problem for save in ended]


STRAYS = (".saving-x", ".pruned-", ".pruned-00000001-mine", ".replaced-x", ".nfs000000000123", "step-00000001x", "notes.txt")


def test_links_and_stray_files_among_checkpoints_neither_end_saving_nor_go_and_are_reported_once(
    pool: Pool, tmp_path: Path
) -> None:
    folder, elsewhere = tmp_path / "checkpoints", tmp_path / "elsewhere"
    (elsewhere / "shards").mkdir(parents=True)
    (elsewhere / "manifest.json").write_text("{}")
    folder.mkdir()
    for name in STRAYS:
        (folder / name).write_text("somebody's")
    (folder / ".saving-folder").mkdir()
    (folder / "step-00000001").symlink_to(elsewhere)  # as people do when a disk is full
    (folder / "step-00000012").symlink_to(tmp_path / "gone")
    (folder / ".pruned-00000002-0123abcd").symlink_to(elsewhere)
    (folder / ".saving-00000003-0123abcd").write_text("a file of our own")
    ((first, *others),) = pool.run(1, saves_three, folder)
    assert first == f"left in place: {folder}/step-00000001: a link, which is not followed" and others == [None, None]
    expected = {*STRAYS, ".saving-folder", "step-00000001", "step-00000013"}
    assert {path.name for path in folder.iterdir()} == expected
    assert sorted(path.name for path in elsewhere.iterdir()) == ["manifest.json", "shards"]


def test_a_folder_that_cannot_be_removed_yet_ends_no_save_and_is_removed_later(pool: Pool, tmp_path: Path) -> None:
    held = tmp_path / ".pruned-00000001-0123abcd"
    (held / "shards").mkdir(parents=True)
    (held / "shards/rank-00000.safetensors").touch()
    with disk_in_memory(held / ".nfs0001", 1):  # as busy as a file that a reader of NFS holds
        ((first, *others),) = pool.run(1, saves_three, tmp_path)
        assert first is not None and first.startswith(f"left in place: {held}: ") and others == [None, None]
        assert not (held / "shards").exists()
    assert directory.clear(tmp_path) == [] and not held.exists()


# -- retention


def test_the_newest_every_nth_and_the_best_are_kept() -> None:
    steps = list(range(10, 110, 10))
    assert superseded(steps, {}, Retention(keep=3)) == steps[:7]
    assert superseded(steps, {}, Retention(keep=1, keep_every=30)) == [10, 20, 40, 50, 70, 80]
    values = {10: 0.2, 20: 0.9, 30: 0.9, 50: float("nan"), 100: 0.1}
    assert superseded(steps, values, Retention(keep=1, best="val/top1")) == [s for s in steps if s not in (20, 100)]
    assert superseded(steps, values, Retention(keep=1, best="val/loss")) == steps[:9]
    assert superseded(steps, {}, Retention(keep=1, best="val/top1")) == steps[:9]


def test_losses_and_errors_are_better_when_smaller_unless_configured_otherwise() -> None:
    assert is_better("val/top1", "auto", 2, 1) and not is_better("val/top1", "auto", 1, 1)
    assert is_better("val/loss", "auto", 1, 2) and is_better("val/top1", "min", 1, 2) and is_better("val/loss", "max", 2, 1)
    assert is_better("val/top1", "auto", 1, float("nan")) and not is_better("val/top1", "auto", float("nan"), 1)


# -- no room


def without_room(world: World, folder: Path, entry_bytes: int) -> str:
    saves = Saver(world, folder, Retention(keep=2), asynchronous=True)
    entry = full_entry("weight", "model", torch.zeros(entry_bytes // 4))
    problems = []
    for step in (1, 2):
        saves.start([entry], progress(step))
        problems += [save.problem or "" for save in saves.wait()]
    assert problems[0] == ""
    assert_only_the_first_is_there(world, folder)
    # Once there is room, the next one is written.
    if world.ranks.is_main:
        (folder / "somebody's").unlink(missing_ok=True)
    torch.distributed.barrier(group=world.control)
    saves.start([entry], progress(3))
    (third,) = saves.wait()
    assert third.path is not None
    return problems[1]


def assert_only_the_first_is_there(world: World, folder: Path) -> None:
    path, skipped = newest_valid_on_all(world, folder)
    assert path == directory.step_directory(folder, 1) and not skipped
    assert {p.name for p in folder.iterdir()} <= {"step-00000001", "somebody's"}


def test_a_disk_without_room_keeps_the_older_checkpoints_and_says_what_is_missing(pool: Pool, small_disk: Path) -> None:
    (small_disk / "somebody's").write_bytes(bytes(3 << 20))
    for said in pool.run(2, without_room, small_disk, 3 << 20):
        assert "3.1 MB are needed, and 2.1 MB are free" in said


def filling_up(world: World, folder: Path) -> str:
    """The disk fills while the save is under way: the check beforehand knows nothing of it."""
    saves = Saver(world, folder, Retention(keep=2), asynchronous=False)
    entry = full_entry("weight", "model", torch.zeros(MEGABYTE // 2))
    assert saves.start([entry], progress(1))[0].path is not None
    from phalanx.dist.checkpoint import save as module

    check = module.refuse_too_little_space
    module.refuse_too_little_space = lambda *_: None
    try:
        (second,) = saves.start([full_entry("weight", "model", torch.zeros(9 * MEGABYTE))], progress(2))
    finally:
        module.refuse_too_little_space = check
    assert_only_the_first_is_there(world, folder)
    return second.problem or ""


def test_a_disk_that_fills_up_under_way_leaves_no_trace_of_the_save(pool: Pool, small_disk: Path) -> None:
    for said in pool.run(2, filling_up, small_disk):
        assert "No space left on device" in said


def test_a_disk_that_cannot_be_written_is_said(pool: Pool, small_disk: Path) -> None:
    subprocess.run(["mount", "-o", "remount,ro", small_disk], check=True)
    for said in pool.run(2, refused, small_disk):
        assert "Read-only file system" in said


def refused(world: World, folder: Path) -> str:
    saves = Saver(world, folder, Retention(keep=2), asynchronous=True)
    saves.start([full_entry("weight", "model", torch.zeros(MEGABYTE))], progress(1))
    (save,) = saves.wait()
    assert save.path is None
    return save.problem or ""


# -- waiting for the other ranks


def waits_for_a_slow_rank_but_not_for_a_dead_one(world: World) -> None:
    hurried = replace(world, timeout=timedelta(seconds=2))
    group = patient_control(hurried, timedelta(seconds=60))
    if world.ranks.rank == 1:
        time.sleep(3)
    torch.distributed.barrier(group=group)
    if world.ranks.rank == 0:
        begun = time.monotonic()
        with pytest.raises(torch.distributed.DistStoreError, match="timeout"):
            patient_control(hurried, timedelta(seconds=60))  # rank 1 never comes
        assert time.monotonic() - begun < 20


def test_ranks_that_save_wait_for_a_slow_disk_but_not_for_a_rank_that_died_before(pool: Pool) -> None:
    pool.run(2, waits_for_a_slow_rank_but_not_for_a_dead_one)
