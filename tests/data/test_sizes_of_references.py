"""Images have the sizes, the pixels and the padding that the published trainings give them."""

import math

import pytest
import torch
from torch import Tensor
from torchvision.models.detection.transform import GeneralizedRCNNTransform

from phalanx.configs.errors import UserError
from phalanx.data.transforms import fit
from phalanx.data.transforms.pipeline import pipeline
from tests.data.examples import Noise, recipe

SIZES = [(480, 640), (427, 640), (640, 427), (375, 500), (333, 500), (500, 333), (612, 612), (81, 97), (1000, 90)]


def _image(height: int, width: int) -> Tensor:
    return torch.randint(256, (3, height, width), dtype=torch.uint8, generator=torch.Generator().manual_seed(height * width))


@pytest.mark.parametrize("bound", [(800, 1333), (240, 400)])
def test_detectors_see_what_torchvision_s_transform_gives(bound: tuple[int, int]) -> None:
    config = recipe(
        *("data.fit=short_side", f"data.image_size={list(bound)}", "data.antialias=false"),
        *("data.size_rounding=down", "data.resize_dtype=float32"),
    )
    seen = pipeline(config.data, Noise("detection"), "val")
    theirs = GeneralizedRCNNTransform(*bound, list(seen.mean), list(seen.std)).eval()
    for height, width in SIZES:
        image = _image(height, width)
        batch, _ = theirs([image / 255])
        ours = seen({"image": image, "boxes": torch.zeros(0, 4), "labels": torch.zeros(0, dtype=torch.int64)})["image"]
        assert tuple(ours.shape[-2:]) == batch.image_sizes[0]
        assert (ours - batch.tensors[0, :, : ours.shape[-2], : ours.shape[-1]]).abs().max() < 1e-5
    nearest = recipe("data.fit=short_side", f"data.image_size={list(bound)}").data
    assert any(fit.full_size(nearest, size) != fit.full_size(config.data, size) for size in SIZES)


def test_yolox_cuts_sizes_off() -> None:
    config = recipe("data.fit=pad", "data.image_size=640", "data.size_rounding=down").data
    for height, width in SIZES:
        ratio = min(640 / height, 640 / width)
        assert fit.full_size(config, (height, width)) == (int(height * ratio), int(width * ratio))


@pytest.mark.parametrize(
    ("bounds", "keys"),
    [
        (None, ["data.image_size=[8,16]", "data.augment.scale_of=image"]),
        ((512, 2048), ["data.image_size=512", "data.augment.scale_of=short_side", "data.augment.scale_longest=2048"]),
    ],
    ids=["cityscapes", "ade20k"],
)
def test_random_scales_give_mmsegmentation_s_sizes(bounds: tuple[int, int] | None, keys: list[str]) -> None:
    """There, a size is scaled and cut off; the image is made as large as fits into it, rounded."""
    config = recipe("data.augment.scale=[0.5,2.0]", "data.size_rounding=bounds_down", *keys).data
    scale = fit.RandomScale(config, (0.5, 2.0), fit.Fill([0.5] * 3, 255))
    for number, (height, width) in enumerate(SIZES):
        torch.manual_seed(number)
        found = scale.make_params([torch.zeros(3, height, width)])["size"]
        torch.manual_seed(number)
        factor = torch.empty(()).uniform_(0.5, 2.0).item()
        longer, shorter = (int(factor * side) for side in sorted(bounds or (height, width), reverse=True))
        ratio = min(longer / max(height, width), shorter / min(height, width))
        assert found == (max(1, math.floor(height * ratio + 0.5)), max(1, math.floor(width * ratio + 0.5)))


@pytest.mark.parametrize("how", ["fit=pad", "fit=pad data.augment.scale=[0.5,0.5]"])
def test_padding_on_the_right_and_below_comes_after_flips_and_colours(how: str) -> None:
    image = torch.full((3, 20, 12), 200, dtype=torch.uint8)
    image[:, :, :6] = 50
    mask = torch.ones(20, 12, dtype=torch.uint8)
    changes = ["data.augment.flip=1", "data.augment.colour=hsv", "data.augment.brightness=0.5", "data.fill=[0.447,0.447,0.447]"]
    config = recipe("data.image_size=20", *f"data.{how}".split(), "data.pad=right_below", *changes).data
    seen = pipeline(config, Noise("segmentation"), "train")
    height, width = (10, 6) if "scale" in how else (20, 12)
    torch.manual_seed(2)
    made = seen({"image": image, "mask": mask})
    pixels = (seen.pixels(made["image"]) * 255).round()
    assert made["image"].shape == (3, 20, 20) and (pixels[:, height:] == 114).all() and (pixels[:, :, width:] == 114).all()
    assert pixels[0, 0, 0] > pixels[0, 0, width - 1]  # mirrored, and still in the corner
    assert abs(pixels[0, 0, 0] - 200) > 5  # and of another brightness
    assert (made["mask"][:height, :width] == 1).all() and made["mask"].shape == (20, 20)
    assert (made["mask"][height:] == 255).all() and (made["mask"][:, width:] == 255).all()
    boxes = {"boxes": torch.tensor([[0.0, 0, 6, 20]]), "labels": torch.tensor([1]), "masks": (mask[None] > 0)}
    found = pipeline(config, Noise("detection"), "train")({"image": image, **boxes})
    assert found["boxes"].tolist() == [[width / 2, 0, width, height]] and found["masks"].shape == (1, 20, 20)
    assert found["masks"].sum() == height * width


def test_a_shift_does_not_go_with_padding_that_comes_last() -> None:
    with pytest.raises(UserError, match=r"data\.augment\.shift cuts images to one size.*Set data\.pad=centre"):
        pipeline(recipe("data.fit=pad", "data.pad=right_below", "data.augment.shift=2").data, Noise(), "train")


def test_images_without_objects_are_as_they_were_where_small_objects_are_not_learnt() -> None:
    keys, image = ["data.fit=pad", "data.augment.flip=1", "data.augment.brightness=0.5"], _image(16, 24)
    sample = {"image": image, "boxes": torch.zeros(0, 4), "labels": torch.zeros(0, dtype=torch.int64)}
    plain = pipeline(recipe("data.fit=pad").data, Noise("detection"), "train")(sample)["image"]
    for smallest, equal in ((8, True), (0, False)):
        config = recipe(*keys, f"data.augment.smallest_object={smallest}").data
        assert torch.equal(pipeline(config, Noise("detection"), "train")(sample)["image"], plain) == equal
