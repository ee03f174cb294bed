"""What the engine sees in the first forward, and what it says of it."""

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torchvision.ops import FrozenBatchNorm2d

from phalanx.dist.batchnorm.report import describe_normalisation
from phalanx.dist.batchnorm.sync_batchnorm import SyncBatchNorm, convert
from phalanx.dist.microbatches.forward_passes import ForwardPass
from phalanx.dist.step.first_forward import changed_buffers, watching
from tests.support.running import FEW_EVALUATED, RESNET18, ranks


def test_the_table_names_what_is_converted_merged_frozen_left_and_in_no_need() -> None:
    def model() -> nn.Module:
        return nn.Sequential(nn.BatchNorm2d(3), nn.BatchNorm2d(3), FrozenBatchNorm2d(3), nn.LayerNorm(3), nn.GroupNorm(1, 3))

    left = describe_normalisation(model(), group_size=1, micro_batch=8)
    assert [line.split()[:3] for line in left] == [
        ["BatchNorm,", "frozen", "1"],
        ["BatchNorm,", "left", "as"],
        ["LayerNorm,", "GroupNorm", "and"],
    ]
    assert "2 layers   each statistic sees 8 samples, 1 micro-batch" in left[1] and "its statistics are constants" in left[0]
    assert "2 layers   need nothing" in left[2]
    assert "BatchNorm, merged" in describe_normalisation(model(), group_size=2, micro_batch=8)[1]
    converted = describe_normalisation(convert(model(), SyncBatchNorm)[0], group_size=2, micro_batch=8)
    assert converted[0].startswith("BatchNorm, converted") and "16 samples, 2 micro-batches" in converted[0]


def test_parameters_are_found_by_the_graph_of_the_loss() -> None:
    model = nn.ModuleDict({"used": nn.Linear(2, 2), "forgotten": nn.Linear(2, 2), "blocked": nn.Linear(2, 2)})

    class Whole(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.parts = model

        def forward(self, x: Tensor) -> Tensor:
            return self.parts["used"](x) + self.parts["blocked"](x).detach()

    whole = Whole()
    with watching(whole, ForwardPass(0, 1, (0,)), group_size=1) as seen:
        loss = whole(torch.ones(1, 2)).sum()
    assert seen.reached(loss) == {"parts.used.weight", "parts.used.bias"}


def test_a_buffer_that_changes_and_is_no_statistic_is_named() -> None:
    class Counting(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.norm = nn.BatchNorm1d(2)
            self.register_buffer("seen", torch.zeros(()))

        def forward(self, x: Tensor) -> Tensor:
            self.seen += 1
            return self.norm(x)

    model = Counting()
    before = {n: b.clone() for n, b in model.named_buffers()}
    model(torch.randn(4, 2))
    (sentence,) = changed_buffers(before, model, {"norm": model.norm})
    assert sentence.startswith("the buffer seen changes during training")


@pytest.mark.slow
def test_one_value_per_channel_is_refused_with_the_layer_s_name_and_synchronized_statistics_help(tmp_path: Path) -> None:
    """At 32 pixels the last stage of a ResNet is one pixel: with one sample a micro-batch there is one value."""
    recipe = [RESNET18, FEW_EVALUATED, "train.global_batch=2", "train.micro_batch=1", "train.steps=1", "data.workers=0"]
    refused = ranks(2, *recipe, "name=one", cwd=tmp_path, expect=2)
    assert "the BatchNorm layer layer4.0.bn1 sees one value per channel ([1, 512, 1, 1])" in refused.errors
    assert "dist.sync_bn=all" in refused.errors and "Traceback" not in refused.errors
    joint = ranks(2, *recipe, "name=two", "dist.sync_bn=all", cwd=tmp_path)
    assert "BatchNorm, converted" in joint.output and "2 samples, 2 micro-batches" in joint.output


@pytest.mark.slow
def test_freezing_takes_patterns_and_refuses_those_that_name_nothing(tmp_path: Path) -> None:
    recipe = [RESNET18, FEW_EVALUATED, "train.global_batch=4", "train.micro_batch=4", "train.steps=1", "data.workers=0"]
    refused = ranks(1, *recipe, "model.freeze=[layer9.*]", cwd=tmp_path, expect=2)
    assert "model.freeze=layer9.*: no parameter has such a name. There is, for example, layer" in refused.errors
    ranks(1, *recipe, "model.freeze=[conv1.weight, 'layer*']", "dist.strategy=fsdp", cwd=tmp_path)
