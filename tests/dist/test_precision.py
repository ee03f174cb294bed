"""Number formats: what is refused, what stays float32, and fp16's loss scale through overflow and resume."""

from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor, nn

from benchmarks import parity_cases as cases
from benchmarks.support.rank_pool import Pool
from benchmarks.support.resuming import resume
from phalanx.configs.errors import TrainingFailed, UserError
from phalanx.configs.schema import RunConfig
from phalanx.dist import precision
from phalanx.dist.checkpoint.save import CheckpointInfo, save
from phalanx.dist.comm.process_group import World
from phalanx.dist.engine import Engine
from phalanx.dist.step.loss_scale import LossScale
from phalanx.dist.step.step_metrics import StepFigures
from tests.support.running import DIGITS

CPU = torch.device("cpu")


def test_what_the_hardware_lacks_is_refused_with_what_it_has() -> None:
    with pytest.raises(UserError, match=r"dist\.precision=tf32: the CPU has fp32, bf16, fp16, fp64\. Set one of them"):
        precision.check("tf32", CPU)
    for name in ("fp32", "bf16", "fp16", "fp64"):
        precision.check(name, CPU)


class _Pair(NamedTuple):
    logits: Tensor
    names: list[str]


@dataclass
class _Output:
    logits: Tensor
    size: int


def test_what_a_forward_returns_becomes_float32_in_any_nesting() -> None:
    half, whole = torch.ones(2, dtype=torch.bfloat16), torch.ones(2, dtype=torch.int64)
    given = OrderedDict(out=half, more=[half, (whole, _Pair(half, ["a"]))], record=_Output(half, 3))
    found = precision.to_float32(given)
    assert type(found) is OrderedDict and found["out"].dtype == torch.float32
    assert found["more"][0].dtype == torch.float32 and found["more"][1][0] is whole
    assert found["more"][1][1].logits.dtype == torch.float32 and found["more"][1][1].names == ["a"]
    assert found["record"].logits.dtype == torch.float32 and found["record"].size == 3


def test_half_precision_multiplies_in_half_and_keeps_weights_and_statistics_in_float32() -> None:
    for name, dtype in precision.HALF.items():
        model = cases.build("cnn")
        precision.apply(model, name, CPU)
        seen: list[torch.dtype] = []
        model[0][0].register_forward_hook(lambda m, i, output, seen=seen: seen.append(output.dtype))
        assert model(torch.randn(4, 2, 8, 8)).dtype == torch.float32 and seen == [dtype]
        assert {t.dtype for t in model.state_dict().values()} == {torch.float32, torch.int64}


def test_a_scale_halves_on_overflow_doubles_after_its_window_and_gives_up_at_one() -> None:
    scale = LossScale(4.0, window=2)
    for overflowed, value in (
        (False, 4),
        (False, 8),
        (False, 8),
        (True, 4),
        (False, 4),
        (False, 8),
        (True, 4),
        (True, 2),
        (True, 1),
    ):
        scale.adjust(overflowed)
        assert scale.value == value
    with pytest.raises(TrainingFailed, match="overflow fp16 even with a loss scale of 1"):
        scale.adjust(True)


def test_gradients_are_unscaled_in_place_and_infinities_found() -> None:
    scale = LossScale(8.0, window=2)
    gradients = [torch.tensor([8.0, 16.0]), torch.zeros(0), torch.tensor([4.0])]
    assert not scale.unscale(gradients, lambda value: value)
    assert gradients[0].tolist() == [1.0, 2.0] and gradients[2].tolist() == [0.5]
    for bad in (float("inf"), float("nan")):
        assert scale.unscale([torch.tensor([1.0, bad])], lambda value: value)
    assert scale.unscale([torch.ones(1)], lambda value: value + 1)  # on another rank


# -- on ranks

OVERFLOWS = 3  # the step in which micro-batch 5 does
FP16 = ["dist.precision=fp16", "dist.loss_scale=1024", "dist.loss_scale_window=3", "train.clip_norm=1.0"]


def losses(model: nn.Module, batch: Mapping[str, Any]) -> dict[str, tuple[Tensor, float]]:
    """The loss of a batch that says so is too large for fp16 in its backward."""
    found = cases.losses(model, batch)
    return {name: (total * 1e30 if batch["overflows"] else total, weight) for name, (total, weight) in found.items()}


def batch_of(step: int, number: int) -> dict[str, Any]:
    return cases.micro_batch(step, number) | {"overflows": step == OVERFLOWS and number == 5}


def engine_on(world: World, settings: RunConfig) -> Engine:
    def make(named: Mapping[str, nn.Parameter]) -> torch.optim.Optimizer:
        return cases.OPTIMIZERS["adamw"](named.values())

    return Engine(cases.build("cnn+dropout"), make, lambda update: 0.01 / (update + 1), settings, world)


def run_steps(engine: Engine, first: int, last: int) -> list[StepFigures]:
    share = engine.warm_up_share
    engine.warm_up(losses, [batch_of(0, v) for v in range(share.first, share.last)])
    for step in range(first, last):
        batch = [batch_of(step, v) for v in range(engine.mine.first, engine.mine.last)]
        for part in engine.micro_batches(step, batch, [cases.weights(b) for b in batch]):
            engine.backward(losses(engine.model, part))
        engine.step()
    return engine.settle()


def held(engine: Engine) -> list[tuple[str, bytes]]:
    return [(e.name, e.tensor.detach().numpy().tobytes()) for e in engine.entries()]


def through_an_overflow(world: World, settings: RunConfig, folder: Path) -> tuple[Any, ...]:
    """Six steps; a checkpoint after the skipped one. Weights before and after the overflow, the rates, and what is left."""
    engine = engine_on(world, settings)
    run_steps(engine, 0, OVERFLOWS)
    before = held(engine)[: len(list(engine.unwrapped.parameters()))]
    (skipped,) = run_steps(engine, OVERFLOWS, OVERFLOWS + 1)[-1:]
    after = held(engine)[: len(before)]
    step = OVERFLOWS + 1
    save(world, folder, engine.entries(), CheckpointInfo(step, step, settings.dist.strategy, "digest", engine.scalars()))
    later = run_steps(engine, step, step + 2)
    return before == after, skipped, later[-1], held(engine), engine.scalars()


def resumed(world: World, settings: RunConfig, folder: Path) -> tuple[Any, ...]:
    engine = engine_on(world, settings)
    stored = resume(world, engine, folder)
    run_steps(engine, stored.step, stored.step + 2)
    return held(engine), engine.scalars()


@pytest.mark.parametrize("strategy", ["ddp", "exact", "fsdp", "zero1", "zero2", "zero3"])
def test_an_overflow_on_one_rank_skips_the_step_on_all_and_resume_is_bitwise(pool: Pool, strategy: str, tmp_path: Path) -> None:
    how = ["dist.reduce=exact"] if strategy == "exact" else [f"dist.strategy={strategy}"]
    settings = cases.config(DIGITS, 8, *how, *FP16)
    unbroken = pool.run(3, through_an_overflow, settings, tmp_path)
    for unchanged, skipped, last, _, scalars in unbroken:
        assert unchanged and skipped.skipped and not skipped.broken
        # The scale had doubled after three good steps; the overflow halves it, and the two steps after it are too few.
        assert skipped.loss_scale == 2048 and last.loss_scale == 1024 and not last.skipped
        # Data continue, the schedule does not: the sixth step is the fifth update.
        assert scalars["skipped"] == 1 and last.learning_rate == 0.01 / 5 and last.step == 6
    for whole, again in zip(unbroken, pool.run(3, resumed, settings, tmp_path), strict=True):
        assert again[0] == whole[3] and again[1] == whole[4]


def compared(world: World, settings: RunConfig) -> list[tuple[str, Tensor]]:
    engine = engine_on(world, settings)
    run_steps(engine, 0, 3)
    with engine.evaluation() as model:
        return [(n, t.clone()) for n, t in model.state_dict().items()]


@pytest.mark.parametrize("name", ["bf16", "fp16"])
@pytest.mark.parametrize("strategy", ["fsdp", "zero2", "half"])
def test_half_precision_is_the_same_under_every_strategy(pool: Pool, name: str, strategy: str) -> None:
    """Weights are float32 everywhere, so that strategies differ as in float32; gathered in half they round more."""
    how = ["dist.strategy=fsdp", "dist.gather=half"] if strategy == "half" else [f"dist.strategy={strategy}"]
    (expected, *_), (found, *_) = (
        pool.run(2, compared, cases.config(DIGITS, 4, f"dist.precision={name}", *each)) for each in ([], how)
    )
    for (key, a), (_, b) in zip(found, expected, strict=True):
        assert float((a - b).abs().max()) <= (3e-2 if strategy == "half" else 2e-3) * float(b.abs().max()), key
