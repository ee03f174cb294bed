"""Parameters in groups of their own weight decay and learning rate, the same under every strategy."""

from typing import Any

import pytest
import torch
from torch import nn

from benchmarks.support.rank_pool import Pool
from phalanx.configs.errors import UserError
from phalanx.configs.optimizer_table import OPTIMIZERS
from phalanx.configs.sections.optim import OptimConfig, ScheduleConfig
from phalanx.dist.comm.process_group import World
from phalanx.train.optim import optimizers, schedules


class Network(nn.Module):
    """Every kind of parameter that the words name: of a convolution, of normalisations, of a linear layer."""

    def __init__(self) -> None:
        super().__init__()
        self.backbone = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.LayerNorm(16))
        self.head = nn.Linear(16, 2)
        self.block_names = ("backbone",)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        scores: torch.Tensor = self.head(self.backbone(image))
        return scores


USABLE = [name for name, spec in OPTIMIZERS.items() if not spec.refused]


@pytest.mark.parametrize("name", USABLE)
@pytest.mark.parametrize("keys", [{}, {"momentum": 0.0}])
def test_an_optimizer_keeps_as_many_tensors_as_its_specification_says(name: str, keys: dict[str, float]) -> None:
    network = Network()
    optim = OptimConfig.model_validate({"name": name, "lr": 0.1, **keys})
    made = optimizers.optimizer_factory(optim, network)(dict(network.named_parameters()))
    network(torch.randn(2, 3, 4, 4)).sum().backward()
    made.step()
    kept = []
    for parameter in network.parameters():
        state = [v for v in made.state[parameter].values() if isinstance(v, torch.Tensor) and v.shape == parameter.shape]
        kept.append(len(state))
        assert kept[-1] <= OPTIMIZERS[name].state_tensors(optim)
    assert max(kept) == OPTIMIZERS[name].state_tensors(optim) or not OPTIMIZERS[name].full_state


def _groups(**keys: Any) -> dict[str, tuple[float, float]]:
    """Weight decay and factor of the learning rate, by parameter."""
    network = Network()
    parameters = dict(network.named_parameters())
    made = optimizers.optimizer_factory(OptimConfig(lr=1.0, weight_decay=0.5, **keys), network)(parameters)
    names = {parameter: name for name, parameter in parameters.items()}
    return {names[p]: (g["weight_decay"], g["lr_factor"]) for g in made.param_groups for p in g["params"]}


def test_all_parameters_are_alike_where_nothing_is_said() -> None:
    assert set(_groups().values()) == {(0.5, 1.0)}


def test_the_words_norm_and_bias_spare_those_parameters_the_decay() -> None:
    norms = {"backbone.1.weight", "backbone.1.bias", "backbone.4.weight", "backbone.4.bias"}
    spared = {name for name, (decay, _) in _groups(no_decay=["norm"]).items() if decay == 0}
    assert spared == norms
    spared = {name for name, (decay, _) in _groups(no_decay=["bias", "head.w*"]).items() if decay == 0}
    assert spared == {"backbone.0.bias", "backbone.1.bias", "backbone.4.bias", "head.bias", "head.weight"}


def test_the_last_pattern_that_fits_sets_the_factor() -> None:
    factors = {name: factor for name, (_, factor) in _groups(lr_factors={"*": 2.0, "backbone.*": 0.1}).items()}
    assert factors["head.weight"] == 2.0 and factors["backbone.0.weight"] == 0.1


@pytest.mark.parametrize("keys", [{"no_decay": ["hed.*"]}, {"lr_factors": {"hed.*": 2.0}}])
def test_a_pattern_that_names_nothing_is_refused_with_the_nearest(keys: dict[str, Any]) -> None:
    with pytest.raises(UserError, match=r"hed\.\*: no parameter has such a name. There is, for example, head\.") as refused:
        _groups(**keys)
    assert str(refused.value).startswith(f"optim.{next(iter(keys))}=")


@pytest.mark.parametrize("name", ["sgd", "adamw"])
def test_biases_begin_fast_and_momentum_low(name: str) -> None:
    """Against numbers by hand: four steps of warm-up from 0.5 to the optimizer's own 0.9, biases from 0.3 to 0.1."""
    network, schedule = Network(), ScheduleConfig(name="constant", warmup_steps=4, warmup_momentum=0.5, warmup_bias_lr=0.3)
    optim = OptimConfig.model_validate({"name": name, "lr": 0.1, "lr_factors": {"head.*": 2.0}})
    made = optimizers.optimizer_factory(optim, network, biases_apart=True)(dict(network.named_parameters()))
    at, names = schedules.rates(optim, schedule, 10, 1.0), {parameter: key for key, parameter in network.named_parameters()}
    expected = [(0.025, 0.3, 0.5), (0.05, 0.25, 0.6), (0.075, 0.2, 0.7), (0.1, 0.15, 0.8), (0.1, 0.1, 0.9), (0.1, 0.1, 0.9)]
    for step, (rate, of_biases, momentum) in enumerate(expected):
        at(step).set(made.param_groups)
        for group in made.param_groups:
            assert group["momentum" if name == "sgd" else "betas"] == pytest.approx(
                momentum if name == "sgd" else (momentum, 0.999)
            )
            for parameter in group["params"]:
                factor = 2.0 if names[parameter].startswith("head") else 1.0
                wanted = of_biases if names[parameter].endswith("bias") else rate
                assert group["lr"] == pytest.approx(wanted * factor)


def test_nothing_is_warmed_up_that_is_not_asked_for() -> None:
    assert schedules.rates(OptimConfig(lr=0.1), ScheduleConfig(warmup_steps=4), 10, 1.0)(0) == (0.025, None, None, 0.0)


def trained(world: World, strategy: str, name: str) -> dict[str, torch.Tensor]:
    """The weights after three steps of the engine."""
    from phalanx.configs.schema import RunConfig
    from phalanx.dist.engine import Engine

    config = RunConfig.model_validate(
        {
            "name": "groups",
            "data": {"name": "digits"},
            "model": {"name": "resnet18"},
            "optim": {
                "name": name,
                "lr": 0.1,
                "weight_decay": 0.0 if name == "rprop" else 0.1,
                "no_decay": ["norm", "bias"],
                "lr_factors": {"head.*": 0.1},
            },
            "schedule": {
                "warmup_steps": 2,
                "warmup_bias_lr": 0.3,
                **({"warmup_momentum": 0.5} if name in ("sgd", "adamw") else {}),
            },
            "train": {"global_batch": 4, "micro_batch": 2, "steps": 3},
            "dist": {"strategy": strategy},
        }
    )
    torch.manual_seed(0)
    network = Network()
    optimizers.check_strategy(config)
    make = optimizers.optimizer_factory(config.optim, network, biases_apart=True)
    engine = Engine(network, make, schedules.rates(config.optim, config.schedule, 3, 1.0), config, world)
    images = torch.randn(2, 2, 3, 4, 4)

    def losses(model: nn.Module, batch: dict[str, torch.Tensor]) -> dict[str, tuple[torch.Tensor, float]]:
        return {"sum": (model(batch["image"]).square().sum(), 2.0)}

    mine = [{"image": images[number]} for number in range(engine.mine.first, engine.mine.last)]
    engine.warm_up(losses, mine[: engine.warm_up_share.size])
    for step in range(3):
        for micro_batch in engine.micro_batches(step, mine, [{"sum": 2.0} for _ in mine]):
            engine.backward(losses(engine.model, micro_batch))
        engine.step()
    engine.settle()
    with engine.evaluation() as model:
        return {name: value.detach().clone() for name, value in model.state_dict().items()}


# How the refusals of a kind of strategies begin.
REFUSED = {("adagrad", "zero"), ("rprop", "fsdp"), ("adafactor", "zero"), ("adafactor", "fsdp"), ("muon", "zero")}


@pytest.mark.parametrize("name", USABLE)
def test_groups_train_alike_under_every_strategy(pool: Pool, name: str) -> None:
    (single,) = pool.run(1, trained, "single", name)
    close = {"rtol": 2e-2, "atol": 1e-3} if name == "muon" else {"rtol": 2e-5, "atol": 2e-6}  # it computes in bfloat16
    for strategy in ("ddp", "fsdp", "zero1", "zero2", "zero3"):
        if (name, strategy.rstrip("123")) in REFUSED:
            with pytest.raises(AssertionError, match=f"UserError: optim.name={name}: .*dist.strategy={strategy}"):
                pool.run(2, trained, strategy, name)
            continue
        for found in pool.run(2, trained, strategy, name):
            for key, value in single.items():
                if name == "muon" and key in ("backbone.0.bias", "backbone.1.running_mean"):
                    continue  # before BatchNorm a bias has no gradient but rounding, which AdamW makes a step of
                torch.testing.assert_close(found[key], value, **close, msg=lambda m, k=key, s=strategy: f"{s} {k}: {m}")
