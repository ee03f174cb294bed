"""Changes of colours: in HSV as Python's own `colorsys` has it, and with the probabilities that are told."""

import colorsys

import pytest
import torch

from phalanx.configs.errors import UserError
from phalanx.configs.sections.data import Interpolation
from phalanx.data.transforms.colours import MultipliedHsv, PhotometricDistortion, from_hsv, to_hsv
from phalanx.data.transforms.pipeline import pipeline
from phalanx.data.transforms.timm_augment import TimmAugment
from tests.data.examples import Noise, recipe


def _image() -> torch.Tensor:
    image = torch.randint(256, (3, 9, 11), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))
    image[:, 0, :3] = torch.tensor([[0, 255, 90], [0, 255, 90], [0, 255, 90]], dtype=torch.uint8)  # black, white, grey
    image[:, 0, 3:6] = torch.tensor([[255, 0, 0], [0, 255, 0], [0, 0, 255]], dtype=torch.uint8)
    return image


def test_hsv_is_that_of_colorsys_and_leads_back() -> None:
    image = _image().float() / 255
    expected = torch.tensor([colorsys.rgb_to_hsv(*pixel) for pixel in image.flatten(1).T.tolist()]).T.view_as(image)
    assert torch.allclose(to_hsv(image), expected, atol=1e-6)
    assert torch.allclose(from_hsv(to_hsv(image)), image, atol=1e-6)


@pytest.mark.parametrize("floating", [False, True])
def test_hue_saturation_and_value_are_multiplied(floating: bool) -> None:
    image = _image()
    change = MultipliedHsv(brightness=0.4, contrast=0.0, saturation=0.7, hue=0.1)
    torch.manual_seed(3)
    changed = change(image.float() / 255 if floating else image)
    torch.manual_seed(3)
    hue, saturation, value = (1 + (2 * torch.rand(3) - 1) * torch.tensor([0.1, 0.7, 0.4])).tolist()
    expected = []
    for pixel in (image.float() / 255).flatten(1).T.tolist():
        h, s, v = colorsys.rgb_to_hsv(*pixel)
        expected.append(colorsys.hsv_to_rgb(h * hue % 1, min(1, s * saturation), min(1, v * value)))
    wanted = torch.tensor(expected).T.view(image.shape)
    assert changed.dtype == (torch.float32 if floating else torch.uint8)
    assert torch.allclose(changed if floating else changed / 255, wanted, atol=1e-5 if floating else 0.51 / 255)
    grey = change(torch.full((1, 4, 4), 100, dtype=torch.uint8))
    assert grey.shape == (1, 4, 4) and grey.unique().numel() == 1


def test_each_photometric_distortion_happens_to_half_of_the_images() -> None:
    image = torch.full((3, 2, 2), 0.5)
    torch.manual_seed(0)
    added = [PhotometricDistortion(0.2, 0.0, 0.0, 0.0)(image) for _ in range(400)]
    assert 150 < sum(torch.equal(one, image) for one in added) < 250
    assert max(float((one - image).abs().max()) for one in added) == pytest.approx(0.2, abs=0.01)
    multiplied = [PhotometricDistortion(0.0, 0.5, 0.0, 0.0)(image) for _ in range(400)]
    assert 150 < sum(torch.equal(one, image) for one in multiplied) < 250
    assert {round(float(one.min()), 1) for one in multiplied} >= {0.3, 0.7}
    red = torch.tensor([0.8, 0.2, 0.2]).view(3, 1, 1).expand(3, 2, 2)
    turned = [to_hsv(PhotometricDistortion(0.0, 0.0, 0.0, 0.1)(red))[0, 0, 0] for _ in range(400)]
    away = [min(float(hue), 1 - float(hue)) for hue in turned]
    assert 150 < sum(hue < 1e-6 for hue in away) < 250 and max(away) == pytest.approx(0.1, abs=0.01)


def test_a_dark_image_is_not_brighter_than_the_range_and_a_grey_one_stays_grey() -> None:
    torch.manual_seed(0)
    for _ in range(20):
        changed = PhotometricDistortion(0.5, 0.5, 0.5, 0.5)(_image())
        assert changed.dtype == torch.uint8 and changed.shape == _image().shape
        assert PhotometricDistortion(0.1, 0.5, 0.5, 0.1)(torch.zeros(1, 3, 3)).max() <= 0.1 * 1.5


@pytest.mark.parametrize("interpolation", ["random", "bicubic"])
@pytest.mark.parametrize("specification", ["rand-m7-mstd0.5-inc1", "augmix-m3-w2", "original-mstd0.5"])
def test_timm_s_operations_are_its_own(specification: str, interpolation: Interpolation) -> None:
    import random

    import numpy
    from timm.data.transforms_factory import transforms_imagenet_train
    from torchvision.transforms.v2 import functional as F

    mean, image = (0.485, 0.456, 0.406), torch.randint(256, (3, 64, 64), dtype=torch.uint8)
    ours = TimmAugment(specification, (64, 64), mean, interpolation)
    whole = transforms_imagenet_train(64, auto_augment=specification, mean=mean, interpolation=interpolation)
    (theirs,) = [step for step in whole.transforms if type(step).__module__ == "timm.data.auto_augment"]
    for seed in range(5):
        torch.manual_seed(seed)
        found = ours(image)
        torch.manual_seed(seed)
        drawn = int(torch.randint(2**32, ()))
        random.seed(drawn)
        numpy.random.seed(drawn)
        assert torch.equal(found, F.pil_to_tensor(theirs(F.to_pil_image(image))))


@pytest.mark.parametrize("specification", ["rand-q9", "no-such"])
def test_a_specification_that_timm_cannot_read_is_refused(specification: str) -> None:
    with pytest.raises(UserError, match=f"data.augment.timm={specification}: timm cannot read it"):
        pipeline(recipe(f"data.augment.timm={specification}").data, Noise(), "train")
