"""Losses of pixels: by definition, pixel by pixel, whole or in parts; and the same step on two ranks as on one."""

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
import torchvision
from torch import Tensor

from benchmarks.support.rank_pool import Pool
from phalanx.configs.errors import UserError
from phalanx.dist.comm.process_group import World
from phalanx.dist.engine import Engine
from phalanx.models.losses import BinaryCrossEntropy, CrossEntropy, Focal
from phalanx.models.pixel_losses import Dice, hard_pixels
from tests.train.segmenting import CLASSES, TwoHeads, configured, drawn, task_of

WEIGHTS = torch.tensor([0.5, 1.0, 3.0, 0.1, 2.0], dtype=torch.float64)


def unknown(mask: Tensor) -> Tensor:
    return mask.masked_fill(mask == 255, -1)


def flat(logits: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
    """Known pixels as samples: logits [n, classes] and labels of every class [n, classes]."""
    known = mask != 255
    rows = logits.movedim(1, -1)[known]
    return rows, F.one_hot(mask[known], CLASSES).double()


def dice_by_hand(logits: Tensor, mask: Tensor, kind: str, smooth: float) -> float:
    """One minus the mean over images and their classes of the overlap, one sum after another."""
    losses = []
    for image, own in zip(logits, mask, strict=True):
        given = image.softmax(0) if kind == "softmax" else image.sigmoid()
        scores = []
        for c in own[own != 255].unique().tolist():
            p, g = given[c][own != 255], (own == c)[own != 255].double()
            scores.append((2 * (p * g).sum() + smooth) / (p.square().sum() + g.square().sum() + smooth))
        losses.append(1 - torch.stack(scores).mean())
    return float(torch.stack(losses).mean())


Case = tuple[Any, Callable[[Tensor, Tensor], Any]]
CASES: dict[str, Case] = {
    "cross_entropy": (CrossEntropy(), lambda x, m: F.cross_entropy(x, m, ignore_index=255)),
    "cross_entropy, smooth weights": (
        CrossEntropy(WEIGHTS, 0.1),
        lambda x, m: F.cross_entropy(x, m, WEIGHTS, ignore_index=255, label_smoothing=0.1),
    ),
    "bce": (
        BinaryCrossEntropy(CLASSES, WEIGHTS, WEIGHTS + 1),
        lambda x, m: F.binary_cross_entropy_with_logits(*flat(x, m), WEIGHTS, pos_weight=WEIGHTS + 1),
    ),
    "focal": (
        Focal(CLASSES, 2.0, 0.25),
        lambda x, m: torchvision.ops.sigmoid_focal_loss(*flat(x, m), 0.25, 2.0, "mean") * CLASSES,
    ),
    "dice": (Dice(CLASSES), lambda x, m: dice_by_hand(x, m, "softmax", 1.0)),
    "dice of sigmoids": (Dice(CLASSES, "sigmoid", smooth=0.0), lambda x, m: dice_by_hand(x, m, "sigmoid", 0.0)),
}
each = pytest.mark.parametrize("case", CASES.values(), ids=list(CASES))


@each
def test_a_loss_of_pixels_is_that_of_its_definition(case: Case) -> None:
    loss, wanted = case
    logits, mask = drawn()
    found = loss.total(logits, unknown(mask)) / loss.weight(unknown(mask))
    assert float(found) == pytest.approx(float(wanted(logits, mask)), rel=1e-12)


@each
def test_sums_and_weights_of_images_add_up_to_those_of_the_batch(case: Case) -> None:
    loss, _ = case
    logits, mask = drawn()
    target = unknown(mask)
    target[1] = -1  # an image of which nothing is known
    total, weight = loss.total(logits, target), loss.weight(target)
    parts = [(loss.total(logits[[i]], target[[i]]), loss.weight(target[[i]])) for i in range(3)]
    assert float(total) == pytest.approx(float(sum(part for part, _ in parts)), rel=1e-12)
    assert float(weight) == pytest.approx(float(sum(part for _, part in parts)), rel=1e-12)
    assert float(parts[1][0]) == float(parts[1][1]) == 0


@each
def test_gradients_are_right_and_zero_where_nothing_is_known(case: Case) -> None:
    loss, _ = case
    logits, mask = drawn(samples=2, height=3, width=3)
    target = unknown(mask)
    logits.requires_grad_()
    assert torch.autograd.gradcheck(lambda x: loss.total(x, target), logits)
    loss.total(logits, target).backward()
    assert logits.grad is not None and not logits.grad.movedim(1, -1)[target < 0].any() and logits.grad.any()


def test_binary_dice_is_of_the_second_class_and_bears_an_image_without_it() -> None:
    logits, mask = drawn(samples=2)
    logits, mask = logits[:, :2], mask.clamp(max=1)
    mask[1] = 0
    found = Dice(2, per_class=False).total(logits, mask)
    p = logits.softmax(1)[:, 1]
    there = 1 - (2 * p[0][mask[0] == 1].sum() + 1) / (p[0].square().sum() + (mask[0] == 1).sum() + 1)
    assert float(found) == pytest.approx(float(there + 1 - 1 / (p[1].square().sum() + 1)), rel=1e-12)


def test_dice_of_a_right_mask_is_zero_however_small_the_class() -> None:
    mask = torch.zeros(1, 40, 40, dtype=torch.int64)
    mask[0, 3, 3] = 2
    right = 40 * F.one_hot(mask, CLASSES).movedim(-1, 1).double()
    assert float(Dice(CLASSES).total(right, mask)) == pytest.approx(0, abs=1e-12)
    missed = 40 * F.one_hot(torch.zeros_like(mask), CLASSES).movedim(-1, 1).double()
    assert float(Dice(CLASSES, smooth=0.0).total(missed, mask)) == pytest.approx(0.5, abs=1e-3)


# -- hard examples


def test_hard_pixels_are_below_the_threshold_or_among_the_least_probable_of_their_image() -> None:
    logits, mask = drawn(seed=3)
    target = unknown(mask)
    logits[1] = -50 * F.one_hot(target[1].clamp(min=0), CLASSES).movedim(-1, 0)  # an image that is wholly wrong
    probability = logits.softmax(1).gather(1, target.clamp(min=0).unsqueeze(1)).squeeze(1)
    for threshold, keep in (0.2, 0.0), (0.2, 0.5), (1e-9, 0.3), (1.0, 0.0):
        kept = hard_pixels(logits, target, threshold, keep) >= 0
        for image in range(3):
            known = sorted(probability[image][target[image] >= 0].tolist())
            below = sum(p < threshold for p in known)
            least = math.ceil(keep * len(known))
            ties = sum(p <= known[least - 1] for p in known) if least else 0
            assert int(kept[image].sum()) == max(below, ties)
            assert below == len(known) if image == 1 and threshold > 1e-9 else ties >= least
            if kept[image].any():
                easiest = probability[image][kept[image]].max()
                assert not (probability[image][(target[image] >= 0) & ~kept[image]] < easiest - 1e-12).any()
    assert (hard_pixels(logits, torch.full_like(target, -1), 0.7, 0.5) == -1).all()


def test_hard_examples_of_an_image_depend_on_no_other() -> None:
    logits, mask = drawn(seed=4)
    target = unknown(mask)
    together = hard_pixels(logits, target, 0.3, 0.4)
    for i in range(3):
        assert torch.equal(hard_pixels(logits[[i]], target[[i]], 0.3, 0.4), together[[i]])


def test_a_weight_that_depends_on_predictions_is_left_to_the_engine() -> None:
    task = task_of("loss.ohem_threshold=0.7", "loss.add={dice: 0.5}")
    logits, mask = drawn()
    weights = task.weights({"mask": mask})
    assert not any(name.startswith("cross_entropy") for name in weights) and weights["dice"] == 3
    network = TwoHeads().double()
    losses = task.losses(network, {"image": logits[:, :1], "mask": mask})
    assert list(losses) == ["cross_entropy", "dice", "cross_entropy_aux1", "dice_aux1"]
    assert 0 < float(losses["cross_entropy"][1]) <= int((mask != 255).sum())


# -- over ranks


def step(world: World, settings: list[str], auxiliary: bool) -> tuple[dict[str, float], list[Tensor]]:
    """Losses and weights after a step; most of the pixels are ignored, and those that are not lie in few micro-batches."""
    given = ["dist.precision=fp64", "train.global_batch=8", "train.micro_batch=2", "train.steps=1", "data.image_size=[7,9]"]
    config = configured(*given, *settings)
    torch.manual_seed(0)
    network = TwoHeads() if auxiliary else torch.nn.Sequential(torch.nn.Conv2d(1, CLASSES, 3, padding=1))
    engine = Engine(network, lambda p: torch.optim.SGD(p.values(), lr=0.1), lambda step: 0.1, config, world)
    task = task_of(*settings)
    logits, mask = drawn(seed=5, samples=8)
    mask[:2], mask[6:] = 255, 255
    mask[4, 1:] = 255
    mask[3, :, 2:] = 255
    assert 0.7 < float((mask == 255).float().mean()) < 0.95
    batch = [{"image": logits[i : i + 2, :1], "mask": mask[i : i + 2]} for i in range(0, 8, 2)]
    own = batch[engine.mine.first : engine.mine.last]
    engine.warm_up(task.losses, own)
    for micro_batch in engine.micro_batches(0, own, [task.weights(one) for one in own]):
        engine.backward(task.losses(engine.model, micro_batch))
    engine.step()
    return engine.settle()[0].losses, [p.detach().clone() for p in engine.unwrapped.parameters()]


@pytest.mark.parametrize(
    "settings",
    [
        ["loss.class_weights=[0.5,1,3,0.1,2]", "loss.label_smoothing=0.1", "loss.add={dice: 0.5, focal: 2.0}"],
        ["loss.name=bce", "loss.pos_weight=[1,2,3,4,5]", "loss.add={dice: 1.0}", "loss.auxiliary=0.3"],
        ["loss.ohem_threshold=0.5", "loss.ohem_keep=0.2", "loss.add={dice: 1.0}"],
    ],
    ids=["cross_entropy", "bce", "hard examples"],
)
def test_two_ranks_take_the_step_of_one_with_nine_tenths_of_the_pixels_ignored(pool: Pool, settings: list[str]) -> None:
    ((losses, alone),) = pool.run(1, step, settings, True)
    heads = {name.removesuffix("_aux1") for name in losses}
    assert heads == set(configured(*settings).loss.names) and len(losses) == 2 * len(heads)
    assert all(math.isfinite(value) and value > 0 for value in losses.values())
    for others, parameters in pool.run(2, step, settings, True):
        assert others == pytest.approx(losses, rel=1e-12)
        for one, other in zip(alone, parameters, strict=True):
            assert float((one - other).abs().max() / one.abs().max()) < 1e-10


def test_the_step_of_ranks_is_that_of_the_whole_batch_in_plain_torch(pool: Pool) -> None:
    (_, parameters), _ = pool.run(2, step, ["loss.class_weights=[0.5,1,3,0.1,2]", "loss.add={dice: 0.5}"], False)
    torch.manual_seed(0)
    network = torch.nn.Sequential(torch.nn.Conv2d(1, CLASSES, 3, padding=1)).double()
    logits, mask = drawn(seed=5, samples=8)
    mask[:2], mask[6:] = 255, 255
    mask[4, 1:] = 255
    mask[3, :, 2:] = 255
    found, known = network(logits[:, :1]), [2, 3, 4, 5]
    dice = Dice(CLASSES).total(found, unknown(mask)) / len(known)
    assert float(dice.detach()) == pytest.approx(dice_by_hand(found[known].detach(), mask[known], "softmax", 1.0))
    (F.cross_entropy(found, mask, WEIGHTS, ignore_index=255) + 0.5 * dice).backward()
    for one, other in zip(network.parameters(), parameters, strict=True):
        wanted = one.detach() - 0.1 * one.grad  # type: ignore[operator]
        assert float((wanted - other).abs().max() / wanted.abs().max()) < 1e-10


# -- refused


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        (["loss.add={cross_entropy: 1.0}"], "loss.add has cross_entropy, which is loss.name already"),
        (["loss.add={lovasz: 1.0}"], "lovasz is none of cross_entropy, bce, focal, dice"),
        (["loss.add={dice: 0.0}"], "greater than 0"),
        (["loss.name=l1"], "segmentation takes cross_entropy, bce, focal, dice"),
        (["loss.name=dice", "loss.ohem_threshold=0.7"], "loss.ohem_threshold is for cross_entropy, not dice"),
        (["task.name=classification", "loss.add={dice: 1.0}"], "needs task.name=segmentation"),
        (["task.name=classification", "loss.name=dice"], "loss.name=dice needs"),
        (["loss.name=dice", "loss.dice_per_class=false"], "is for two classes, and there are 5"),
        (["loss.class_weights=[1,2]"], "loss.class_weights has 2 numbers, but there are 5 classes"),
    ],
)
def test_losses_that_do_not_go_together_are_refused_in_a_sentence(settings: list[str], said: str) -> None:
    with pytest.raises(UserError, match=said):
        task_of(*settings)


def test_balanced_weights_of_pixels_come_from_their_numbers() -> None:
    task = task_of("loss.class_weights=balanced", "loss.name=bce", "loss.pos_weight=balanced", counts=(50, 20, 10, 20, 0))
    loss = task._parts[0].loss
    assert isinstance(loss, BinaryCrossEntropy) and loss.class_weights is not None and loss.pos_weight is not None
    assert loss.class_weights.tolist() == pytest.approx([100 / 4 / n for n in (50, 20, 10, 20)] + [0])
    assert loss.pos_weight.tolist() == pytest.approx([1, 4, 9, 4, 1])
