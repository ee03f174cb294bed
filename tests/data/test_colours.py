"""Changes of colours: in HSV as `colorsys` has it, in 8 bits as OpenCV does, with the probabilities that are told."""

import colorsys

import numpy
import pytest
import torch
from torch import Tensor

from phalanx.configs.errors import UserError
from phalanx.configs.sections.data import Interpolation
from phalanx.data.transforms.colours import MultipliedHsv, PhotometricDistortion
from phalanx.data.transforms.hsv import from_hsv, to_hsv
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


def _by_opencv(image: Tensor, back: bool = False) -> Tensor:
    import cv2  # albumentations needs it

    code = cv2.COLOR_HSV2RGB if back else cv2.COLOR_RGB2HSV
    return torch.from_numpy(cv2.cvtColor(numpy.ascontiguousarray(image.permute(1, 2, 0).numpy()), code)).permute(2, 0, 1)


def test_hsv_of_8_bits_is_that_of_opencv() -> None:
    some = torch.arange(0, 256, 3, dtype=torch.uint8)
    colours = torch.cartesian_prod(some, some, some).T.reshape(3, len(some), -1).contiguous()
    for image in (colours, torch.randint(256, (3, 500, 500), dtype=torch.uint8), _image()):
        hsv = _by_opencv(image)
        assert to_hsv(image).dtype == torch.uint8 and torch.equal(to_hsv(image), hsv)
        found, wanted = from_hsv(hsv), _by_opencv(hsv, back=True)
        assert (found.int() - wanted.int()).abs().max() <= 1
    # OpenCV's code rounds the last pixels of a row, and cuts off where its vectors reach.
    wide = to_hsv(torch.randint(256, (3, 200, 640), dtype=torch.uint8))
    assert (from_hsv(wide) != _by_opencv(wide, back=True)).float().mean() < 0.01


def test_8_bits_are_multiplied_as_yolox_does() -> None:
    image = torch.randint(256, (3, 60, 640), dtype=torch.uint8, generator=torch.Generator().manual_seed(5))
    change = MultipliedHsv(brightness=0.4, contrast=0.0, saturation=0.7, hue=0.015)
    for seed in range(5):
        torch.manual_seed(seed)
        changed = change(image)
        torch.manual_seed(seed)
        factors = (1 + (2 * torch.rand(3) - 1) * torch.tensor([0.015, 0.7, 0.4])).double()
        levels = torch.arange(256).double()
        tables = [levels * factors[0] % 180, (levels * factors[1]).clamp(max=255), (levels * factors[2]).clamp(max=255)]
        looked_up = [table.to(torch.uint8)[plane.long()] for table, plane in zip(tables, _by_opencv(image), strict=True)]
        wanted = _by_opencv(torch.stack(looked_up), back=True)
        assert (changed.int() - wanted.int()).abs().max() <= 1 and (changed == wanted).float().mean() > 0.98
    grey = change(torch.full((1, 4, 4), 100, dtype=torch.uint8))
    assert grey.shape == (1, 4, 4) and grey.unique().numel() == 1


def test_8_bits_are_distorted_as_mmsegmentation_does() -> None:
    image = torch.randint(256, (3, 40, 640), dtype=torch.uint8, generator=torch.Generator().manual_seed(6))
    most = torch.tensor([32 / 255, 0.5, 0.5, 0.1])
    change = PhotometricDistortion(*most.tolist())
    seen = set()
    for seed in range(40):
        torch.manual_seed(seed)
        changed = change(image)
        torch.manual_seed(seed)
        chosen, (brightness, contrast, saturation, hue) = torch.rand(4) < 0.5, ((2 * torch.rand(4) - 1) * most).tolist()
        late, wanted = bool(torch.rand(()) < 0.5), image.float()
        seen.add((*chosen.tolist(), late))
        if chosen[0]:
            wanted = (wanted + 255 * brightness).clamp(0, 255).floor()
        if chosen[1] and not late:
            wanted = (wanted * (1 + contrast)).clamp(0, 255).floor()
        for place in (1, 0):  # saturation, then hue, each to HSV and back
            if chosen[3 - place]:
                hsv = _by_opencv(wanted.to(torch.uint8)).float()
                hsv[place] = (
                    (hsv[1] * (1 + saturation)).clamp(0, 255).floor() if place else (hsv[0] + int(hue * 180 // 1)) % 180
                )
                wanted = _by_opencv(hsv.to(torch.uint8), back=True).float()
        if chosen[1] and late:
            wanted = (wanted * (1 + contrast)).clamp(0, 255).floor()
        assert (changed.float() - wanted).abs().max() <= 12 and (changed == wanted).float().mean() > 0.95, seed
    assert len(seen) > 15


def test_hue_saturation_and_value_are_multiplied() -> None:
    image = _image()
    change = MultipliedHsv(brightness=0.4, contrast=0.0, saturation=0.7, hue=0.1)
    torch.manual_seed(3)
    changed = change(image.float() / 255)
    torch.manual_seed(3)
    hue, saturation, value = (1 + (2 * torch.rand(3) - 1) * torch.tensor([0.1, 0.7, 0.4])).tolist()
    expected = []
    for pixel in (image.float() / 255).flatten(1).T.tolist():
        h, s, v = colorsys.rgb_to_hsv(*pixel)
        expected.append(colorsys.hsv_to_rgb(h * hue % 1, min(1, s * saturation), min(1, v * value)))
    wanted = torch.tensor(expected).T.view(image.shape)
    assert changed.dtype == torch.float32 and torch.allclose(changed, wanted, atol=1e-5)


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
