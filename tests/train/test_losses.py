"""Losses are torch's own, whole or in parts, with weights of classes, labels that are not known, and mixtures."""

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
import torchvision
from torch import Tensor, nn

from benchmarks.support.rank_pool import Pool
from phalanx.configs.errors import UserError
from phalanx.configs.load import load
from phalanx.dist.comm.process_group import World
from phalanx.dist.engine import Engine
from phalanx.models.losses import BinaryCrossEntropy, CrossEntropy, Distance, Focal, Loss
from phalanx.train import tasks
from phalanx.train.tasks import DataInfo
from phalanx.train.tasks.classification import Classification
from phalanx.train.tasks.criterion import criterion
from tests.support.running import DIGITS

CLASSES = 5
WEIGHTS = torch.tensor([0.5, 1.0, 3.0, 0.1, 2.0], dtype=torch.float64)


def drawn(seed: int = 0, samples: int = 12) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Logits, a class, probabilities and several labels a sample, in float64."""
    g = torch.Generator().manual_seed(seed)
    logits = 3 * torch.randn(samples, CLASSES, generator=g, dtype=torch.float64)
    mixture = torch.rand(samples, CLASSES, generator=g, dtype=torch.float64)
    several = (torch.rand(samples, CLASSES, generator=g) < 0.4).double()
    return logits, torch.randint(CLASSES, (samples,), generator=g), mixture / mixture.sum(1, keepdim=True), several


def mean(loss: Loss, logits: Tensor, target: Tensor) -> float:
    return float(loss.total(logits, target) / loss.weight(target))


def one_hot(target: Tensor) -> Tensor:
    return F.one_hot(target, CLASSES).double()


Case = tuple[Loss, Callable[[Tensor, Tensor, Tensor, Tensor], Any], int]
CASES: dict[str, Case] = {
    "cross_entropy": (CrossEntropy(), lambda x, c, m, s: F.cross_entropy(x, c), 1),
    "bce, threshold": (
        BinaryCrossEntropy(CLASSES, target_threshold=0.2),
        lambda x, c, m, s: F.binary_cross_entropy_with_logits(x, (m > 0.2).to(x.dtype)),
        2,
    ),
    "cross_entropy, weights": (CrossEntropy(WEIGHTS), lambda x, c, m, s: F.cross_entropy(x, c, WEIGHTS), 1),
    "cross_entropy, smooth weights": (
        CrossEntropy(WEIGHTS, 0.1),
        lambda x, c, m, s: F.cross_entropy(x, c, WEIGHTS, label_smoothing=0.1),
        1,
    ),
    "cross_entropy, mixtures": (
        CrossEntropy(None, 0.1),
        lambda x, c, m, s: F.cross_entropy(x, m, label_smoothing=0.1),
        2,
    ),
    "bce": (
        BinaryCrossEntropy(CLASSES, WEIGHTS, WEIGHTS + 1),
        lambda x, c, m, s: F.binary_cross_entropy_with_logits(x, s, WEIGHTS, pos_weight=WEIGHTS + 1),
        3,
    ),
    "bce of one label": (
        BinaryCrossEntropy(CLASSES),
        lambda x, c, m, s: F.binary_cross_entropy_with_logits(x, one_hot(c)),
        1,
    ),
    "focal": (
        Focal(CLASSES, 2.0, 0.25),
        lambda x, c, m, s: torchvision.ops.sigmoid_focal_loss(x, s, 0.25, 2.0, "mean") * CLASSES,
        3,
    ),
    "focal without alpha": (
        Focal(CLASSES, 1.5),
        lambda x, c, m, s: torchvision.ops.sigmoid_focal_loss(x, one_hot(c), -1, 1.5, "sum") / len(c),
        1,
    ),
    "mse": (Distance(CLASSES, 2), lambda x, c, m, s: F.mse_loss(x.softmax(1), one_hot(c)), 1),
    "l1": (Distance(CLASSES, 1), lambda x, c, m, s: F.l1_loss(x.softmax(1), m), 2),
    "mse of several": (Distance(CLASSES, 2, "sigmoid"), lambda x, c, m, s: F.mse_loss(x.sigmoid(), s), 3),
}


@pytest.mark.parametrize("case", CASES.values(), ids=list(CASES))
def test_a_loss_divided_by_its_weight_is_torch_s_mean(case: Case) -> None:
    loss, torch_s, which = case
    values = drawn()
    assert mean(loss, values[0], values[which]) == pytest.approx(float(torch_s(*values)), rel=1e-12)


@pytest.mark.parametrize("case", CASES.values(), ids=list(CASES))
def test_sums_and_weights_of_parts_add_up_to_those_of_the_whole(case: Case) -> None:
    loss, _, which = case
    values = drawn()
    logits, target = values[0], values[which]
    parts = [slice(0, 5), slice(5, 6), slice(6, 12)]
    total = sum(float(loss.total(logits[part], target[part])) for part in parts)
    weight = sum(float(loss.weight(target[part])) for part in parts)
    assert total / weight == pytest.approx(mean(loss, logits, target), rel=1e-12)


# The class of a mixture is always known.
@pytest.mark.parametrize("name", [name for name, (_, _, which) in CASES.items() if which != 2])
def test_a_sample_without_a_label_is_as_if_it_were_not_there(name: str) -> None:
    loss, _, which = CASES[name]
    values = drawn()
    logits, target = values[0], values[which].clone()
    target[3:7] = -1
    kept = [0, 1, 2, *range(7, 12)]
    assert mean(loss, logits, target) == pytest.approx(mean(loss, logits[kept], target[kept]), rel=1e-12)
    logits.requires_grad_()
    loss.total(logits, target).backward()
    assert logits.grad is not None and not logits.grad[3:7].any() and logits.grad[kept].any(dim=1).all()


def test_ignored_pixels_count_in_the_mean_where_that_is_asked_for() -> None:
    """As in mmsegmentation: the mean of the losses of all pixels, of which ignored ones are 0."""
    logits = torch.randn(2, CLASSES, 4, 6, dtype=torch.float64)
    target = torch.randint(-1, CLASSES, (2, 4, 6))
    every = F.cross_entropy(logits, target, ignore_index=-1, reduction="none")
    assert (target < 0).any()
    assert mean(CrossEntropy(count_ignored=True), logits, target) == pytest.approx(float(every.mean()), rel=1e-12)


def test_a_mixture_of_one_class_weighs_as_that_class() -> None:
    logits, target, _, _ = drawn()
    assert mean(CrossEntropy(WEIGHTS), logits, one_hot(target)) == pytest.approx(mean(CrossEntropy(WEIGHTS), logits, target))


def test_focal_with_gamma_0_is_binary_cross_entropy() -> None:
    logits, _, _, several = drawn()
    plain = mean(BinaryCrossEntropy(CLASSES), logits, several) * CLASSES
    assert mean(Focal(CLASSES, 0.0), logits, several) == pytest.approx(plain, rel=1e-12)


# -- from a recipe


def facts(*counts: int, kind: str = "classification", samples: int = 100) -> DataInfo:
    return DataInfo(("a", "b", "c"), 1, kind, samples, counts or None)


def configured(data: DataInfo, *settings: str) -> Any:
    return criterion(load([DIGITS], list(settings)).loss, data, 3)


def test_balanced_weights_make_every_class_count_alike() -> None:
    loss = configured(facts(60, 30, 10), "loss.class_weights=balanced")
    weights = loss.class_weights
    assert [float(w) * n for w, n in zip(weights, (60, 30, 10), strict=True)] == pytest.approx([100 / 3] * 3)
    assert configured(facts(60, 0, 40), "loss.class_weights=balanced").class_weights.tolist() == pytest.approx([5 / 6, 0, 1.25])
    several = configured(facts(60, 30, 10, kind="multilabel"), "loss.name=bce", "loss.pos_weight=balanced")
    assert several.pos_weight.tolist() == pytest.approx([40 / 60, 70 / 30, 90 / 10])


@pytest.mark.parametrize(
    ("data", "settings", "said"),
    [
        (facts(), ["loss.class_weights=[1,2]"], "loss.class_weights has 2 numbers, but there are 3 classes"),
        (facts(), ["loss.class_weights=balanced"], "does not report the samples per class"),
        (facts(kind="multilabel"), [], "loss.name=cross_entropy: the images of this data have several labels"),
    ],
)
def test_a_loss_that_does_not_fit_the_data_is_refused(data: DataInfo, settings: list[str], said: str) -> None:
    with pytest.raises(UserError, match="^" + said.replace("[", r"\[") if said.startswith("loss") else said):
        configured(data, *settings)


def test_a_task_refuses_data_of_a_kind_that_it_cannot_learn() -> None:
    config = load([DIGITS], [])
    with pytest.raises(UserError, match="classification learns one class per image or several labels per image, but"):
        tasks.build(config, facts(kind="segmentation"))
    with pytest.raises(UserError, match=r"model\.num_classes=2, but the data has 3 classes"):
        tasks.build(load([DIGITS], ["model.num_classes=2"]), facts())
    with pytest.raises(UserError, match=r"model\.num_classes=2, but the data has 3 classes"):
        tasks.build(load([DIGITS], ["model.num_classes=2", "loss.name=bce"]), facts(kind="multilabel"))


# -- over ranks


class TwoHeads(nn.Module):
    """Logits, and those of an auxiliary head on the first layer."""

    auxiliary_weight = 0.3

    def __init__(self) -> None:
        super().__init__()
        self.first, self.out, self.aux = nn.Linear(6, 7), nn.Linear(7, CLASSES), nn.Linear(7, CLASSES)

    def forward(self, images: Tensor) -> Any:
        hidden = self.first(images.flatten(1)).tanh()
        if not self.training:
            return self.out(hidden)
        return {"out": self.out(hidden), "aux1": self.aux(hidden)}


def gradients(world: World, settings: list[str]) -> tuple[dict[str, float], list[Tensor]]:
    """Losses and weights after a step over micro-batches whose classes, and so whose weights, are uneven."""
    given = ["dist.precision=fp64", "train.global_batch=12", "train.micro_batch=3", "train.steps=1", "optim.lr=0.1"]
    config = load([DIGITS], [*given, "optim.weight_decay=0", *settings])
    torch.manual_seed(0)
    engine = Engine(TwoHeads(), lambda p: torch.optim.SGD(p.values(), lr=0.1), lambda step: 0.1, config, world)
    several = config.loss.name == "bce"
    task: Classification = tasks.build(config, DataInfo(tuple("abcde"), 1, "multilabel" if several else "classification"))  # type: ignore[assignment]
    g = torch.Generator().manual_seed(1)
    images = torch.randn(12, 1, 2, 3, generator=g, dtype=torch.float64)
    _, classes, _, labels = drawn(2)
    classes[:3] = 3  # the first micro-batch has only the lightest class
    classes[4], labels[5, 2] = -1, -1
    batch = [{"image": images[i : i + 3], "target": (labels if several else classes)[i : i + 3]} for i in range(0, 12, 3)]
    own = batch[engine.mine.first : engine.mine.last]
    engine.warm_up(task.losses, own)
    for micro_batch in engine.micro_batches(0, own, [task.weights(one) for one in own]):
        engine.backward(task.losses(engine.model, micro_batch))
    engine.step()
    return engine.settle()[0].losses, [p.detach().clone() for p in engine.unwrapped.parameters()]


@pytest.mark.parametrize(
    "settings",
    [
        ["loss.class_weights=[0.5,1,3,0.1,2]", "loss.label_smoothing=0.1"],
        ["loss.name=bce", "loss.pos_weight=[1,2,3,4,5]"],
        ["loss.name=focal", "loss.focal_alpha=0.25", "loss.auxiliary=0.5"],
    ],
    ids=["cross_entropy", "bce", "focal"],
)
def test_two_ranks_take_the_step_of_one_with_uneven_weights_and_an_auxiliary_head(pool: Pool, settings: list[str]) -> None:
    ((losses, alone),) = pool.run(1, gradients, settings)
    name = settings[0].removeprefix("loss.name=") if "name" in settings[0] else "cross_entropy"
    assert list(losses) == [name, f"{name}_aux1"] and all(math.isfinite(v) and v > 0 for v in losses.values())
    for others, parameters in pool.run(2, gradients, settings):
        assert others == pytest.approx(losses, rel=1e-12)
        for one, other in zip(alone, parameters, strict=True):
            assert float((one - other).abs().max() / one.abs().max()) < 1e-10
