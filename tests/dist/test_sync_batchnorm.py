"""Joint BatchNorm on real ranks: the statistics, gradients and buffers of BatchNorm on the whole batch."""

from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
import torch.distributed
from torch import Tensor, nn

from benchmarks.support.rank_pool import Pool
from phalanx.dist.batchnorm.sync_batchnorm import SyncBatchNorm, convert, stats_group_of
from phalanx.dist.comm.process_group import World
from tests.dist.tracing import collectives


def _cnn() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(3, 6, 3, bias=False),
        nn.BatchNorm2d(6, momentum=0.3),
        nn.ReLU(),
        nn.Conv2d(6, 4, 2, bias=False),
        nn.BatchNorm2d(4),
    )


def _vectors() -> nn.Module:
    return nn.Sequential(
        nn.Linear(5, 6, bias=False), nn.BatchNorm1d(6, affine=False), nn.ReLU(), nn.Linear(6, 4, bias=False), nn.BatchNorm1d(4)
    )


def _averaging() -> nn.Module:
    """Without momentum every batch weighs the same; and one layer without running statistics."""
    return nn.Sequential(
        nn.BatchNorm3d(2, momentum=None),
        nn.ReLU(),
        nn.Conv3d(2, 3, 2, bias=False),
        nn.BatchNorm3d(3, track_running_stats=False),
    )


MODELS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "cnn": (_cnn, (3, 6, 6)),
    "vectors": (_vectors, (5,)),
    "averaging": (_averaging, (2, 3, 3, 3)),
}


def _made(name: str) -> tuple[nn.Module, Tensor, list[Tensor]]:
    """A model, its batch, and weights for a loss that no symmetry cancels."""
    torch.manual_seed(1)
    make, shape = MODELS[name]
    model = make().double()
    batches = torch.randn(3, 12, *shape, dtype=torch.float64) * 3 + 1
    with torch.no_grad():
        weights = [torch.randn_like(make().double()(batch)) for batch in batches]
    return model, batches, weights


def _train(model: nn.Module, batches: Tensor, weights: Sequence[Tensor], rows: slice) -> dict[str, Tensor]:
    """Three batches; gradients of parameters and of the last input, and buffers."""
    for batch, weight in zip(batches, weights, strict=True):
        own = batch[rows].clone().requires_grad_()
        (model(own) * weight[rows]).sum().backward()
    assert own.grad is not None
    found = {n: p.grad for n, p in model.named_parameters() if p.grad is not None}
    return found | dict(model.named_buffers()) | {"input": own.grad}


def on_ranks(world: World, name: str, sizes: Sequence[int], channels_last: bool) -> dict[str, Tensor]:
    """This rank's rows, with its gradients summed over ranks."""
    model, batches, weights = _made(name)
    model, converted = convert(model, SyncBatchNorm)
    assert converted and not any(type(m).__name__.startswith("BatchNorm") for m in model.modules())
    if channels_last:
        model = model.to(memory_format=torch.channels_last)
        batches = torch.stack([b.to(memory_format=torch.channels_last) for b in batches])
    stats_group_of(model).group = torch.distributed.new_group(list(range(world.ranks.world)))
    start = sum(sizes[: world.ranks.rank])
    found = _train(model, batches, weights, slice(start, start + sizes[world.ranks.rank]))
    for parameter_name, _ in model.named_parameters():
        torch.distributed.all_reduce(found[parameter_name])
    return {n: t.clone() for n, t in found.items()}


@pytest.mark.quick
@pytest.mark.parametrize("sizes", [(6, 6), (1, 11), (4, 5, 3), (12, 0), (1, 2, 3, 6)], ids=str)
@pytest.mark.parametrize("name", MODELS)
def test_it_equals_batchnorm_on_the_whole_batch(pool: Pool, name: str, sizes: tuple[int, ...]) -> None:
    model, batches, weights = _made(name)
    expected = _train(model, batches, weights, slice(None))
    results = pool.run(len(sizes), on_ranks, name, sizes, name == "cnn" and len(sizes) == 3)
    start = 0
    for size, found in zip(sizes, results, strict=True):
        assert found.keys() == expected.keys()
        for key, tensor in expected.items():
            wanted = tensor[start : start + size] if key == "input" else tensor
            scale = float(tensor.double().abs().max()) or 1.0
            assert float((found[key] - wanted).abs().max() if size or key != "input" else 0) <= 1e-12 * scale, key
        start += size


def without_communication(world: World) -> tuple[int, int]:
    """In evaluation, and in a turn without partners, nothing is exchanged."""
    model, batches, _ = _made("cnn")
    model, _ = convert(model, SyncBatchNorm)
    group = torch.distributed.new_group(list(range(world.ranks.world)))
    plain = _made("cnn")[0]
    with collectives() as found:
        assert torch.equal(model.train()(batches[0]), plain.train()(batches[0]))
        stats_group_of(model).group = group
        assert torch.equal(model.eval()(batches[0]), plain.eval()(batches[0]))
    with collectives() as together:
        model.train()(batches[0])
    return found.total(), together.total()


def test_evaluation_and_single_passes_exchange_nothing(pool: Pool) -> None:
    for alone, together in pool.run(2, without_communication):
        assert alone == 0 < together


def half(world: World, layout: torch.memory_format) -> list[float]:
    """Under bf16 sums are float32's: output and gradients differ from float32's by the rounding of bf16 alone."""
    _, batches, _weights = _made("cnn")
    layer, _ = convert(nn.BatchNorm2d(3), SyncBatchNorm)
    plain = nn.BatchNorm2d(3)
    stats_group_of(layer).group = torch.distributed.new_group(list(range(world.ranks.world)))
    rows = slice(world.ranks.rank * 6, world.ranks.rank * 6 + 6)
    rounded, along = batches[0].to(torch.bfloat16), batches[1].to(torch.bfloat16)
    own = rounded[rows].contiguous(memory_format=layout).requires_grad_()
    whole = rounded.float().requires_grad_()
    output, expected = layer(own), plain(whole)
    output.backward(along[rows])
    expected.backward(along.float())
    torch.distributed.all_reduce(layer.weight.grad)
    assert own.grad is not None and whole.grad is not None
    assert (output.dtype, own.grad.dtype, layer.weight.grad.dtype) == (torch.bfloat16, torch.bfloat16, torch.float32)
    pairs = [(output, expected[rows]), (own.grad, whole.grad[rows]), (layer.running_var, plain.running_var)]
    pairs.append((layer.weight.grad, plain.weight.grad))
    return [float((found - wanted).abs().max() / wanted.abs().max()) for found, wanted in pairs]


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last], ids=str)
def test_half_precision_inputs_have_float32_sums(pool: Pool, layout: torch.memory_format) -> None:
    for output, gradient, variance, weight in pool.run(2, half, layout):
        assert output < 2**-8 and gradient < 2**-7 and variance < 1e-6 and weight < 1e-5


def test_converted_layers_keep_parameters_names_and_modes() -> None:
    model = _cnn()
    model[1].eval()
    names: dict[str, Any] = dict([*model.named_parameters(), *model.named_buffers()])
    converted, replaced = convert(model, SyncBatchNorm)
    assert replaced == ["1", "4"] and not converted[1].training and converted[4].training
    after = dict([*converted.named_parameters(), *converted.named_buffers()])
    assert after.keys() == names.keys() and all(after[n] is names[n] for n in names)


def test_a_layer_that_is_the_model_itself_is_converted() -> None:
    layer, replaced = convert(nn.BatchNorm2d(3), SyncBatchNorm)
    assert isinstance(layer, SyncBatchNorm) and replaced == [""]
