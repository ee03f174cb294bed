"""Backbones: their published sizes, torchvision's weights and outputs, and the contract of maps of features."""

import functools
import warnings
from typing import Any

import pytest
import torch
import torchvision
from torch import nn

from phalanx.models import registry
from phalanx.models.options import BadOption
from phalanx.models.spec import ModelSpec

BACKBONES = registry.names("backbone")
PUBLISHED = [name for name in BACKBONES if registry.MODELS[name].weights]
# One of each family, the smallest.
FAMILIES = [
    "resnet18",
    "vgg11_bn",
    "googlenet",
    "inception_v3",
    "swin_t",
    "swin_v2_t",
    "convnext_tiny",
    "vit_b_32",
]
ISSUED = {
    "resnet50": 25_557_032,
    "vgg16": 138_357_544,
    "googlenet": 6_624_904,
    "swin_t": 28_288_354,
    "convnext_tiny": 28_589_128,
    "vit_b_16": 86_567_656,
}


@functools.cache
def plain(name: str) -> nn.Module:
    """A network as it is, without memory; nobody changes it."""
    return on_meta(name)


def on_meta(name: str, **options: Any) -> nn.Module:
    with torch.device("meta"):
        return registry.get(name).build(**options)


def parameters(network: nn.Module) -> int:
    return sum(p.numel() for p in network.parameters())


def sides(name: str) -> tuple[int, int]:
    """Odd height and width that a network takes, but for ViT, whose sides are multiples of its patch."""
    patch = registry.MODELS[name].patch
    return (2 * patch, 3 * patch) if patch > 1 else (97, 75)


@pytest.mark.parametrize("name", BACKBONES)
def test_a_backbone_has_its_published_size(name: str) -> None:
    network, entry = plain(name), registry.MODELS[name]
    assert parameters(network) == (entry.params_training or entry.params)
    if entry.params_training:
        assert entry.params == parameters(network) - sum(parameters(network.get_submodule(a)) for a in ("aux1", "aux2"))
    assert entry.params == ISSUED.get(name, entry.params)


@pytest.mark.parametrize("name", PUBLISHED)
def test_the_table_says_what_torchvision_documents(name: str) -> None:
    entry, published = registry.MODELS[name], torchvision.models.get_model_weights(name)
    assert set(entry.weights) == {each.name for each in published} and published.DEFAULT.name == entry.weights[0]
    assert entry.score == published.DEFAULT.meta["_metrics"]["ImageNet-1K"]["acc@1"]
    if not name.startswith("vit_h"):  # the default weights of that one are for larger images
        assert entry.params == published.DEFAULT.meta["num_params"]


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_weights_get_images_normalised_as_they_expect(name: str) -> None:
    for version in torchvision.models.get_model_weights(name):
        transform = version.transforms()
        # Inside torchvision's pretrained networks ImageNet's statistics become 0.5.
        halves = name in ("googlenet", "inception_v3")
        expected = ([0.5] * 3, [0.5] * 3) if halves else (transform.mean, transform.std)
        found = registry.get(name).statistics(f"torchvision/{version.name}")
        assert found is not None
        assert torch.allclose(torch.tensor(found), torch.tensor(expected, dtype=torch.float32))
    assert registry.get(name).statistics(None) is None and registry.get(name).statistics("w.safetensors") is None


@pytest.mark.parametrize("name", BACKBONES)
def test_blocks_are_there_apart_and_hold_most_of_a_network(name: str) -> None:
    network = plain(name)
    names: tuple[str, ...] = network.block_names  # type: ignore[assignment]
    held = [id(p) for block in names for p in network.get_submodule(block).parameters()]
    assert len(held) == len(set(held))
    assert not [a for a in names for b in names if a != b and b.startswith(f"{a}.")]
    within = {id(p): p.numel() for p in network.parameters()}
    assert sum(within[i] for i in held) > 0.9 * parameters(network)


@pytest.mark.parametrize("name", FAMILIES)
def test_torchvision_s_weights_load_unchanged_and_give_its_outputs(name: str) -> None:
    torch.manual_seed(0)
    side = 96 if name in ("inception_v3", "vit_b_32") else 64
    theirs = _torchvision_s(name, **({"image_size": side} if name == "vit_b_32" else {}))
    _disturb(theirs)
    ours = on_meta(name, num_classes=10, image_size=side).to_empty(device="cpu")
    ours.load_state_dict(theirs.state_dict())
    image = torch.randn(2, 3, side, side)
    with torch.inference_mode():
        torch.testing.assert_close(ours.eval()(image), theirs.eval()(image), rtol=0, atol=1e-6)


def _torchvision_s(name: str, **more: Any) -> nn.Module:
    if name in ("googlenet", "inception_v3"):
        more["init_weights"] = True
    network: nn.Module = getattr(torchvision.models, name)(weights=None, num_classes=10, **more)
    return network


def _disturb(network: nn.Module) -> None:
    """Heads of zeros and statistics of nothing would make all outputs equal."""
    for parameter in network.parameters():
        if not parameter.any():
            nn.init.normal_(parameter, std=0.02)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.normal_(module.running_mean, std=0.1)  # type: ignore[arg-type]


@pytest.mark.parametrize("name", BACKBONES)
def test_maps_of_features_have_the_stated_channels_and_strides(name: str) -> None:
    height, width = sides(name)
    with torch.device("meta"):
        network = registry.get(name).features(in_channels=2, image_size=(height, width))
        maps = network(torch.empty(2, 2, height, width))
    assert network.channels == registry.MODELS[name].channels and network.strides == registry.MODELS[name].strides
    _assert_shapes(network, maps, height, width)


def _assert_shapes(network: Any, maps: list[torch.Tensor], height: int, width: int) -> None:
    shapes = [(2, c, -(-height // s), -(-width // s)) for c, s in zip(network.channels, network.strides, strict=True)]
    assert [tuple(m.shape) for m in maps] == shapes


@pytest.mark.parametrize("name", FAMILIES)
def test_a_pyramid_has_the_names_of_the_classifier_without_its_head(name: str) -> None:
    with torch.device("meta"):
        pyramid, classifier = registry.get(name).features(), plain(name)
    own, whole = pyramid.state_dict().keys(), classifier.state_dict().keys()
    assert own < whole
    heads = {key.partition(".")[0] for key in whole - own}
    assert heads <= {"fc", "classifier", "head", "heads", "aux1", "aux2", "AuxLogits"}
    assert set(pyramid.block_names) <= set(classifier.block_names)  # type: ignore[arg-type]
    assert all(pyramid.get_submodule(block) for block in pyramid.block_names)


DILATED = ["resnet18", "resnet50", "wide_resnet50_2", "vgg11", "vgg16_bn", "convnext_tiny"]


@pytest.mark.parametrize("name", DILATED)
@pytest.mark.parametrize("output_stride", [8, 16])
def test_a_dilated_backbone_keeps_the_stated_stride(name: str, output_stride: int) -> None:
    with torch.device("meta"):
        network = registry.get(name).features(output_stride=output_stride)
        maps = network(torch.empty(2, 3, 97, 75))
    assert network.strides == tuple(min(s, output_stride) for s in registry.MODELS[name].strides)
    _assert_shapes(network, maps, 97, 75)


@pytest.mark.parametrize("name", ["resnet18", "resnet50", "vgg11", "convnext_tiny"])
def test_a_dilated_backbone_gives_at_every_fourth_position_what_its_own_gives(name: str) -> None:
    with torch.device("meta"):
        own, dilated = registry.get(name).features(), registry.get(name).features(output_stride=8)
    own, dilated = (network.to_empty(device="cpu") for network in (own, dilated))
    torch.manual_seed(0)
    for key, tensor in own.state_dict().items():
        tensor.fill_(1) if "var" in key else tensor.copy_(torch.randn(tensor.shape) * 0.02)
    dilated.load_state_dict(own.state_dict())
    image = torch.randn(1, 3, 64, 32)
    with torch.inference_mode():
        expected, found = own.eval()(image), dilated.eval()(image)
    for whole, dense in zip(expected, found, strict=True):
        step = dense.shape[-1] // whole.shape[-1]
        assert (dense[..., ::step, ::step] - whole).abs().max() <= 1e-5 * whole.abs().max() > 0
    assert found[-1].shape[-1] == 4 * expected[-1].shape[-1]


def test_a_dilated_resnet_is_torchvision_s() -> None:
    torch.manual_seed(0)
    theirs = torchvision.models.resnet50(replace_stride_with_dilation=[False, True, True], num_classes=3)
    ours = registry.get("resnet50").build(num_classes=3, output_stride=8)
    ours.load_state_dict(theirs.state_dict())
    image = torch.randn(1, 3, 64, 64)
    with torch.inference_mode():
        assert torch.equal(ours.eval()(image), theirs.eval()(image))


@pytest.mark.parametrize("name", FAMILIES)
@pytest.mark.parametrize("channels", [1, 4])
def test_images_may_have_other_channels_and_sizes(name: str, channels: int) -> None:
    entry: ModelSpec = registry.MODELS[name]
    height, width = (64, 96) if entry.smallest < 64 else (75, 96)
    given = {key: 0.1 for key in ("dropout", "drop_path") if key in entry.takes}
    with torch.device("meta"):
        network = registry.get(name).build(num_classes=7, in_channels=channels, image_size=(height, width), **given)
        output = network.eval()(torch.empty(2, channels, height, width))
    assert output.shape == (2, 7)
    assert network.state_dict().keys() == plain(name).state_dict().keys()


@pytest.mark.parametrize(("name", "heads"), [("googlenet", ["out", "aux1", "aux2"]), ("inception_v3", ["out", "aux1"])])
def test_auxiliary_heads_speak_while_training_alone(name: str, heads: list[str]) -> None:
    network = on_meta(name, num_classes=5)
    image = torch.empty(2, 3, 96, 96, device="meta")
    assert {key: tuple(value.shape) for key, value in network(image).items()} == dict.fromkeys(heads, (2, 5))
    assert network.eval()(image).shape == (2, 5)
    assert network.auxiliary_weight == (0.3 if name == "googlenet" else 0.4)


@pytest.mark.parametrize("name", ["swin_t", "swin_v2_t", "convnext_tiny"])
def test_stochastic_depth_rises_to_the_rate_asked_for(name: str) -> None:
    def rates(**options: float) -> list[float]:
        modules = on_meta(name, **options).modules()
        return [m.p for m in modules if isinstance(m, torchvision.ops.StochasticDepth)]

    asked, own = rates(drop_path=0.3), rates()
    assert asked[0] == 0 and asked[-1] == pytest.approx(0.3) and asked == sorted(asked)
    assert own == pytest.approx([rate * own[-1] / 0.3 for rate in asked]) and own[-1] in (0.1, 0.2)
    assert set(rates(drop_path=0.0)) == {0.0}


@pytest.mark.parametrize("name", FAMILIES)
def test_dropout_is_the_network_s_own_or_as_asked(name: str) -> None:
    def rates(**options: float) -> set[float]:
        return {m.p for n, m in on_meta(name, **options).named_modules() if isinstance(m, nn.Dropout) and "aux" not in n}

    own = {"vgg11_bn": 0.5, "googlenet": 0.2, "inception_v3": 0.5}.get(name, 0.0)
    assert rates() - {0.0} == {own} - {0.0}
    assert rates(dropout=0.35) - {0.0} == {0.35}


REFUSED = {
    "model.stem=small: vgg16 has no such option; it takes model.dropout, model.output_stride": ("vgg16", {"stem": "small"}),
    "model.output_stride=8: swin_t has no such option": ("swin_t", {"output_stride": 8}),
    "model.output_stride=16: resnet18 has a stride of 8": ("resnet18", {"stem": "small", "output_stride": 16}),
    "model.drop_path=0.1: vit_b_16 has no such option": ("vit_b_16", {"drop_path": 0.1}),
    "data.image_size=100: vit_b_16 cuts.*Set data.image_size=96": ("vit_b_16", {"image_size": 100}),
    r"data.image_size=\[64, 80\]: inception_v3 leaves nothing.*image_size=75": ("inception_v3", {"image_size": (64, 80)}),
}


@pytest.mark.parametrize("sentence", REFUSED)
def test_what_a_network_does_not_take_is_refused_by_its_key(sentence: str) -> None:
    name, options = REFUSED[sentence]
    spec = registry.get(name)
    for refuse in (spec.check, spec.build, spec.features):
        with pytest.raises(BadOption, match=sentence):
            refuse(**options)


def test_building_warns_of_nothing_and_depends_on_the_seed_alone() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        first, second = ((torch.manual_seed(1), registry.get("googlenet").build(num_classes=3))[1] for _ in range(2))
    assert all(torch.equal(a, b) for a, b in zip(first.parameters(), second.parameters(), strict=True))


def test_an_embedding_of_positions_is_interpolated_as_torchvision_does() -> None:
    from torchvision.models.vision_transformer import interpolate_embeddings

    from phalanx.models.backbones.vit import interpolated

    embedding = torch.randn(1, 1 + 7 * 7, 8)
    theirs = interpolate_embeddings(96, 32, {"encoder.pos_embedding": embedding.clone()})["encoder.pos_embedding"]
    assert torch.equal(interpolated(embedding, (7, 7), (3, 3)), theirs)
    assert interpolated(embedding, (7, 7), (2, 5)).shape == (1, 11, 8)


def test_a_vision_transformer_s_pyramid_takes_images_of_other_sizes() -> None:
    pyramid = registry.get("vit_b_32").features(image_size=64).eval()
    with torch.inference_mode():
        assert pyramid(torch.randn(1, 3, 96, 160))[0].shape == (1, 768, 3, 5)
        with pytest.raises(ValueError, match="multiples of the patch, 32"):
            pyramid(torch.randn(1, 3, 100, 96))


@pytest.mark.parametrize(("height", "width", "side"), [(2, 3, 7), (7, 7, 7), (14, 21, 7), (4, 6, 4), (13, 9, 5), (5, 9, 1)])
def test_pooling_to_a_fixed_size_is_torch_s_and_so_is_its_gradient(height: int, width: int, side: int) -> None:
    from phalanx.models.backbones.pooling import adaptive_pool

    ours = torch.randn(2, 3, height, width, dtype=torch.float64, requires_grad=True)
    theirs = ours.detach().clone().requires_grad_()
    found, expected = adaptive_pool(ours, side), nn.functional.adaptive_avg_pool2d(theirs, side)
    towards = torch.randn_like(expected)
    (found * towards).sum().backward()
    (expected * towards).sum().backward()
    torch.testing.assert_close(found, expected)
    torch.testing.assert_close(ours.grad, theirs.grad)
