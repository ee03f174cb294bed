"""Clipping by value and by unit, penalties, layer-wise decay, gradual unfreezing: against numbers by hand, and across ranks."""

from typing import Any

import pytest
import torch
from torch import nn

from benchmarks import parity_cases as cases
from benchmarks.support.rank_pool import Pool
from phalanx.configs.errors import UserError
from phalanx.configs.load import load
from phalanx.configs.sections.optim import OptimConfig, ScheduleConfig
from phalanx.dist.comm.process_group import World
from phalanx.dist.engine import Engine
from phalanx.models import registry
from phalanx.train.optim import adaptive_clip, layer_decay, optimizers, schedules
from tests.support.running import DIGITS, RESNET18

STEPS = 3


def made(network: nn.Module, **keys: Any) -> torch.optim.Optimizer:
    optim = OptimConfig.model_validate({"name": "sgd", "lr": 0.1, "momentum": 0.0, **keys})
    return optimizers.optimizer_factory(optim, network)(dict(network.named_parameters()))


def test_penalties_are_the_gradients_of_their_sums() -> None:
    torch.manual_seed(0)
    network, other = nn.Linear(4, 3), nn.Linear(4, 3)
    other.load_state_dict(network.state_dict())
    optimizer = made(network, l1=0.01, l2=0.03, no_decay=["bias"])
    x = torch.randn(5, 4)
    network(x).square().sum().backward()
    optimizer.step()
    penalty = 0.01 * other.weight.abs().sum() + 0.03 / 2 * other.weight.square().sum()
    (other(x).square().sum() + penalty).backward()
    torch.optim.SGD(other.parameters(), lr=0.1).step()
    for name, value in other.state_dict().items():
        torch.testing.assert_close(network.state_dict()[name], value)


def test_adaptive_clipping_is_by_the_norm_of_each_unit() -> None:
    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv2d(2, 3, 3), nn.Linear(4, 5))
    optimizer = torch.optim.SGD(network.parameters(), lr=1.0)
    adaptive_clip.add(optimizer, 0.01)
    before = {name: p.detach().clone() for name, p in network.named_parameters()}
    for parameter in network.parameters():
        parameter.grad = torch.randn_like(parameter) * 10
    gradients = {name: p.grad.clone() for name, p in network.named_parameters()}  # type: ignore[union-attr]
    optimizer.step()
    for name, parameter in network.named_parameters():
        units = before[name].reshape(len(before[name]), -1) if before[name].dim() > 1 else before[name].reshape(1, -1)
        rows = gradients[name].reshape(units.shape)
        for unit, row, moved in zip(units, rows, (before[name] - parameter.detach()).reshape(units.shape), strict=True):
            limit = 0.01 * max(unit.norm().item(), 1e-3)
            torch.testing.assert_close(moved, row * min(1.0, limit / row.norm().item()), rtol=1e-4, atol=1e-7)


def test_what_agc_leaves_alone_is_named() -> None:
    network = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 2))
    optimizer = made(network, agc=1e-6, no_agc=["1.*"])
    for parameter in network.parameters():
        parameter.grad = torch.ones_like(parameter)
    before = [p.detach().clone() for p in network.parameters()]
    optimizer.step()
    moved = [(old - new.detach()).abs().max().item() for old, new in zip(before, network.parameters(), strict=True)]
    assert max(moved[:2]) < 1e-5 and moved[2:] == pytest.approx([0.1, 0.1])


@pytest.mark.parametrize(("name", "blocks"), [("vit_b_16", 12), ("swin_t", 12), ("convnext_tiny", 18), ("resnet18", 8)])
def test_rates_fall_from_the_head_to_the_embedding(name: str, blocks: int) -> None:
    with torch.device("meta"):
        network = registry.get(name).build(num_classes=5)
    names = [each for each, _ in network.named_parameters()]
    depths, head = layer_decay.depths(network, names)
    assert head == blocks + 1 and set(depths.values()) == set(range(blocks + 2))
    first, last = names[0], names[-1]
    factors = layer_decay.factors(0.75, network, names)
    assert factors[first] == pytest.approx(0.75 ** (blocks + 1)) and factors[last] == 1.0
    inner = [depths[each] for each in names]
    assert inner == sorted(inner)


def test_of_a_network_for_segmentation_only_the_backbone_decays() -> None:
    with torch.device("meta"):
        network = registry.get("deeplabv3plus").build(num_classes=5, backbone="resnet18")
    factors = layer_decay.factors(0.5, network, [name for name, _ in network.named_parameters()])
    assert all(value == 1.0 for name, value in factors.items() if not name.startswith("backbone"))
    assert factors["backbone.conv1.weight"] == 0.5**9


def test_parameters_are_unfrozen_at_their_epoch() -> None:
    network = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3))
    optim = OptimConfig.model_validate({"name": "adamw", "lr": 0.1, "weight_decay": 0.1, "unfreeze": {"0.*": 1.5}})
    optimizer = optimizers.optimizer_factory(optim, network)(dict(network.named_parameters()))
    at = schedules.rates(optim, ScheduleConfig(name="constant"), 10, 2.0)  # two steps an epoch
    moved = []
    for step in range(5):
        before = [p.detach().clone() for p in network.parameters()]
        network(torch.randn(4, 3)).square().sum().backward()
        at(step).set(optimizer.param_groups)
        optimizer.step()
        moved.append([not torch.equal(old, new) for old, new in zip(before, network.parameters(), strict=True)])
    assert moved == [[False, False, True, True]] * 3 + [[True] * 4] * 2


WAYS = [
    ["train.clip_value=0.01"],
    ["optim.l1=0.01", "optim.l2=0.02"],
    ["optim.agc=0.01"],
    ["optim.unfreeze={0.*: 0.3}"],
]


def trained(world: World, strategy: str, reduce: str, own: list[str]) -> dict[str, torch.Tensor]:
    double = "fp32" if strategy.startswith("zero") else "fp64"
    settings = cases.config(RESNET18, 4, f"dist.strategy={strategy}", f"dist.reduce={reduce}", f"dist.precision={double}", *own)
    settings = settings.model_copy(update={"optim": settings.optim.model_copy(update={"name": "sgd", "momentum": 0.9})})
    network = cases.build("cnn")
    optimizers.check_strategy(settings)
    engine = Engine(
        network,
        optimizers.optimizer_factory(settings.optim, network),
        schedules.rates(settings.optim, settings.schedule, 20, 4.0),
        settings,
        world,
    )
    share = engine.warm_up_share
    engine.warm_up(cases.losses, [cases.micro_batch(0, v) for v in range(share.first, share.last)])
    for step in range(STEPS):
        batch = [cases.micro_batch(step, v) for v in range(engine.mine.first, engine.mine.last)]
        for part in engine.micro_batches(step, batch, [cases.weights(b) for b in batch]):
            engine.backward(cases.losses(engine.model, part))
        engine.step()
    engine.settle()
    with engine.evaluation() as model:
        return {name: value.detach().clone() for name, value in model.state_dict().items()}


@pytest.mark.parametrize("own", WAYS, ids=lambda own: own[0].partition("=")[0])
def test_they_are_the_same_under_every_strategy_and_with_exact_sums_to_the_last_bit(pool: Pool, own: list[str]) -> None:
    (single,), (plain,) = (pool.run(1, trained, "single", "exact", keys) for keys in (own, []))
    assert not all(torch.equal(single[name], plain[name]) for name in single)
    for strategy in ("ddp", "fsdp", "zero1", "zero3"):
        if "agc" in own[0] and "zero" in strategy:
            with pytest.raises(AssertionError, match=r"UserError: optim.agc=0.01: dist.strategy=zero"):
                pool.run(2, trained, strategy, "fast", own)
            continue
        rough = 2e-4 if "zero" in strategy else 1e-10
        for found in pool.run(2, trained, strategy, "fast", own):
            for name, value in single.items():
                assert abs(found[name] - value).max() <= rough * max(1.0, abs(value).max().item()), (strategy, name)
    for ranks in (2, 3):
        for found in pool.run(ranks, trained, "ddp", "exact", own):
            assert all(torch.equal(found[name], value) for name, value in single.items())


@pytest.mark.parametrize(
    ("overrides", "sentence"),
    [
        (
            ["train.clip_norm=1", "train.clip_value=1"],
            "train.clip_norm and train.clip_value are ways to clip gradients. Keep one.",
        ),
        (["train.clip_value=0"], "train.clip_value"),
        (["optim.name=rprop", "optim.weight_decay=0", "optim.unfreeze={a.*: 1}"], "optim.unfreeze sets a learning rate of 0"),
        (["optim.lr_scaling=linear"], "optim.lr_scaling and optim.base_batch go together"),
        (["optim.name=lbfgs"], "it evaluates the loss several times in a step"),
        (["schedule.name=plateau"], "schedule.name=plateau watches a metric"),
    ],
)
def test_bad_input_is_one_sentence(overrides: list[str], sentence: str) -> None:
    with pytest.raises(UserError, match=sentence):
        load([DIGITS], overrides)
