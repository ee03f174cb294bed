"""Networks for segmentation: published sizes, torchvision's weights and outputs, images of any size, what the papers say."""

import functools
import warnings
from typing import Any

import pytest
import torch
import torchvision
from torch import Tensor, nn
from torchvision.models import segmentation

from phalanx.models import registry
from phalanx.models.backbones.pyramid import Pyramid
from phalanx.models.options import BadOption

NETWORKS = registry.names("segmentation")
PUBLISHED = [name for name in NETWORKS if registry.MODELS[name].weights]
OURS = [name for name in NETWORKS if name not in PUBLISHED]
# Small networks, and the forms that options give.
FORMS: dict[str, tuple[str, dict[str, Any]]] = {name: (name, {}) for name in OURS} | {
    "unet on resnet18": ("unet", {"backbone": "resnet18"}),
    "unet on swin_t": ("unet", {"backbone": "swin_t"}),
    "fcn on resnet50": ("fcn", {"backbone": "resnet50"}),
    "unet with BatchNorm": ("unet", {"options": {"batch_norm": True}}),
    "unetpp, deep supervision": ("unetpp", {"options": {"deep_supervision": True}}),
    "deeplabv1, multi-scale": ("deeplabv1", {"options": {"multi_scale": True}}),
    "deeplabv2, multi-scale": ("deeplabv2", {"options": {"multi_scale": True}}),
    "deeplabv3, multi-grid": ("deeplabv3", {"options": {"multi_grid": [1, 2]}, "output_stride": 16}),
    "deeplabv3plus, normalised between": ("deeplabv3plus", {"options": {"norm_between": True}}),
    "deeplabv3plus as in mmsegmentation": ("deeplabv3plus", {"options": {"mmsegmentation": True, "norm_between": True}}),
    "deeplabv3plus, not separable": ("deeplabv3plus", {"options": {"separable": False}}),
    "pspnet without auxiliary head": ("pspnet", {"options": {"auxiliary": False}}),
    "fcn on convnext_tiny": ("fcn", {"backbone": "convnext_tiny"}),
    "upernet, normalised maps": ("upernet", {"backbone": "swin_t", "options": {"norm_maps": True}}),
    "segnet on vgg11": ("segnet", {"backbone": "vgg11"}),
}
SIZES = [(64, 96), (96, 64), (97, 75)]


def on_meta(name: str, **options: Any) -> nn.Module:
    with torch.device("meta"):
        return registry.get(name).build(**options)


@functools.cache
def plain(name: str) -> nn.Module:
    """A network as it is, without memory; nobody changes it."""
    return on_meta(name)


def small(name: str, **options: Any) -> nn.Module:
    """A network that a test can run."""
    entry = registry.MODELS[name]
    for key, value in {"width": 4, "hidden": 16}.items():
        if key in entry.own and "backbone" not in options:
            options["options"] = {key: value} | options.get("options", {})
    if entry.backbone is not None:
        options = {"backbone": "vgg11_bn" if entry.backbones else "resnet18"} | options
    torch.manual_seed(0)
    return registry.get(name).build(num_classes=4, **options)


def parameters(network: nn.Module) -> int:
    return sum(p.numel() for p in network.parameters())


# -- published sizes and weights


@pytest.mark.parametrize("name", NETWORKS)
def test_a_network_has_the_size_that_the_table_says(name: str) -> None:
    assert parameters(plain(name)) == registry.MODELS[name].params


def test_sizes_are_those_that_were_published() -> None:
    assert parameters(plain("fcn")) == 35_322_218 and parameters(plain("deeplabv3")) == 42_004_074  # torchvision
    assert parameters(on_meta("unet", in_channels=1, num_classes=2)) == 31_030_658
    options = {"mmsegmentation": True, "norm_between": True, "auxiliary": True}
    as_there = on_meta("deeplabv3plus", num_classes=19, output_stride=8, stem="resnet_c", options=options)
    pyramid = 2048 * 512 + 1024 + 3 * (2048 * 9 + 2 * 2048 + 2048 * 512 + 1024) + 2048 * 512 + 1024 + 5 * 512 * 512 * 9 + 1024
    decoder = sum(c * 9 + 2 * c + c * 512 + 1024 for c in (560, 512)) + 256 * 48 + 96 + 512 * 19 + 19
    assert parameters(as_there.aspp) == pyramid
    assert sum(parameters(part) for part in (as_there.decoder, as_there.reduce, as_there.classifier)) == decoder
    for name in ("deeplabv3plus", "pspnet", "upernet"):
        network = registry.get(name).build(num_classes=50, backbone="resnet18", options={"mmsegmentation": True})
        classifiers = [m for m in network.modules() if isinstance(m, nn.Conv2d) and m.bias is not None]
        assert all(float(m.weight.detach().std()) == pytest.approx(0.01, rel=0.05) and not m.bias.any() for m in classifiers), (
            name
        )
        heads = {"upernet": "context.fuse.0", "deeplabv3plus": "reduce.0", "pspnet": "classifier.1.0"}
        head = network.get_submodule(heads[name])
        outgoing = head.out_channels * head.kernel_size[0] ** 2
        assert float(head.weight.detach().std()) == pytest.approx((2 / outgoing) ** 0.5, rel=0.05)
    papers = {"fcn32s": (134.0, {}), "deeplabv1": (20.5, {}), "unetpp": (9.04, {"in_channels": 1, "num_classes": 1})}
    for name, (millions, options) in papers.items():
        assert parameters(on_meta(name, **options)) / 1e6 == pytest.approx(millions, rel=0.003)


@pytest.mark.parametrize("name", PUBLISHED)
def test_the_table_says_what_torchvision_documents(name: str) -> None:
    entry, published = registry.MODELS[name], torchvision.models.get_model_weights(name)
    assert entry.weights == tuple(each.name for each in published)
    assert entry.params == published.DEFAULT.meta["num_params"]
    assert entry.score == published.DEFAULT.meta["_metrics"]["COCO-val2017-VOC-labels"]["miou"]
    transform = published.DEFAULT.transforms()
    assert registry.get(name).statistics("torchvision") == (tuple(transform.mean), tuple(transform.std))


@pytest.mark.parametrize(
    ("name", "theirs"), [("fcn", segmentation.fcn_resnet50), ("deeplabv3_resnet50", segmentation.deeplabv3_resnet50)]
)
def test_torchvision_s_weights_load_unchanged_and_give_its_outputs(name: str, theirs: Any) -> None:
    torch.manual_seed(0)
    expected = theirs(weights=None, weights_backbone=None, num_classes=5, aux_loss=True)
    _disturb(expected)
    ours = on_meta(name, num_classes=5).to_empty(device="cpu")
    ours.load_state_dict(expected.state_dict())
    image = torch.randn(2, 3, 49, 64)
    with torch.inference_mode():
        torch.testing.assert_close(ours.eval()(image), expected.eval()(image)["out"], rtol=0, atol=1e-6)
        aux = nn.functional.interpolate(expected.aux_classifier(_layer3(expected, image)), (49, 64), mode="bilinear")
        torch.testing.assert_close(_heads_without_dropout(ours, image)["aux1"], aux, rtol=0, atol=1e-6)


def _disturb(network: nn.Module) -> None:
    """Statistics of nothing would make all outputs equal."""
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.normal_(module.running_mean, std=0.1)  # type: ignore[arg-type]


def _layer3(network: nn.Module, image: Tensor) -> Tensor:
    found: Tensor = network.backbone(image)["aux"]  # type: ignore[operator]
    return found


def _heads_without_dropout(network: nn.Module, image: Tensor) -> dict[str, Tensor]:
    """What a training network gives, its layers in evaluation."""
    network.training = True
    found: dict[str, Tensor] = network(image)
    network.training = False
    return found


# -- images of any size


@pytest.mark.parametrize("form", FORMS)
def test_logits_have_the_image_s_size_and_every_parameter_is_reached(form: str) -> None:
    name, options = FORMS[form]
    with torch.device("meta"):
        network = small(name, **options)
    for height, width in SIZES:
        image = torch.empty(2, 3, height, width, device="meta")
        output = network.train()(image)
        heads = output if isinstance(output, dict) else {"out": output}
        assert all(head.shape == (2, 4, height, width) for head in heads.values())
        assert list(heads) == ["out", *(f"aux{place}" for place in range(1, len(heads)))]
        assert len(heads) == 1 or network.auxiliary_weight in (0.4, 0.5, 1.0)
        assert network.eval()(image).shape == (2, 4, height, width)
    sum(head.sum() for head in heads.values()).backward()
    unreached = [key for key, parameter in network.named_parameters() if parameter.grad is None]
    assert not unreached


@pytest.mark.parametrize("name", OURS)
def test_a_network_sees_every_corner_of_an_odd_image(name: str) -> None:
    network = small(name, dropout=0.0) if "dropout" in registry.MODELS[name].takes else small(name)
    for parameter in network.parameters():  # scores begin at zero in some
        if not parameter.any():
            nn.init.normal_(parameter, std=0.02)
    image = torch.randn(1, 3, 37, 45, requires_grad=True)
    network.eval()(image).square().sum().backward()
    assert image.grad is not None and torch.isfinite(image.grad).all()
    rows, columns = image.grad.abs().sum((0, 1, 3)), image.grad.abs().sum((0, 1, 2))
    assert (rows > 0).all() and (columns > 0).all()


@pytest.mark.parametrize("name", NETWORKS)
def test_blocks_are_there_apart_and_hold_most_of_a_network(name: str) -> None:
    network = plain(name)
    names: tuple[str, ...] = network.block_names  # type: ignore[assignment]
    held = [p for block in names for p in network.get_submodule(block).parameters()]
    assert len(held) == len({id(p) for p in held})
    assert not [a for a in names for b in names if a != b and b.startswith(f"{a}.")]
    assert sum(p.numel() for p in held) > 0.9 * parameters(network)


@pytest.mark.parametrize("name", OURS)
def test_images_may_have_other_channels(name: str) -> None:
    with torch.device("meta"):
        network = small(name, in_channels=1).eval()
        assert network(torch.empty(1, 1, 64, 64)).shape == (1, 4, 64, 64)


def test_building_warns_of_nothing_and_depends_on_the_seed_alone() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        first, second = small("deeplabv3plus"), small("deeplabv3plus")
    assert all(torch.equal(a, b) for a, b in zip(first.parameters(), second.parameters(), strict=True))


# -- what the papers say


def test_unpooling_is_torch_s_and_so_is_its_gradient() -> None:
    from phalanx.models.segmentation.segnet import unpool

    image = torch.randn(2, 3, 7, 10, dtype=torch.float64)
    pooled, places = nn.functional.max_pool2d(image, 2, ceil_mode=True, return_indices=True)
    ours, theirs = (pooled.clone().requires_grad_() for _ in range(2))
    found, expected = unpool(ours, places, (7, 10)), nn.functional.max_unpool2d(theirs, places, 2, output_size=(7, 10))
    assert torch.equal(found, expected)
    towards = torch.randn_like(found)
    (found * towards).sum().backward()
    (expected * towards).sum().backward()
    assert torch.equal(ours.grad, theirs.grad)  # type: ignore[arg-type]


def test_fcn_starts_from_scores_of_zero_and_bilinear_upsampling() -> None:
    network = small("fcn8s")
    assert not network(torch.randn(1, 3, 40, 40)).any()
    scores = torch.randn(1, 4, 6, 9)
    found = network.twice[0](scores)  # type: ignore[index, operator]
    expected = nn.functional.interpolate(scores, scale_factor=2, mode="bilinear")
    torch.testing.assert_close(found[..., 1:-1, 1:-1], expected[..., 1:-1, 1:-1])


def test_atrous_rates_and_multi_grid_are_the_paper_s() -> None:
    from phalanx.models.segmentation.parts.aspp import rates_at

    assert rates_at(16) == (6, 12, 18) and rates_at(8) == (12, 24, 36)
    network = on_meta("deeplabv3", output_stride=16, options={"multi_grid": [1, 2, 4]})
    rates = [network.get_submodule(f"backbone.layer4.{block}.conv2").dilation for block in range(3)]
    assert rates == [(2, 2), (4, 4), (8, 8)]  # section 3.2.1
    dilated = [branch[0].dilation[0] for branch in network.classifier[0].convs[1:4]]  # type: ignore[index, union-attr]
    assert dilated == [6, 12, 18]


def test_pyramid_pooling_of_one_bin_is_the_mean_of_the_image_everywhere() -> None:
    from phalanx.models.segmentation.pspnet import PyramidPooling

    pooling, x = PyramidPooling(8, bins=(1, 2)).eval(), torch.randn(2, 8, 5, 7)
    found = pooling(x)
    assert found.shape == (2, 16, 5, 7) and torch.equal(found[:, :8], x)
    mean = pooling.reduce[0](x.mean((2, 3), keepdim=True))
    torch.testing.assert_close(found[:, 8:12], mean.expand(-1, -1, 5, 7))


def test_scales_are_fused_by_their_largest_score() -> None:
    network = small("deeplabv2", options={"multi_scale": True}).eval()
    image = torch.randn(1, 3, 64, 64)
    with torch.inference_mode():
        heads = _heads_without_dropout(network, image)
        assert torch.equal(heads["out"], network.eval()(image))
        single = small("deeplabv2").eval()
        single.load_state_dict(network.state_dict())
        torch.testing.assert_close(heads["aux3"], single(image))
    coarse = [heads[name][..., 4::8, 4::8] for name in ("out", "aux1", "aux2", "aux3")]
    assert bool((coarse[0] >= torch.stack(coarse[1:]).amax(0) - 0.05 * coarse[0].abs().max()).all())


def test_deep_supervision_is_evaluated_by_the_mean_of_its_heads() -> None:
    network = small("unetpp", options={"deep_supervision": True}).eval()
    image = torch.randn(1, 3, 32, 32)
    with torch.inference_mode():
        heads = _heads_without_dropout(network, image)
        torch.testing.assert_close(network(image), torch.stack(list(heads.values())).mean(0))
    assert list(heads) == ["out", "aux1", "aux2", "aux3"]


def test_an_attention_gate_lets_through_what_it_is_given() -> None:
    from phalanx.models.segmentation.attention_unet import AttentionGate

    gate, skip, gating = AttentionGate(4, 8).eval(), torch.randn(1, 4, 9, 7), torch.randn(1, 8, 5, 4)
    nn.init.zeros_(gate.psi.weight)
    for bias, share in ((-30.0, 0.0), (30.0, 1.0)):
        nn.init.constant_(gate.psi.bias, bias)  # type: ignore[arg-type]
        torch.testing.assert_close(gate(skip, gating), gate.output(skip * share), rtol=0, atol=1e-5)


# -- what is refused

REFUSED: dict[str, tuple[str, dict[str, Any]]] = {
    "model.backbone=resnet18: segnet has one of vgg11, vgg11_bn": ("segnet", {"backbone": "resnet18"}),
    "model.backbone=resnet51: there is no backbone 'resnet51'. Did you mean resnet50": ("unet", {"backbone": "resnet51"}),
    "model.backbone=unet: there is no backbone 'unet'": ("deeplabv3plus", {"backbone": "unet"}),
    "model.backbone=resnet18: unetpp takes no backbone": ("unetpp", {"backbone": "resnet18"}),
    "model.output_stride=8: swin_t has no such option": ("deeplabv3plus", {"backbone": "swin_t", "output_stride": 8}),
    "model.options.grid: deeplabv3 has no such option; it takes auxiliary, multi_grid": ("deeplabv3", {"options": {"grid": 1}}),
    r"model.options.multi_grid=\[1, 0\]: this is not a list of numbers": ("deeplabv3", {"options": {"multi_grid": [1, 0]}}),
    "model.options.multi_grid=2: this is not a list": ("deeplabv3", {"options": {"multi_grid": 2}}),
    "model.options.width=True: this is not a number": ("unet", {"options": {"width": True}}),
    "model.options.auxiliary=1: this is not true or false": ("pspnet", {"options": {"auxiliary": 1}}),
    "model.stem=small: fcn8s has no such option": ("fcn8s", {"stem": "small"}),
    "data.image_size=100: vit_b_16 cuts images into patches": ("fcn", {"backbone": "vit_b_16", "image_size": 100}),
}


@pytest.mark.parametrize("sentence", REFUSED)
def test_what_a_network_does_not_take_is_refused_by_its_key(sentence: str) -> None:
    name, options = REFUSED[sentence]
    spec = registry.get(name)
    for refuse in (spec.check, spec.build):
        with pytest.raises(BadOption, match=sentence):
            refuse(**options)


@pytest.mark.parametrize(
    ("name", "options", "sentence"),
    [
        ("deeplabv3plus", {"backbone": "vit_b_16"}, "its maps have strides of 16, but this decoder needs one of 4"),
        ("deeplabv3", {"backbone": "resnet18", "options": {"multi_grid": [1, 2, 4]}}, "resnet18 has 2 blocks"),
        ("deeplabv3", {"backbone": "swin_t", "options": {"multi_grid": [1, 2]}}, "swin_t is not a ResNet"),
    ],
)
def test_what_only_building_shows_is_refused_too(name: str, options: dict[str, Any], sentence: str) -> None:
    with pytest.raises(BadOption, match=sentence):
        on_meta(name, **options)


def test_a_network_for_segmentation_is_no_backbone() -> None:
    with pytest.raises(registry.UnknownModel, match="unet is not a backbone"):
        registry.get("unet").features()


def test_normalised_maps_have_new_norms_in_place_of_swin_s_own() -> None:
    network = small("upernet", backbone="swin_t", options={"norm_maps": True})
    names = {name for name, _ in network.named_parameters()}
    assert {f"map_norms.{place}.weight" for place in range(4)} <= names and "backbone.norm.weight" not in names
    backbone = network.backbone
    assert isinstance(backbone, Pyramid) and "norm" in backbone.left_out  # of a file of weights
