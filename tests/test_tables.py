"""What recipes may name is in a table, and what the table names is there. docs/extending.md begins with these tests."""

import importlib
import typing

import torch

from phalanx.configs.optimizer_table import OPTIMIZERS
from phalanx.configs.own_code import load_ours
from phalanx.configs.sections.optim import OptimConfig
from phalanx.configs.strategies import STRATEGIES, StrategyName
from phalanx.configs.tasks import TASKS
from phalanx.data.open import DATASETS
from phalanx.models.registry import MODELS


def test_every_optimizer_can_be_made() -> None:
    assert all(issubclass(load_ours(spec.place), torch.optim.Optimizer) for spec in OPTIMIZERS.values())
    kinds = [
        each for each in vars(torch.optim).values() if isinstance(each, type) and each.__module__ != "torch.optim.optimizer"
    ]
    assert {kind.__name__.lower() for kind in kinds} <= set(OPTIMIZERS), "torch has others"
    assert {key for spec in OPTIMIZERS.values() for key in spec.keys} <= set(OptimConfig.model_fields)


def test_every_dataset_can_be_opened() -> None:
    assert all(callable(load_ours(known.opener)) for known in DATASETS.values())


def test_every_network_can_be_built() -> None:
    for spec in MODELS.values():
        module = importlib.import_module(spec.module)
        assert callable(module.build) and (spec.kind != "backbone" or callable(module.pyramid)), spec.name


def test_every_task_has_its_class() -> None:
    assert all(isinstance(load_ours(place), type) for spec in TASKS.values() for place in spec.classes.values())


def test_every_strategy_has_its_module() -> None:
    assert set(typing.get_args(StrategyName)) == set(STRATEGIES)
    for spec in STRATEGIES.values():
        for name in {spec.module, spec.exact_module} - {None}:
            assert callable(importlib.import_module(f"phalanx.dist.strategies.{name}").wrap)
