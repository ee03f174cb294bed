"""A user's own optimizer, schedule, loss and augmentation: what they are given, and what is refused."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torchmetrics.classification import MulticlassF1Score

from benchmarks.support.rank_pool import Pool
from phalanx.configs.errors import UserError
from phalanx.configs.load import load
from phalanx.configs.sections.optim import OptimConfig, ScheduleConfig
from phalanx.data.open import open_split
from phalanx.data.transforms.pipeline import pipeline
from phalanx.dist.comm.process_group import World
from phalanx.models.losses import CrossEntropy
from phalanx.slurm.code_files import own_files
from phalanx.train.optim import optimizers, schedules
from phalanx.train.setup.checks import check_recipe
from phalanx.train.tasks import DataInfo
from phalanx.train.tasks.criterion import criterion
from phalanx.train.tasks.own_metrics import OwnMetrics
from tests.support.running import DIGITS, FEW_EVALUATED, lines, phalanx
from tests.train.test_optimizers import trained

PARTS = """
import torch


class Own(torch.optim.Optimizer):
    element_wise = True

    def __init__(self, params, lr, beta=0.9):
        super().__init__(params, {"lr": lr, "beta": beta, "weight_decay": 0.0})

    @torch.no_grad()
    def step(self, closure=None):
        for group in self.param_groups:
            for p in group["params"]:
                if p.grad is not None:
                    average = self.state[p].setdefault("average", torch.zeros_like(p))
                    average.lerp_(p.grad, 1 - group["beta"])
                    p.mul_(1 - group["lr"] * group["weight_decay"]).sub_(average, alpha=group["lr"])


class OfNorms(Own):
    element_wise = False


class Odd(torch.optim.SGD):
    def step(self, closure=None):
        super().step()
        for group in self.param_groups:
            for p in group["params"]:
                self.state[p]["odd"] = torch.zeros(3)


def plain(params, lr):
    return params


def half(step, steps, power=1.0):
    return (1 - step / steps) ** power


def entropy(logits, target, factor=1.0):
    return factor * torch.nn.functional.cross_entropy(logits, target.clamp(min=0), reduction="none")


def mean(logits, target):
    return torch.nn.functional.cross_entropy(logits, target)


class Both:
    def __init__(self, factor):
        self.factor = factor

    def total(self, logits, target):
        return self.factor * logits.sum()

    def weight(self, target):
        return torch.tensor(2.0)


class NoLoss:
    pass


def darker():
    return lambda sample: sample | {"image": sample["image"] * 0.5}
"""


@pytest.fixture
def file(tmp_path: Path) -> str:
    path = tmp_path / "parts.py"
    path.write_text(PARTS)
    return str(path)


# -- optimizers


def test_an_optimizer_trains_alike_under_every_strategy(pool: Pool, file: str) -> None:
    (single,) = pool.run(1, trained, "single", f"{file}:Own")
    for strategy in ("ddp", "fsdp", "zero1", "zero3"):
        for found in pool.run(2, trained, strategy, f"{file}:Own"):
            for key, value in single.items():
                torch.testing.assert_close(found[key], value, rtol=2e-5, atol=2e-6)


def test_pieces_of_parameters_are_for_optimizers_that_say_so(file: str) -> None:
    for how in (["dist.strategy=zero2"], ["dist.strategy=fsdp", "dist.reduce=exact"]):
        optimizers.check_strategy(load([DIGITS], [f"optim.name={file}:Own", *how]))
        with pytest.raises(UserError, match=r"element_wise = True; else set dist\.strategy=ddp"):
            optimizers.check_strategy(load([DIGITS], [f"optim.name={file}:OfNorms", *how]))
    optimizers.check_strategy(load([DIGITS], [f"optim.name={file}:OfNorms", "dist.strategy=fsdp"]))


@pytest.mark.parametrize(
    ("name", "options", "said"),
    [
        ("Own", {"gamma": 1}, "it does not take (params, lr, gamma)"),
        ("plain", {}, "this is not a torch.optim.Optimizer"),
        ("own", {}, "has no own. Did you mean Own?"),
    ],
)
def test_what_is_wrong_with_an_optimizer_is_said(file: str, name: str, options: dict[str, Any], said: str) -> None:
    config = OptimConfig.model_validate({"name": f"{file}:{name}", "lr": 0.1, "options": options})
    network = nn.Linear(2, 2)
    with pytest.raises(UserError) as refused:
        optimizers.optimizer_factory(config, network)(dict(network.named_parameters()))
    assert said in str(refused.value) and str(refused.value).startswith("optim.name=")


def odd(world: World, file: str) -> str:
    with pytest.raises(UserError) as refused:
        trained(world, "fsdp", f"{file}:Odd")
    return str(refused.value)


def test_state_that_no_checkpoint_could_shard_is_refused_at_the_first_step(pool: Pool, file: str) -> None:
    said = pool.run(2, odd, file)[0]
    assert "state 'odd' of" in said and "has the shape [3]" in said


# -- schedules


def test_a_schedule_is_called_with_the_steps_after_the_warm_up(file: str) -> None:
    optim = OptimConfig(lr=0.5)
    schedule = ScheduleConfig.model_validate({"name": f"{file}:half", "warmup_steps": 2, "options": {"power": 2.0}})
    rate = schedules.learning_rate(optim, schedule, 6, 1.0)
    assert [rate(step) for step in range(6)] == pytest.approx([0.25, 0.5, 0.5, 0.28125, 0.125, 0.03125])


# -- losses


def loss_of(file: str, name: str, *options: str) -> Any:
    config = load([DIGITS], [f"loss.name={file}:{name}", *options])
    return criterion(config.loss, DataInfo(("a", "b", "c"), 1), 3)


def test_a_function_gives_the_loss_of_each_sample(file: str) -> None:
    logits, target = torch.randn(4, 3), torch.tensor([0, 2, -1, 1])
    loss = loss_of(file, "entropy", "loss.options.factor=2.0")
    assert loss.weight(target) == 3
    torch.testing.assert_close(loss.total(logits, target), 2 * CrossEntropy().total(logits, target))
    pixels, masks = torch.randn(2, 3, 4, 4), torch.randint(-1, 3, (2, 4, 4))
    assert loss.weight(masks) == (masks >= 0).sum()
    torch.testing.assert_close(loss.total(pixels, masks), 2 * CrossEntropy().total(pixels, masks))


def test_a_class_gives_sums_and_weights(file: str) -> None:
    loss = loss_of(file, "Both", "loss.options.factor=3.0")
    assert loss.total(torch.ones(2, 3), torch.zeros(2)) == 18 and loss.weight(torch.zeros(2)) == 2


def test_what_is_wrong_with_a_loss_is_said(file: str) -> None:
    with pytest.raises(UserError, match=r"needs the methods total\(logits, target\)"):
        loss_of(file, "NoLoss")
    with pytest.raises(UserError, match="missing a required argument: 'factor'"):
        loss_of(file, "Both")
    with pytest.raises(UserError, match=r"it returned \[\] for targets \[4\]. Return the loss of each, \[4\]"):
        loss_of(file, "mean").total(torch.randn(4, 3), torch.zeros(4, dtype=torch.int64))


# -- metrics


METRICS = """
import torch


class Odd:
    def sums(self, output, target):
        odd = target % 2 == 1
        return {"odd": odd.sum(), "right": ((output.argmax(1) == target) & odd).sum()}

    def value(self, sums):
        return sums["right"] / sums["odd"]


def f1():
    from torchmetrics.classification import MulticlassF1Score

    return MulticlassF1Score(num_classes=3, average="macro")


def lists():
    from torchmetrics.classification import MulticlassAUROC

    return MulticlassAUROC(num_classes=3)


def nothing():
    return 3


def needs(number):
    return Odd()
"""


@pytest.fixture
def metrics(tmp_path: Path) -> str:
    (tmp_path / "metrics.py").write_text(METRICS)
    return f"{tmp_path}/metrics.py"


def test_metrics_are_those_of_the_whole_split(metrics: str) -> None:
    output, target = torch.randn(30, 3), torch.randint(0, 3, (30,))
    own = OwnMetrics([f"{metrics}:Odd", f"{metrics}:f1"])
    parts = [own.sums(output[start : start + 8], target[start : start + 8]) for start in range(0, 30, 8)]
    sums = {name: sum(part[name] for part in parts) for name in parts[0]}  # type: ignore[misc]
    found = own.values(sums)
    odd = target == 1
    assert found["Odd"] == pytest.approx(float((output[odd].argmax(1) == 1).float().mean()))
    assert found["f1"] == pytest.approx(float(MulticlassF1Score(num_classes=3, average="macro")(output, target)))


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("lists", "the states of MulticlassAUROC do not add up over batches"),
        ("nothing", r"a metric has the methods sums\(output, target\) and value\(sums\)"),
        ("needs", "it is called without arguments: missing a required argument: 'number'"),
    ],
)
def test_what_is_wrong_with_a_metric_is_said(metrics: str, name: str, said: str) -> None:
    with pytest.raises(UserError, match=said):
        OwnMetrics([f"{metrics}:{name}"])
    with pytest.raises(UserError, match=r"evaluate\.metrics is for task\.name=classification or regression"):
        load([DIGITS], ["task.name=segmentation", f"evaluate.metrics=[{metrics}:Odd]"])


# -- trackers


TRACKER = """
import csv


class Table:
    def __init__(self, run_directory, recipe, step):
        self.file = open(run_directory / "table.csv", "a", newline="")
        self.writer = csv.writer(self.file)
        self.writer.writerow(["from", step, recipe["optim.lr"]])

    def log(self, step, values):
        self.writer.writerow([step, *sorted(values)])

    def close(self, exit_code):
        self.writer.writerow(["end", exit_code])
        self.file.close()
"""


def test_a_tracker_gets_each_step_once(tmp_path: Path) -> None:
    (tmp_path / "table.py").write_text(TRACKER)
    (tmp_path / "metrics.py").write_text(METRICS)
    recipe = [DIGITS, "train.global_batch=8", "train.micro_batch=4", "train.log_every=1", "data.workers=0", "name=own"]
    recipe += ["track.own=[./table.py:Table]", "evaluate.metrics=[./metrics.py:Odd]", FEW_EVALUATED, "data.image_size=8"]
    phalanx("train", *recipe, "train.steps=4", "--stop-at", "2", cwd=tmp_path, expect=75)
    phalanx("train", *recipe, "train.steps=4", cwd=tmp_path)
    rows = [line.split(",") for line in (tmp_path / "runs/own/table.csv").read_text().splitlines()]
    assert [row[0] for row in rows] == ["from", "1", "2", "end", "from", "3", "4", "end"]
    assert rows[0][1:] == ["0", "0.03"] and rows[4][1] == "2" and [row[1] for row in (rows[3], rows[7])] == ["75", "0"]
    assert "val/Odd" in rows[6] and 0 <= lines(tmp_path / "runs/own/metrics.jsonl")[-1]["val/Odd"] <= 1


# -- augmentations, and all of them


def test_an_augmentation_is_for_training_alone(file: str) -> None:
    config = load([DIGITS], [f"data.augment.own=[{file}:darker]", "data.augment.shift=0", "data.image_size=8"])
    plain = load([DIGITS], ["data.augment.shift=0", "data.image_size=8"])
    training = open_split(config.data, "train", 0)
    mean, std = training.mean[0], training.std[0]
    for split, darker in (("train", True), ("val", False)):
        one, other = (pipeline(c.data, training, split)(training[0])["image"] for c in (config, plain))  # type: ignore[arg-type]
        pixels = [each * std + mean for each in (one, other)]
        torch.testing.assert_close(pixels[0], pixels[1] * (0.5 if darker else 1.0))


def test_a_job_is_given_every_file_and_a_wrong_name_is_refused_before(file: str) -> None:
    named = [f"optim.name={file}:Own", f"schedule.name={file}:half", f"loss.name={file}:entropy"]
    config = load([DIGITS], [*named, f"data.augment.own=[{file}:darker]"])
    check_recipe(config)
    assert [str(source) for source in own_files(config).values()].count(file) == 1
    for key in ("optim.name", "schedule.name", "loss.name"):
        with pytest.raises(UserError, match=f"{key}=./nowhere.py:X: there is no file"):
            check_recipe(load([DIGITS], [f"{key}=./nowhere.py:X"]))
    for key in ("schedule.options", "loss.options"):
        with pytest.raises(UserError, match=f"{key} are for"):
            load([DIGITS], [f"{key}={{a: 1}}"])
    with pytest.raises(UserError, match=r"optim\.options\.a: sgd has no such argument\. It takes dampening, maximize\."):
        check_recipe(load([DIGITS], ["optim.options={a: 1}"]))
