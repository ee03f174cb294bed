"""`timm/NAME`: any network of timm, where it is installed; a sentence where it is not."""

import importlib.util

import pytest
import torch

from phalanx.models import registry
from phalanx.models.options import BadOption

needs_timm = pytest.mark.skipif(importlib.util.find_spec("timm") is None, reason="timm is not installed")


@pytest.mark.skipif(importlib.util.find_spec("timm") is not None, reason="timm is installed")
def test_without_timm_a_sentence_says_what_to_install() -> None:
    with pytest.raises(registry.UnknownModel, match=r"'timm/resnet18' needs the package timm. Install it: pip install timm"):
        registry.get("timm/resnet18")


@needs_timm
@pytest.mark.parametrize(
    "name", ["resnet18", "vit_tiny_patch16_224", "convnext_atto", "swin_tiny_patch4_window7_224", "efficientnet_b0"]
)
def test_a_network_of_timm_takes_channels_classes_and_sizes_and_names_its_blocks(name: str) -> None:
    with torch.device("meta"):
        network = registry.get(f"timm/{name}").build(num_classes=7, in_channels=2, image_size=(64, 96))
        assert network.eval()(torch.empty(2, 2, 64, 96)).shape == (2, 7)
    names: tuple[str, ...] = network.block_names  # type: ignore[assignment]
    held = sum(p.numel() for block in names for p in network.get_submodule(block).parameters())
    assert held > 0.5 * sum(p.numel() for p in network.parameters())


@needs_timm
def test_features_of_timm_have_the_channels_and_strides_that_they_state() -> None:
    with torch.device("meta"):
        pyramid = registry.get("timm/resnet18").features(in_channels=1, output_stride=16)
        maps = pyramid(torch.empty(1, 1, 64, 96))
    assert pyramid.strides == (2, 4, 8, 16, 16)
    shapes = [(1, c, 64 // s, 96 // s) for c, s in zip(pyramid.channels, pyramid.strides, strict=True)]
    assert [tuple(m.shape) for m in maps] == shapes


@needs_timm
def test_what_timm_does_not_have_or_take_is_refused() -> None:
    with pytest.raises(registry.UnknownModel, match=r"timm has no network 'resnet1'. Did you mean timm/resnet"):
        registry.get("timm/resnet1").build()
    with pytest.raises(BadOption, match=r"model.stem=small: timm/resnet18 has no such option"):
        registry.get("timm/resnet18").build(stem="small")
    with pytest.raises(BadOption, match=r"model.output_stride=8: timm/vit_tiny_patch16_224 has no such option"):
        registry.get("timm/vit_tiny_patch16_224").build(output_stride=8)


@needs_timm
def test_weights_of_timm_get_images_normalised_as_they_expect() -> None:
    assert registry.get("timm/resnet18").statistics("timm") == ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
    assert registry.get("timm/vit_tiny_patch16_224").statistics("timm") == ((0.5,) * 3, (0.5,) * 3)
