"""Parts of a network that are frozen in part, and initialisations by name."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from phalanx.configs.errors import UserError
from phalanx.configs.load import load
from phalanx.dist.batchnorm import sync_batchnorm
from phalanx.dist.batchnorm.report import describe_normalisation
from phalanx.models import frozen_statistics, registry, weights
from phalanx.models.initialisation import initialise
from phalanx.train.setup import build
from phalanx.train.tasks import DataInfo
from tests.support.running import DIGITS, RESNET18

DATA = DataInfo(tuple("0123456789"), 1, "classification", 100)


def test_frozen_statistics_stay_and_their_factors_are_trained() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Conv2d(4, 4, 3), nn.BatchNorm2d(4))
    assert frozen_statistics.norms(model) == ["1", "3"]
    frozen_statistics.freeze(model, ["1"])
    model.train()
    assert not model[1].training and model[3].training
    before = [model[place].running_mean.clone() for place in (1, 3)]
    model(torch.randn(2, 3, 8, 8)).square().sum().backward()
    assert torch.equal(model[1].running_mean, before[0]) and not torch.equal(model[3].running_mean, before[1])
    assert model[1].weight.grad is not None and isinstance(model[1], nn.BatchNorm2d)
    model, names = sync_batchnorm.convert(model, sync_batchnorm.SyncBatchNorm)
    assert names == ["3"] and not model.train()[1].training
    table = "\n".join(describe_normalisation(model, 2, 4))
    assert "BatchNorm, frozen statistics       1 layers" in table


def test_a_recipe_freezes_statistics_by_pattern() -> None:
    model = build.network(load([RESNET18], ["model.freeze_statistics=[layer1.*]"]), DATA).train()
    assert not model.layer1[0].bn1.training and model.layer2[0].bn1.training and model.layer1[0].conv1.training
    with pytest.raises(
        UserError, match=r"model.freeze_statistics=layer9.*: no layer has such a name. There is, for example, layer"
    ):
        build.network(load([RESNET18], ["model.freeze_statistics=[layer9.*]"]), DATA)
    assert load([DIGITS], []).model.freeze_statistics == []


@pytest.mark.parametrize(
    "how", ["xavier_uniform", "xavier_normal", "he_uniform", "he_normal", "orthogonal", "truncated_normal"]
)
def test_an_initialisation_has_its_deviation_and_depends_on_the_seed_alone(how: str) -> None:
    fan_in, fan_out = 64 * 9, 128 * 9
    deviation = {
        "xavier": (2 / (fan_in + fan_out)) ** 0.5,
        "he": (2 / fan_in) ** 0.5,
        "orthogonal": (1 / fan_in) ** 0.5,
        "truncated": 0.02,
    }[how.partition("_")[0]]

    def drawn() -> torch.Tensor:
        torch.manual_seed(1)
        layers = nn.Sequential(nn.Conv2d(64, 128, 3), nn.BatchNorm2d(128), nn.Linear(5, 5))
        initialise(layers, how)  # type: ignore[arg-type]
        assert not layers[0].bias.any() and layers[1].weight.eq(1).all() and not layers[2].bias.any()
        return layers[0].weight.detach()

    weight = drawn()
    assert weight.std().item() == pytest.approx(deviation, rel=0.03) and torch.equal(weight, drawn())
    if how == "orthogonal":
        rows = weight.flatten(1)
        torch.testing.assert_close(rows @ rows.T, torch.eye(128), atol=1e-4, rtol=0)


def test_a_recipe_names_the_initialisation() -> None:
    torch.manual_seed(0)
    one, other = (build.network(load([RESNET18], [f"model.init={how}"]), DATA) for how in ("null", "orthogonal"))
    assert not torch.equal(one.conv1.weight, other.conv1.weight)
    with pytest.raises(UserError, match=r"model\.init"):
        load([RESNET18], ["model.init=best"])


@pytest.mark.parametrize(("stem", "theirs"), [("resnet_c", "resnet50c"), ("resnet_d", "resnet50d")])
def test_the_deep_stems_are_those_of_timm(stem: str, theirs: str) -> None:
    timm = pytest.importorskip("timm")
    torch.manual_seed(0)
    own, other = registry.get("resnet50").build(stem=stem), timm.create_model(theirs)
    for module in other.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.running_mean)
    own.load_state_dict(other.state_dict())
    image = torch.randn(1, 3, 65, 97)
    with torch.no_grad():
        assert torch.equal(own.eval()(image), other.eval()(image))
    assert own.input_weight == "conv1.0.weight"


def test_a_deep_stem_goes_with_dilation_and_in_networks_for_segmentation() -> None:
    network = registry.get("pspnet").build(num_classes=3, backbone="resnet18", output_stride=8, stem="resnet_d").train()
    assert network.backbone.conv1[0].out_channels == 32
    assert network(torch.zeros(2, 3, 65, 64))["out"].shape == (2, 3, 65, 64)
    with pytest.raises(registry.BadOption, match=r"model.stem=resnet_c: vgg16 has no such option"):
        registry.get("fcn").build(num_classes=3, backbone="vgg16", stem="resnet_c")


def test_swin_s_relative_biases_are_fitted_to_windows_of_another_size(tmp_path: Path) -> None:
    """Weights of windows of 5 x 5 in a network of 7 x 7: a bias that grows with the offset still does."""
    network = registry.get("swin_t").build(num_classes=3)
    given = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    rows = torch.arange(9.0).view(9, 1).expand(9, 9).reshape(81, 1)
    for name, tensor in list(given.items()):
        if name.endswith("relative_position_bias_table"):
            given[name] = rows.expand(81, tensor.shape[1]).contiguous()
        elif name.endswith("relative_position_index"):
            given[name] = torch.zeros(25 * 25, dtype=tensor.dtype)
    save_file(given, tmp_path / "windows_of_5.safetensors")
    before = network.features[1][0].attn.relative_position_index.clone()
    loaded = weights.load(network, tmp_path / "windows_of_5.safetensors")
    attention = network.features[1][0].attn
    table = attention.relative_position_bias_table.detach().view(13, 13, -1)
    assert torch.equal(attention.relative_position_index, before)
    assert torch.allclose(table[:, 0], table[:, 12], atol=1e-5) and (table[1:, :, 0] > table[:-1, :, 0]).all()
    assert table[6, 6, 0] == pytest.approx(4, abs=1e-5)
    assert "and 11 more: each is interpolated from 9 x 9 to 13 x 13 offsets" in str(loaded)
    assert torch.equal(network.head.weight, given["head.weight"])
