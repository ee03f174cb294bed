"""What recipes may name is in a table, and what the table names is there. docs/extending.md begins with these tests."""

import importlib
import typing

from phalanx.configs.own_code import load_ours
from phalanx.configs.sections.optim import OPTIMIZERS, OptimConfig
from phalanx.configs.strategies import STRATEGIES, StrategyName
from phalanx.configs.tasks import TASKS
from phalanx.data.open import DATASETS
from phalanx.models.registry import MODELS
from phalanx.train.optim.optimizers import CONSTRUCTORS


def test_every_optimizer_can_be_made() -> None:
    assert set(OPTIMIZERS) == set(CONSTRUCTORS)
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
