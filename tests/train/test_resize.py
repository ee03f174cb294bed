"""What is said when a run resumes: before and now, and how much memory it takes, as real ranks hold it."""

from pathlib import Path

import pytest
from torch import nn

from benchmarks.support.rank_pool import Pool
from phalanx.configs.load import load
from phalanx.configs.schema import RunConfig
from phalanx.dist.checkpoint import manifest
from phalanx.dist.checkpoint.manifest import Manifest, StoredTensor
from phalanx.dist.checkpoint.save import CheckpointInfo, save
from phalanx.dist.comm.process_group import World
from phalanx.dist.memory import RankMemory, Sharing, memory_per_rank
from phalanx.train.setup.resume_report import ResumeReport, Setting, as_written
from tests.dist.test_strategies import FrozenBackbone, engine_for, run_steps
from tests.support.running import DIGITS


def config(*overrides: str) -> RunConfig:
    return load([DIGITS], ["train.global_batch=32", "train.micro_batch=4", "train.steps=220", *overrides])


def tensor(kind: str, *shape: int, dtype: str = "F32") -> StoredTensor:
    return StoredTensor(kind, dtype, shape, runs=(), files=())  # wherever it is


# A trained matrix of 1,000,000 numbers, a vector of 5, and a frozen one of 100; a BatchNorm layer of 10 channels.
TENSORS = {
    "weight": tensor("model", 1000, 1000),
    "bias": tensor("model", 5),
    "frozen": tensor("model", 100),
    "counter": tensor("model", dtype="I64"),
    "weight@exp_avg": tensor("optimizer", 1000, 1000),
    "weight@exp_avg_sq": tensor("optimizer", 1000, 1000),
    "bias@exp_avg": tensor("optimizer", 5),
    "bias@exp_avg_sq": tensor("optimizer", 5),
    "weight@ema": tensor("ema", 1000, 1000),
    "running_mean@micro_batches@ema": tensor("ema_buffers", 8, 10),
    "running_mean@micro_batches": tensor("statistics", 8, 10),
}


def stored(world_size: int = 2, strategy: str = "ddp", step: int = 100) -> Manifest:
    return Manifest(step, 32 * step, world_size, strategy, "digest", {}, {}, {}, TENSORS)


def resize(now: RunConfig, ranks: int, before: RunConfig | None = None, logged: int = 0) -> ResumeReport:
    written = as_written(stored(), before or config(), 220, ranks)
    return ResumeReport(stored(), written, Setting(now, ranks, 220, ranks), samples=1437, logged=logged)


def test_where_nothing_changed_one_line_says_where_it_stands() -> None:
    assert resize(config(), 2).lines() == ["resumes at step 100 of 220, on 2 ranks (ddp)"]
    again = resize(config(), 2, logged=104).lines()
    assert again[1:] == ["steps 101 to 104 were logged before and are repeated"]


def test_what_changed_is_a_table_before_and_now() -> None:
    report = resize(config("dist.strategy=fsdp", "dist.exchange=micro_batch", "data.workers=1"), 3)
    assert report.lines() == [
        "resumes at step 100 of 220, on 3 ranks (fsdp)",
        "                          before                 now",
        "  ranks                   2                      3",
        "  strategy                ddp                    fsdp",
        "  data.workers            2                      1",
        "  dist.exchange           step                   micro_batch",
        "  micro-batches per rank  4                      2 to 3",
        "  memory per rank         20.0 MB                6.7 MB",
        "    weights               4.0 MB                 1.3 MB",
        "    gradients             4.0 MB                 1.3 MB",
        "    optimizer state       8.0 MB                 2.7 MB",
        "    averaged weights      4.0 MB                 1.3 MB",
        "  step                    100 of 220             100 of 220",
        "  samples seen            3,200                  3,200",
        "  data position           epoch 2, 326 of 1,437  epoch 2, 326 of 1,437",
    ]
    facts = report.to_json()
    assert facts["now"]["micro_batches"] == (2, 3) and facts["position"] == {"epoch": 2, "place": 326, "samples": 1437}
    assert facts["changed"]["data.workers"] == [2, 1]


def test_the_strategy_before_is_the_one_that_wrote_the_checkpoint() -> None:
    """The configuration may have changed since, in an attempt that saved nothing."""
    report = resize(config("dist.strategy=fsdp"), 2, before=config("dist.strategy=fsdp"))
    assert tuple(report.lines()[3].split()) == ("strategy", "ddp", "fsdp")


@pytest.mark.parametrize(
    ("strategy", "weights", "gradients", "optimizer"),
    [
        ("ddp", 1, 1, 2),
        ("fsdp", 1 / 4, 1 / 4, 2 / 4),
        ("hsdp", 1 / 2, 1 / 2, 2 / 2),
        ("zero1", 1, 1, 3 / 4),  # with the copy that DeepSpeed's optimizer steps
        ("zero2", 1, 1 / 4, 3 / 4),
        ("zero3", 1 / 4, 1 / 4, 2 / 4),
    ],
)
def test_memory_is_whole_or_in_parts_by_strategy(strategy: str, weights: float, gradients: float, optimizer: float) -> None:
    found = memory_per_rank(TENSORS, Sharing(strategy, 4, shard_ranks=2))
    model = 4_000_000
    assert found.weights == pytest.approx(weights * model, rel=1e-3)
    assert found.gradients == pytest.approx(gradients * model, rel=1e-3)
    assert found.optimizer == pytest.approx(optimizer * model, rel=1e-3)


def test_whole_gradients_are_kept_where_fsdp_exchanges_once_a_step() -> None:
    once, each = config("dist.strategy=fsdp"), config("dist.strategy=fsdp", "dist.exchange=micro_batch")
    whole = 4 * 1_000_005
    assert memory_per_rank(TENSORS, Sharing.of(once, 4, 4)).gradients == whole  # two micro-batches a rank
    assert memory_per_rank(TENSORS, Sharing.of(each, 4, 4)).gradients < whole / 3
    assert memory_per_rank(TENSORS, Sharing.of(once, 8, 8)).gradients < whole / 7  # one
    joint = config("dist.strategy=fsdp", "dist.sync_bn=2")
    assert memory_per_rank(TENSORS, Sharing.of(joint, 4, 4)).gradients < whole / 3  # two, merged into one


def test_what_is_offloaded_counts_to_cpu_memory() -> None:
    found = memory_per_rank(TENSORS, Sharing("zero2", 4, offload=True))
    assert found.on_host == ("gradients", "optimizer", "averages") and found.total == found.weights
    assert memory_per_rank(TENSORS, Sharing("fsdp", 4, offload=True)).total == 0


# -- against real ranks


def held(world: World, settings: RunConfig, folder: Path) -> dict[str, int]:
    """Bytes on this rank after two steps; a checkpoint, for its manifest."""
    engine = engine_for(world, settings, FrozenBackbone)
    run_steps(engine, range(2))
    entries = engine.entries()
    save(world, folder, entries, CheckpointInfo(2, 64, settings.dist.strategy, "digest", engine.scalars()))
    kinds = ("model", "optimizer", "statistics", "ema", "ema_buffers")
    sizes = {kind: sum(e.tensor.nbytes for e in entries if e.kind == kind) for kind in kinds}
    parameters = [p for p in engine.unwrapped.parameters() if isinstance(p, nn.Parameter)]
    buffers = sum(b.nbytes for b in engine.unwrapped.buffers())
    return sizes | {"buffers": buffers, "parameters": sum(p.nbytes for p in parameters)}


@pytest.mark.parametrize("strategy", ["ddp", "fsdp", "zero1", "zero2", "zero3"])
def test_memory_is_what_real_ranks_hold(pool: Pool, strategy: str, tmp_path: Path) -> None:
    settings = config(f"dist.strategy={strategy}", "train.ema=0.9", "train.ema_ramp=3")
    first = pool.run(2, held, settings, tmp_path)[0]
    tensors = manifest.read(tmp_path / "step-00000002").tensors
    found: RankMemory = memory_per_rank(tensors, Sharing.of(settings, 2, 2))
    statistics = first["statistics"] + first["buffers"]
    if strategy in ("zero1", "zero2"):
        # The entries of trained parameters are the optimizer's copy; the frozen ones are the model's own.
        frozen = sum(t.elements * 4 for n, t in tensors.items() if n.startswith("backbone") and t.kind == "model")
        assert found.weights == first["parameters"] + statistics
        assert found.optimizer == first["optimizer"] + first["model"] - frozen
    else:
        assert found.averages == first["ema"] + first["ema_buffers"]
        assert found.weights == first["model"] + statistics
        assert found.optimizer == first["optimizer"]
