"""ZeRO by DeepSpeed on real ranks: the training and the checkpoints of one process, in parts."""

import json
import os
from collections.abc import Callable, Iterable, Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed
from torch import Tensor, nn
from torch._C._distributed_c10d import HashStore

from benchmarks.support.rank_pool import Pool
from phalanx.configs.errors import TrainingFailed, UserError
from phalanx.configs.load import load
from phalanx.configs.schema import RunConfig
from phalanx.dist.checkpoint import directory, manifest
from phalanx.dist.checkpoint.restore import restore
from phalanx.dist.checkpoint.save import CheckpointInfo, save
from phalanx.dist.comm.process_group import World
from phalanx.dist.microbatches.randomness import key
from phalanx.dist.microbatches.sampler import share
from phalanx.dist.strategies.deepspeed_config import settings
from phalanx.dist.strategies.rates import Rates
from phalanx.dist.strategies.replicated import Replicated
from phalanx.dist.strategies.strategy import Strategy
from tests.support.running import DIGITS

# Not by importing it: that is for the ranks, once they know their device.
# CI installs it, and must fail without it.
absent = find_spec("deepspeed") is None and not os.environ.get("CI")
pytestmark = pytest.mark.skipif(absent, reason="DeepSpeed is not installed")

MICRO_BATCHES, CLIP = 12, 0.5


class Network(nn.Module):
    """A frozen layer, one that is used twice, a parameter of its own, sizes that no number of ranks divides."""

    def __init__(self) -> None:
        super().__init__()
        self.backbone = nn.Conv2d(2, 3, 3)
        self.conv = nn.Conv2d(3, 5, 3)
        self.twice = nn.Linear(5, 5)
        self.head = nn.Linear(5, 7)
        self.scale = nn.Parameter(torch.tensor([1.5]))
        self.register_buffer("seen", torch.zeros(()))
        self.backbone.requires_grad_(False)

    def forward(self, image: Tensor) -> dict[str, Tensor]:
        found = self.conv(self.backbone(image).relu()).relu().mean((2, 3))  # [B, 5]
        return {"logits": self.head(self.twice(self.twice(found).relu())) * self.scale}


def network() -> nn.Module:
    torch.manual_seed(5)
    return Network()


def _adamw(parameters: Mapping[str, nn.Parameter]) -> torch.optim.Optimizer:
    """Two groups, as recipes make them that spare biases the weight decay."""
    matrices = [p for p in parameters.values() if p.dim() > 1]
    others = [p for p in parameters.values() if p.dim() <= 1]
    groups = [{"params": matrices, "weight_decay": 0.1}, {"params": others, "weight_decay": 0.0}]
    return torch.optim.AdamW(groups, lr=1.0)


def _sgd(parameters: Mapping[str, nn.Parameter]) -> torch.optim.Optimizer:
    return torch.optim.SGD(parameters.values(), lr=1.0, momentum=0.9)


OPTIMIZERS: dict[str, tuple[Callable[[Mapping[str, nn.Parameter]], torch.optim.Optimizer], float]] = {
    "adamw": (_adamw, 0.01),
    "sgd": (_sgd, 0.1),
}


def config(strategy: str, *overrides: str) -> RunConfig:
    return load([DIGITS], [f"dist.strategy={strategy}", "dist.device=cpu", *overrides])


def strategy_on(world: World, strategy: str, optimizer: str, *overrides: str) -> Strategy:
    make_optimizer, _ = OPTIMIZERS[optimizer]
    if strategy == "single":
        return Replicated(network(), make_optimizer)
    from phalanx.dist.strategies.zero import Zero

    if world.ranks.world == 1 and not torch.distributed.is_initialized():
        torch.distributed.init_process_group("gloo", store=HashStore(), rank=0, world_size=1)
    return Zero(network(), make_optimizer, config(strategy, *overrides), world)


def micro_batch(step: int, number: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(key(step, number))
    return torch.randn(2, 2, 8, 8, generator=generator), torch.randint(0, 7, (2,), generator=generator)


def accumulate(world: World, strategy: Strategy, step: int, factor: float = 1.0) -> list[Tensor]:
    """The gradients of a step, their norm cut."""
    mine = share(MICRO_BATCHES, world.ranks.rank, world.ranks.world)
    for number in range(mine.first, mine.last):
        with strategy.forward_backward(range(number, number + 1), last=number == mine.last - 1):
            image, target = micro_batch(step, number)
            loss = nn.functional.cross_entropy(strategy.model(image)["logits"], target, reduction="sum")
            strategy.backward(loss * factor * strategy.grad_divisor / (2 * MICRO_BATCHES))
    gradients = strategy.gradients()
    norm = strategy.norm(gradients)
    torch._foreach_mul_(gradients, torch.clamp(CLIP / (norm + 1e-6), max=1.0))
    return gradients


def train(world: World, strategy: Strategy, optimizer: str, steps: Iterable[int]) -> None:
    for step in steps:
        accumulate(world, strategy, step)
        strategy.update(Rates(OPTIMIZERS[optimizer][1]))


def weights(strategy: Strategy) -> dict[str, Tensor]:
    with strategy.full_params() as model:
        return {name: parameter.detach().clone() for name, parameter in model.named_parameters()}


def by_hand(optimizer: str, steps: int) -> dict[str, Tensor]:
    model = network()
    make_optimizer, rate = OPTIMIZERS[optimizer]
    stepper = make_optimizer({n: p for n, p in model.named_parameters() if p.requires_grad})
    for group in stepper.param_groups:
        group["lr"] = rate
    for step in range(steps):
        batches = [micro_batch(step, number) for number in range(MICRO_BATCHES)]
        image, target = (torch.cat(parts) for parts in zip(*batches, strict=True))
        nn.functional.cross_entropy(model(image)["logits"], target).backward()
        nn.utils.clip_grad_norm_(model.parameters(), CLIP)
        stepper.step()
        stepper.zero_grad()
    return {name: parameter.detach().clone() for name, parameter in model.named_parameters()}


def _close(found: Mapping[str, Tensor], expected: Mapping[str, Tensor], tolerance: float = 1e-5) -> None:
    assert found.keys() == expected.keys()
    for name, tensor in expected.items():
        assert (found[name] - tensor).abs().max() <= tolerance * tensor.abs().max(), name


def _bitwise(found: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> None:
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[name], tensor) for name, tensor in expected.items())


def trained(world: World, strategy: str, optimizer: str, overrides: list[str]) -> dict[str, Tensor]:
    under = strategy_on(world, strategy, optimizer, *overrides)
    train(world, under, optimizer, range(4))
    return weights(under)


@pytest.mark.parametrize("ranks", [1, 2, 3, 4])
@pytest.mark.parametrize("strategy", ["zero1", "zero2", "zero3"])
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_zero_trains_as_plain_torch(pool: Pool, strategy: str, ranks: int, optimizer: str) -> None:
    expected = by_hand(optimizer, 4)
    everyones = pool.run(ranks, trained, strategy, optimizer, [])
    for found in everyones:
        _close(found, expected)
        _bitwise(found, everyones[0])


@pytest.mark.parametrize("strategy", ["zero1", "zero2", "zero3"])
def test_an_optimizer_in_cpu_memory_trains_alike(pool: Pool, strategy: str) -> None:
    for found in pool.run(2, trained, strategy, "adamw", ["dist.offload=true"]):
        _close(found, by_hand("adamw", 4))


FILE = {
    "train_batch_size": "auto",
    "gradient_clipping": 0.001,
    "zero_optimization": {
        "reduce_bucket_size": 50,
        "allgather_bucket_size": 50,
        "stage3_param_persistence_threshold": 0,
        "stage3_prefetch_bucket_size": "auto",
        "overlap_comm": True,
        "round_robin_gradients": True,
    },
}


@pytest.mark.parametrize("strategy", ["zero1", "zero2", "zero3"])
def test_a_deepspeed_file_sets_how_and_not_what(pool: Pool, tmp_path: Path, strategy: str) -> None:
    """Clipping is the engine's; buckets that split the model, another order and overlap change no weight."""
    file = tmp_path / "deepspeed.json"
    file.write_text(json.dumps(FILE))
    for found in pool.run(3, trained, strategy, "adamw", [f"dist.deepspeed={file}"]):
        _close(found, by_hand("adamw", 4))


def test_settings_refuse_what_cannot_be_kept_to(tmp_path: Path) -> None:
    file = tmp_path / "deepspeed.json"
    file.write_text(json.dumps({"zero_optimization": {"zero_quantized_weights": True}}))
    with pytest.raises(UserError, match="zero_quantized_weights"):
        settings(config("zero3", f"dist.deepspeed={file}"))


def skipped(world: World, strategy: str, overrides: list[str]) -> dict[str, Tensor]:
    """A step whose gradients are thrown away, before every other."""
    under = strategy_on(world, strategy, "adamw", *overrides)
    for step in range(4):
        accumulate(world, under, step + 10, factor=1e6)
        under.discard()
        train(world, under, "adamw", [step])
    return weights(under)


@pytest.mark.parametrize("offload", ["false", "true"])
@pytest.mark.parametrize("strategy", ["zero1", "zero2", "zero3"])
def test_discarded_gradients_leave_no_trace(pool: Pool, strategy: str, offload: str) -> None:
    overrides = [f"dist.offload={offload}"]
    for found, expected in zip(
        pool.run(3, skipped, strategy, overrides), pool.run(3, trained, strategy, "adamw", overrides), strict=True
    ):
        _bitwise(found, expected)


def not_finite(world: World, strategy: str) -> str:
    under = strategy_on(world, strategy, "adamw", "dist.offload=true")
    accumulate(world, under, 0)
    accumulate(world, under, 0, factor=float("nan"))
    try:
        under.update(Rates(0.1))
    except TrainingFailed as error:
        return str(error)
    return ""


def test_a_step_that_deepspeed_skips_is_an_error(pool: Pool) -> None:
    assert all("gradient is not finite" in message for message in pool.run(2, not_finite, "zero3"))


class Scalar(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.temperature = nn.Parameter(torch.tensor(1.0))


def refused(world: World, strategy: str) -> str:
    from phalanx.dist.strategies.zero import Zero

    try:
        Zero(Scalar(), _sgd, config(strategy), world)
    except UserError as error:
        return str(error)
    return ""


def test_a_parameter_without_dimensions_is_refused(pool: Pool) -> None:
    assert all("temperature" in message for message in pool.run(2, refused, "zero2"))


def saved(world: World, folder: Path, strategy: str, optimizer: str) -> dict[str, Tensor]:
    """Two steps, then a checkpoint, then two more."""
    under = strategy_on(world, strategy, optimizer)
    train(world, under, optimizer, range(2))
    save(world, folder, under.entries(), CheckpointInfo(2, 48, strategy, "digest", {"optimizer": under.scalars()}))
    train(world, under, optimizer, range(2, 4))
    return weights(under)


def resumed(world: World, folder: Path, strategy: str, optimizer: str) -> dict[str, Tensor]:
    """Restores over weights of NaN, checks that all ranks have what was stored, and continues."""
    under = strategy_on(world, strategy, optimizer)
    with torch.no_grad():
        for entry in under.entries():
            entry.tensor.fill_(float("nan"))
    under.after_load()
    path = directory.step_directory(folder, 2)
    stored = manifest.read(path)
    under.allocate_state(stored)
    restore(path, stored, under.entries())
    under.after_load()
    assert under.scalars() == stored.state["optimizer"]
    train(world, under, optimizer, range(2, 4))
    return weights(under)


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize(
    ("wrote", "wrote_on", "reads", "reads_on"),
    [
        ("zero2", 4, "zero3", 2),
        ("zero3", 3, "zero1", 4),
        ("zero1", 2, "single", 1),
        ("zero3", 4, "single", 1),
        ("single", 1, "zero3", 3),
        ("single", 1, "zero2", 3),
    ],
)
def test_a_checkpoint_is_read_under_any_strategy(
    pool: Pool, tmp_path: Path, wrote: str, wrote_on: int, reads: str, reads_on: int, optimizer: str
) -> None:
    pool.run(wrote_on, saved, tmp_path, wrote, optimizer)
    for found in pool.run(reads_on, resumed, tmp_path, reads, optimizer):
        _close(found, by_hand(optimizer, 4))


@pytest.mark.quick
@pytest.mark.parametrize("ranks", [1, 3])
@pytest.mark.parametrize("strategy", ["zero1", "zero2", "zero3"])
def test_resumed_equals_unbroken_to_the_last_bit(pool: Pool, tmp_path: Path, strategy: str, ranks: int) -> None:
    unbroken = pool.run(ranks, saved, tmp_path, strategy, "adamw")
    for found, expected in zip(pool.run(ranks, resumed, tmp_path, strategy, "adamw"), unbroken, strict=True):
        _bitwise(found, expected)


def evaluated(world: World, strategy: str) -> Tensor:
    """Between two steps, one rank after another, the last more often; with a buffer that was swapped meanwhile."""
    under = strategy_on(world, strategy, "sgd")
    train(world, under, "sgd", range(2))
    under.unwrapped._buffers["seen"] = torch.tensor(4.0)
    results: list[Any] = []
    with under.full_params() as model, torch.inference_mode():
        model.eval()
        for _ in range(1 + world.ranks.rank):
            results.append(model(micro_batch(9, 0)[0])["logits"])
        assert model.get_buffer("seen").item() == 4.0
    under.unwrapped.train()
    train(world, under, "sgd", range(2, 4))
    _close(weights(under), by_hand("sgd", 4))
    return results[-1].clone()


@pytest.mark.parametrize("strategy", ["zero1", "zero2", "zero3"])
def test_the_whole_model_gives_the_same_on_all_ranks(pool: Pool, strategy: str) -> None:
    first, *others = pool.run(3, evaluated, strategy)
    assert all(torch.equal(first, other) for other in others)
