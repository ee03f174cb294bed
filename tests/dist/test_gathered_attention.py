"""What FSDP2 that gathers in half keeps in float32: BatchNorm and its like in one unit, and attention, whose layers are used
by their parent, without a forward of their own."""

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from benchmarks import parity_cases as cases
from benchmarks.support.rank_pool import Pool
from phalanx.configs.schema import RunConfig
from phalanx.dist.comm.process_group import World
from phalanx.dist.engine import Engine
from phalanx.dist.strategies import fsdp
from phalanx.dist.strategies.blocks import blocks
from phalanx.models import registry
from tests.support.running import DIGITS


class _Attentive(nn.Module):
    """`nn.MultiheadAttention` multiplies by its output layer's weight itself."""

    def __init__(self) -> None:
        super().__init__()
        self.patches = nn.Conv2d(2, 16, 4, stride=4)
        self.layer = nn.TransformerEncoderLayer(16, nhead=2, dim_feedforward=8, dropout=0.0, batch_first=True)
        self.head = nn.Linear(16, cases.CLASSES)
        self.block_names = ("layer",)

    def forward(self, image: Tensor) -> Tensor:
        tokens = self.patches(image).flatten(2).transpose(1, 2)  # [B, 4, 16]
        return self.head(self.layer(tokens).mean(1))  # type: ignore[no-any-return]


def stepped(world: World, settings: RunConfig) -> list[tuple[str, Tensor]]:
    def make(named: Mapping[str, nn.Parameter]) -> torch.optim.Optimizer:
        return torch.optim.SGD(named.values(), lr=0.05)

    torch.manual_seed(0)
    engine = Engine(_Attentive(), make, lambda update: 0.05, settings, world)
    share = engine.warm_up_share
    engine.warm_up(cases.losses, [cases.micro_batch(0, v) for v in range(share.first, share.last)])
    batch = [cases.micro_batch(0, v) for v in range(engine.mine.first, engine.mine.last)]
    for part in engine.micro_batches(0, batch, [cases.weights(b) for b in batch]):
        engine.backward(cases.losses(engine.model, part))
    engine.step()
    with engine.evaluation() as model:
        return [(name, tensor.clone()) for name, tensor in model.state_dict().items()]


def test_parameters_that_a_parent_uses_count_as_reached(pool: Pool) -> None:
    expected, *_ = pool.run(1, stepped, cases.config(DIGITS, 4, "dist.precision=bf16"))
    half = cases.config(DIGITS, 4, "dist.precision=bf16", "dist.strategy=fsdp", "dist.gather=half")
    for found in pool.run(2, stepped, half):
        for (name, a), (_, b) in zip(found, expected, strict=True):
            assert float((a - b).abs().max()) <= 3e-2 * float(b.abs().max()), name


def test_small_layers_that_stay_in_float32_are_one_unit() -> None:
    resnet, swin = registry.build("resnet18", num_classes=5), registry.build("swin_t", num_classes=5)
    large, small = fsdp._kept_in_float32(resnet, [resnet.get_submodule(name) for name in blocks(resnet)])
    assert not large and {type(layer) for layer in small} == {nn.BatchNorm2d} and len(small) == 20
    large, small = fsdp._kept_in_float32(swin, [swin.get_submodule(name) for name in blocks(swin)])
    assert {type(layer).__name__ for layer in large} == {"ShiftedWindowAttention"} and len(large) == 12
    assert {type(layer) for layer in small} == {nn.LayerNorm} and len(small) == 29
