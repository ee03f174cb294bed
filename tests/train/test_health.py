"""Plain warnings while training: each is given once, and none where all is well."""

import math

import pytest
import torch
from torch import nn

from phalanx.dist.batchnorm.report import describe_normalisation
from phalanx.dist.step.step_metrics import StepFigures
from phalanx.train.evaluation.network_health import HealthWarnings, ReluWatch, never_predicted
from phalanx.train.tracking.loss_watch import LossWatch


def figures(step: int, loss: float, norm: float | None = None) -> StepFigures:
    return StepFigures(step, {"loss": loss}, 0.1, norm, None, False, ())


def said(losses: list[float], norms: list[float] | None = None) -> list[str]:
    watch = LossWatch()
    given = norms or [None] * len(losses)
    return [s for step, pair in enumerate(zip(losses, given, strict=True), 1) for s in watch.add(figures(step, *pair))]  # type: ignore[arg-type]


def test_a_loss_that_rises_from_the_start_is_named_once() -> None:
    (sentence,) = said([1.0 + 0.02 * step for step in range(100)])
    assert sentence.startswith("the loss rises from the start: 1.19 in the first 20 steps, 1.59 up to step 40. Lower optim.lr")
    assert not said([1.0 / (step + 1) for step in range(100)])
    assert not said([1.0] * 300 + [3.0] * 100)  # later it is something else
    assert not said([math.nan] * 100)


def test_gradients_that_vanish_or_explode_are_named() -> None:
    (vanishing,) = said([1.0] * 30, [1.0] * 20 + [0.0] * 10)
    assert vanishing.startswith("step 21: the gradients vanish (norm 0)")
    (exploding,) = said([1.0] * 30, [1.0] * 25 + [1e3] * 5)
    assert exploding.startswith("step 26: the gradients explode (norm 1e+03, before about 1)")
    assert not said([1.0] * 30, [1.0 + 0.1 * step for step in range(30)])


def test_a_class_that_is_never_predicted_is_named() -> None:
    table = torch.tensor([[5, 0, 0], [2, 0, 0], [0, 0, 0]])
    assert (never_predicted({"confusion": table}, ("a", "b", "c")) or "").startswith(
        "1 of 3 classes are never predicted: b. They may be too rare"
    )
    assert never_predicted({"confusion": torch.eye(3)}, ("a", "b", "c")) is None
    assert never_predicted({"loss": 1.0}, ("a",)) is None


def test_dead_relus_are_named_where_most_channels_are() -> None:
    network = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 8), nn.ReLU())
    watch = ReluWatch()
    with watch.on(network):
        network(torch.randn(64, 4))
    assert watch.warning() is None
    with torch.no_grad():
        network[2].bias.fill_(-100)
    watch = ReluWatch()
    with watch.on(network):
        network(torch.randn(64, 4))
    assert (watch.warning() or "").startswith("dead ReLUs: in 1 of 2 layers more than half")
    assert not network[1]._forward_hooks
    health, sums = HealthWarnings(("a", "b")), {"confusion": torch.tensor([[1, 0], [1, 0]])}
    assert len(list(health.of(sums, watch, late=True))) == 2 and not list(health.of(sums, watch, late=True))
    assert not list(HealthWarnings(("a", "b")).of(sums, ReluWatch(), late=False))


@pytest.mark.parametrize(("samples", "group", "warns"), [(4, 1, True), (4, 2, False), (8, 1, False), (1, 4, True)])
def test_statistics_of_few_samples_are_named(samples: int, group: int, warns: bool) -> None:
    (line,) = describe_normalisation(nn.Sequential(nn.BatchNorm2d(3)), group, samples)
    assert line.endswith("which is noisy below 8") == warns and f"sees {samples * group} samples" in line
