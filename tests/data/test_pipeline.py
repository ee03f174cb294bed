"""What is done to a sample, and that it is the same wherever and whenever it is done."""

from typing import Any

import pytest
import torch
from torchvision.transforms import v2

from phalanx.configs.errors import UserError
from phalanx.configs.load import load
from phalanx.data.loading.loader import EvaluationLoader, Samples
from phalanx.data.open import open_split
from phalanx.data.transforms.fit import placement
from phalanx.data.transforms.mosaic_loading import mosaics
from phalanx.data.transforms.pipeline import pipeline
from phalanx.dist.microbatches.sampler import Draw, Share
from tests.data.examples import Noise, assert_same, loader, recipe, steps
from tests.support.running import DIGITS

CASES = {
    "nothing": ("classification", []),
    "shift": ("classification", ["data.augment.shift=5"]),
    "flip": ("classification", ["data.augment.flip=0.5"]),
    "vertical flip": ("classification", ["data.augment.vertical_flip=0.5"]),
    "random resized crop": ("classification", ["data.augment.area=[0.1,1.0]"]),
    "scale": ("classification", ["data.augment.scale=[0.5,2.0]"]),
    "rotation": ("classification", ["data.augment.rotate=30"]),
    "rotation and shear": ("segmentation", ["data.augment.rotate=30", "data.augment.shear=10"]),
    "brightness": ("classification", ["data.augment.brightness=0.4"]),
    "contrast": ("classification", ["data.augment.contrast=0.4"]),
    "saturation": ("classification", ["data.augment.saturation=0.4"]),
    "hue": ("classification", ["data.augment.hue=0.2"]),
    "randaugment": ("classification", ["data.augment.randaugment=2"]),
    "trivialaugment": ("classification", ["data.augment.trivialaugment=true"]),
    "hsv": ("classification", ["data.augment.colour=hsv", "data.augment.hue=0.2", "data.augment.saturation=0.7"]),
    "photometric": ("segmentation", ["data.augment.colour=photometric", "data.augment.contrast=0.5", "data.augment.hue=0.1"]),
    "policy interpolation": ("classification", ["data.augment.randaugment=2", "data.augment.policy_interpolation=bicubic"]),
    "timm": ("classification", ["data.augment.timm=rand-m9-mstd0.5-inc1"]),
    "either interpolation": ("classification", ["data.interpolation=random", "data.augment.area=[0.1,0.3]"]),
    "erasing": ("classification", ["data.augment.erasing=0.5"]),
    "mixup": ("classification", ["data.augment.mixup=0.2"]),
    "cutmix": ("classification", ["data.augment.cutmix=1.0"]),
    "mixup and cutmix": ("classification", ["data.augment.mixup=0.2", "data.augment.cutmix=1.0"]),
    "masks": ("segmentation", ["data.augment.scale=[0.5,2.0]", "data.augment.flip=0.5", "data.augment.hue=0.2"]),
    "boxes": ("detection", ["data.augment.area=[0.3,1.0]", "data.augment.vertical_flip=0.5", "data.augment.shift=4"]),
    "copy-paste": ("detection", ["data.augment.copy_paste=0.7"]),
    "multi-scale": ("detection", ["data.augment.sizes=[8,24,40]"]),
    "mosaic": ("detection", ["data.augment.mosaic=0.7", "data.augment.mosaic_mixup=0.5", "data.augment.flip=0.5"]),
    "mosaic of a canvas": (
        "detection",
        [
            *("data.augment.mosaic=0.5", "data.augment.mosaic_shift=0.1", "data.augment.mosaic_rotate=10"),
            *("data.augment.mosaic_shear=2", "data.augment.mosaic_mixup=0.5", "data.augment.mosaic_mixup_scale=[0.5,1.5]"),
            "data.augment.mosaic_single=true",
        ],
    ),
    "multi-scale, seldom": ("detection", ["data.augment.sizes=[8,24,40]", "data.augment.sizes_every=2"]),
    "short side": ("detection", ["data.fit=short_side", "data.augment.flip=0.5", "data.augment.sizes=[12,20]"]),
}
OF_BATCHES = (
    "mixup",
    "cutmix",
    "mixup and cutmix",
    "copy-paste",
    "multi-scale",
    "multi-scale, seldom",
)  # a sample alone is as it was


@pytest.mark.parametrize("case", CASES)
def test_an_augmentation_is_the_same_for_any_workers_and_ranks_and_after_a_resume(case: str) -> None:
    kind, overrides = CASES[case]
    config, dataset = recipe(*overrides), Noise(kind)
    alone = steps([loader(config, dataset)], 0, 4)  # an epoch of 21 samples ends within
    for world, workers in ((1, 3), (2, 1), (4, 0)):
        assert_same(steps([loader(config, dataset, rank, world, workers) for rank in range(world)], 0, 4), alone)
    assert_same(steps([loader(config, dataset)], 2, 4), alone[2:])
    device = torch.device("cpu")
    assert_same(steps([loader(config, dataset, workers=1, device=device)], 0, 4), alone)
    assert_same([loader(config, dataset).examples(3, Share(v, v + 1, 4))[0] for v in range(4)], alone[3])


@pytest.mark.parametrize("case", [name for name in CASES if name != "nothing"])
def test_an_augmentation_changes_something_and_differs_between_epochs(case: str) -> None:
    kind, overrides = CASES[case]
    dataset, plain, config = Noise(kind), recipe(), recipe(*overrides)
    (first, *_), (before, *_) = steps([loader(config, dataset)], 0, 6), steps([loader(plain, dataset)], 0, 6)
    pairs = [pair for a, b in zip(first, before, strict=True) for pair in zip(a["image"], b["image"], strict=True)]
    assert any(not torch.equal(image, plain) for image, plain in pairs)
    if case in OF_BATCHES:
        return
    seen = pipeline(config.data, dataset, "train")
    samples = Samples(dataset, seen, config.seed, mosaics(config, dataset, seen))
    images = [samples[Draw(epoch, 7)]["image"] for epoch in range(12)]
    assert len({image.numpy().tobytes() for image in images}) > 1


def test_images_of_full_size_are_the_same_in_a_loader_process_and_in_a_training_process_of_two_threads() -> None:
    class Large(Noise):
        def __getitem__(self, index: int) -> dict[str, Any]:
            image = torch.rand(3, 301, 403, generator=torch.Generator().manual_seed(index))
            return {"image": image, "target": index % 3}

    jitter = [f"data.augment.{name}=0.4" for name in ("brightness", "contrast", "saturation", "hue", "mixup")]
    config, dataset = recipe("data.image_size=224", "data.augment.area=[0.2,1.0]", *jitter), Large()
    threads = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        here = steps([loader(config, dataset, workers=0)], 0, 1)
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(threads)
    assert_same(steps([loader(config, dataset, workers=1)], 0, 1), here)


@pytest.mark.parametrize("split", ["train", "val"])
def test_the_digits_are_transformed_as_ever(split: Any) -> None:
    config = load([DIGITS], ["data.augment.flip=0.5"])
    dataset = open_split(config.data, split)
    steps = [v2.Resize([32, 32], antialias=True)]
    steps += [v2.RandomCrop(32, padding=3), v2.RandomHorizontalFlip(0.5)] if split == "train" else []
    former = v2.Compose([*steps, v2.Normalize([0.305], [0.376])])
    transform = pipeline(config.data, dataset, split)
    for i in range(20):
        torch.manual_seed(i)
        expected = former(dataset[i]["image"])
        torch.manual_seed(i)
        assert torch.equal(transform(dataset[i])["image"], expected)


def test_evaluation_fits_otherwise_than_training_where_it_is_asked_to() -> None:
    """ADE20K in mmsegmentation: crops in training; in evaluation each image in its own aspect."""
    config = recipe("task.name=segmentation", "data.interpolation=random", "evaluate.size=[24,48]", "evaluate.fit=short_side")
    seen = pipeline(config.data, Noise("segmentation"), "val", evaluate=config.evaluate)
    assert "image" in seen.ragged and config.sizes_vary
    for number, size in ((0, (24, 37)), (9, (29, 31))):
        sample = Noise("segmentation")[number]
        image = torch.zeros(3, *size, dtype=torch.uint8)
        made = seen(sample | {"image": image, "mask": torch.zeros(size, dtype=torch.uint8)})
        assert min(made["image"].shape[1:]) == 24 and tuple(made["size"].tolist()) == size
        assert seen.placement(size) == (0, 0, *made["image"].shape[1:])
    assert "image" not in pipeline(config.data, Noise("segmentation"), "train", evaluate=config.evaluate).ragged


def test_the_long_side_of_a_scaled_image_is_bounded() -> None:
    long = torch.zeros(3, 10, 100, dtype=torch.uint8)
    for longest, height in ((None, 16), (80, 8)):
        more = [] if longest is None else [f"data.augment.scale_longest={longest}"]
        config = recipe("data.augment.scale=[1.0,1.0]", "data.augment.scale_of=short_side", *more)
        seen = pipeline(config.data, Noise("segmentation"), "train")
        made = seen({"image": long, "mask": torch.zeros(10, 100, dtype=torch.uint8)})
        assert int((made["mask"] != config.data.ignore_index).any(dim=1).sum()) == height


def test_validation_draws_no_random_number() -> None:
    config = recipe("data.augment.flip=0.5", "data.augment.mixup=0.5")
    before = torch.random.get_rng_state()
    pipeline(config.data, Noise(), "val")(Noise()[0])
    pipeline(recipe().data, Noise(), "train")(Noise()[0])
    assert torch.equal(before, torch.random.get_rng_state())


def test_evaluation_fits_as_torchvision_s_presets_do() -> None:
    config = recipe("data.image_size=224", "data.fit=crop")
    preset = v2.Compose([v2.Resize(256), v2.CenterCrop(224), v2.ToDtype(torch.float32, scale=True)])
    for height, width in ((375, 500), (500, 333), (256, 256), (90, 701)):
        image = torch.randint(256, (3, height, width), dtype=torch.uint8)
        shown = pipeline(config.data, Noise(), "val")
        assert torch.allclose(shown.pixels(shown({"image": image})["image"]), preset(image), atol=1e-6)


@pytest.mark.parametrize(("height", "width"), [(20, 31), (31, 20), (7, 400), (1, 1), (16, 24)])
@pytest.mark.parametrize("fit", ["stretch", "crop", "pad"])
def test_every_image_fits(fit: str, height: int, width: int) -> None:
    config = recipe(f"data.fit={fit}")
    image = torch.randint(256, (3, height, width), dtype=torch.uint8)
    assert pipeline(config.data, Noise(), "val")({"image": image})["image"].shape == (3, 16, 24)
    top, left, placed_height, placed_width = placement(config.data, (height, width))
    if fit == "pad":
        assert top >= 0 and left >= 0 and top + placed_height <= 16 and left + placed_width <= 24
        assert placed_height == 16 or placed_width == 24
    else:
        assert top <= 0 and left <= 0 and top + placed_height >= 16 and left + placed_width >= 24


def test_what_is_padded_has_the_mean_colour_and_counts_for_nothing() -> None:
    config = recipe("data.augment.scale=[0.5,0.5]", "data.ignore_index=254")
    sample = {"image": torch.full((3, 32, 48), 255, dtype=torch.uint8), "mask": torch.ones(32, 48, dtype=torch.uint8)}
    seen = pipeline(config.data, Noise("segmentation"), "train")(sample)
    outside = seen["mask"] == 254
    assert outside.sum() == 16 * 24 - 8 * 12 and (seen["mask"][~outside] == 1).all()
    assert seen["image"][:, outside].abs().max() < 0.02 and seen["image"][:, ~outside].min() > 1


def test_what_is_padded_has_the_colour_and_the_place_that_are_asked_for() -> None:
    """As YOLOX pads: grey on the right and below, in training and in evaluation, and around a small random crop."""
    image = torch.full((3, 20, 12), 200, dtype=torch.uint8)
    bare = ["data.mean=[0,0,0]", "data.std=[0.00392156862745098,0.00392156862745098,0.00392156862745098]"]
    keys = ["data.fit=pad", "data.pad=right_below", "data.fill=[0.447,0.447,0.447]", *bare]
    for split, more in (("train", []), ("val", []), ("train", ["data.augment.scale=[0.5,0.5]"])):
        config = recipe("data.image_size=20", *keys, *more)
        made = pipeline(config.data, Noise("detection"), split)(  # type: ignore[arg-type]
            {"image": image, "boxes": torch.tensor([[0.0, 0, 12, 20]]), "labels": torch.tensor([1])}
        )
        height, width = (10, 6) if more else (20, 12)
        assert torch.allclose(made["image"][:, :height, :width], torch.tensor(200.0))
        assert torch.allclose(made["image"][:, height:], torch.tensor(114.0))
        assert torch.allclose(made["image"][:, :, width:], torch.tensor(114.0))
        assert made["boxes"].tolist() == ([[0, 0, 6, 10]] if more else [[0, 0, 12, 20]])
    assert pipeline(config.data, Noise("detection"), "val").placement((20, 12)) == (0, 0, 20, 12)
    with pytest.raises(UserError, match=r"data\.fill: 2 numbers"):
        pipeline(recipe("data.fill=[0.5,0.5]").data, Noise(), "train")


def test_images_are_resized_without_antialiasing_where_that_is_asked_for() -> None:
    image = torch.randint(256, (3, 60, 90), dtype=torch.uint8)
    for more in ([], ["data.augment.area=[1.0,1.0]", "data.augment.aspect=[1.5,1.5]"], ["data.augment.scale=[1.0,1.0]"]):
        config = recipe("data.antialias=false", *more)
        seen = pipeline(config.data, Noise(), "train")
        plain = torch.nn.functional.interpolate(image[None].float(), (16, 24), mode="bilinear", align_corners=False)[0]
        assert (seen.pixels(seen({"image": image})["image"]) * 255 - plain).abs().max() <= 1.01


def test_small_objects_and_many_are_left_out_as_yolox_does() -> None:
    config = recipe("data.augment.smallest_object=4", "data.augment.most_objects=2", "data.fit=pad")
    seen = pipeline(config.data, Noise("detection"), "train")
    sides = torch.tensor([3.0, 9.0, 4.0, 5.0, 8.0])
    boxes = torch.stack([torch.zeros(5), torch.zeros(5), sides, torch.full((5,), 10.0)], dim=1)
    sample = {"image": torch.zeros(3, 16, 24, dtype=torch.uint8), "boxes": boxes, "labels": torch.arange(5)}
    assert seen(sample)["labels"].tolist() == [1, 3]
    small = sample | {"boxes": boxes[[0, 2]], "labels": torch.tensor([0, 2])}
    assert seen(small)["labels"].tolist() == [0, 2]  # all are so small
    more = ["data.augment.flip=1", "data.augment.brightness=0.5", "data.augment.smallest_object=4", "data.fit=pad"]
    changing, image = (
        pipeline(recipe(*more).data, Noise("detection"), "train"),
        torch.randint(200, (3, 16, 24), dtype=torch.uint8),
    )
    plain = pipeline(recipe("data.fit=pad").data, Noise("detection"), "train")(small | {"image": image})
    assert torch.equal(changing(small | {"image": image})["image"], plain["image"])  # and then the image is as it was
    assert not torch.equal(changing(sample | {"image": image})["image"], plain["image"])
    assert seen(sample | {"boxes": boxes[:0], "labels": torch.arange(0)})["labels"].tolist() == []


@pytest.mark.parametrize("how", ["bilinear", "bicubic"])
def test_policies_rotate_as_torchvision_s_presets_do(how: str) -> None:
    image = Noise()[3]["image"]
    config = recipe("data.augment.trivialaugment=true", f"data.augment.policy_interpolation={how}")
    seen = pipeline(config.data, Noise(), "train")
    policy = v2.TrivialAugmentWide(interpolation=v2.InterpolationMode(how))
    for seed in range(20):
        torch.manual_seed(seed)
        made = seen({"image": image})["image"]
        torch.manual_seed(seed)
        resized = v2.functional.resize(image, [16, 24])
        if how == "bilinear":
            expected = policy(resized)
        else:  # which torchvision has for images of Pillow alone
            expected = v2.functional.pil_to_tensor(policy(v2.functional.to_pil_image(resized)))
        assert torch.allclose(seen.pixels(made), expected.float() / 255, atol=1e-6)


@pytest.mark.parametrize("turned", [[], ["data.augment.rotate=40", "data.augment.shear=10"]])
def test_masks_and_boxes_stay_on_what_they_mark(turned: list[str]) -> None:
    overrides = ["data.augment.area=[0.2,1.0]", "data.augment.flip=0.5", "data.augment.vertical_flip=0.5", *turned]
    config = recipe("data.image_size=64", *overrides, "data.augment.shift=6")
    image = torch.zeros(3, 80, 100, dtype=torch.uint8)
    image[:, 30:60, 20:50] = 255
    marked = image[0] == 255
    masks = torch.stack([marked, torch.zeros_like(marked)])
    boxes = torch.tensor([[20.0, 30, 50, 60], [0, 0, 0.5, 80]])
    sample = {"image": image, "boxes": boxes, "labels": torch.tensor([2, 1]), "masks": masks, "mask": marked.long()}
    transform = pipeline(config.data, Noise("detection"), "train")
    shown = 0
    for seed in range(40):
        torch.manual_seed(seed)
        seen = transform(sample)
        bright = transform.pixels(seen["image"])[0] > 0.7  # what a turn leaves open has the mean colour
        agreeing = (bright == (seen["mask"] == 1)).float().mean()
        assert agreeing > 0.97, seed
        assert len(seen["boxes"]) == len(seen["labels"]) == len(seen["masks"])
        for box, label, mask in zip(seen["boxes"], seen["labels"], seen["masks"], strict=True):
            if label != 2:
                continue
            shown += 1
            assert torch.equal(mask, seen["mask"] == 1)
            rows, columns = mask.nonzero(as_tuple=True)
            around = torch.stack([columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]).float()
            assert (around - box).abs().max() <= 1, seed
    assert shown > 20


def test_a_box_without_a_mask_lies_around_its_turned_corners() -> None:
    config = recipe("data.image_size=64", "data.augment.rotate=180")
    sample = {"image": torch.zeros(3, 64, 64, dtype=torch.uint8), "boxes": torch.tensor([[22.0, 27, 42, 37]])}
    transform = pipeline(config.data, Noise("detection"), "train")
    for seed in range(20):
        torch.manual_seed(seed)
        ((left, top, right, bottom),) = transform(sample | {"labels": torch.tensor([0])})["boxes"].tolist()
        assert (left + right) / 2 == pytest.approx(32, abs=0.6) and (top + bottom) / 2 == pytest.approx(32, abs=0.6)
        # The sides of a turned rectangle's box: w |cos| + h |sin|, w |sin| + h |cos|; so both together are between these.
        assert 30 - 0.1 <= right - left + bottom - top <= 30 * 2**0.5 + 0.1


def test_while_validating_masks_and_boxes_keep_their_size() -> None:
    config = recipe()
    for kind, names in (("segmentation", ["mask"]), ("detection", ["boxes", "labels", "masks"])):
        dataset = Noise(kind)
        samples = Samples(dataset, pipeline(config.data, dataset, "val"), config.seed)
        for _, batch in EvaluationLoader(samples, len(dataset), 4, 0, 1, workers=1):
            assert batch["image"].shape[1:] == (3, 16, 24) and batch["size"].shape == (len(batch["id"]), 2)
            for place, number in enumerate(batch["id"].tolist()):
                assert batch["size"][place].tolist() == list(dataset[number]["image"].shape[1:])
                for name in names:
                    assert isinstance(batch[name], list)
                    assert torch.equal(batch[name][place], dataset[number][name].to(batch[name][place].dtype))


def test_sixteen_bits_keep_their_depth() -> None:
    image = torch.arange(16 * 24, dtype=torch.int32).mul(150).reshape(1, 16, 24).to(torch.uint16)
    shown = pipeline(recipe("data.augment.flip=1").data, Noise(channels=1), "train")
    seen = shown.pixels(shown({"image": image})["image"])
    assert torch.allclose(seen.flip(-1) * 65535, image.float(), atol=0.1)


def test_statistics_come_from_the_recipe_else_the_weights_else_the_dataset() -> None:
    weights = ((0.1, 0.2, 0.3), (0.4, 0.5, 0.6))
    given = recipe("data.mean=[0.7,0.8,0.9]", "data.std=[1,1,1]")
    assert pipeline(recipe().data, Noise(), "val").mean == Noise.mean
    assert pipeline(recipe().data, Noise(), "val", weights).std == weights[1]
    assert pipeline(given.data, Noise(), "val", weights).mean == (0.7, 0.8, 0.9)


@pytest.mark.parametrize(
    ("kind", "channels", "override", "named"),
    [
        ("segmentation", 3, "data.augment.randaugment=2", "data.augment.randaugment is for classification"),
        ("detection", 3, "data.augment.erasing=0.1", "data.augment.erasing is for classification"),
        ("segmentation", 3, "data.fit=crop", "data.fit=crop would cut off"),
        ("segmentation", 3, "data.augment.cutmix=1", "data.augment.cutmix mixes image classes"),
        ("segmentation", 3, "data.fit=short_side", "images of several sizes, which segmentation does not take"),
        ("detection", 3, "data.augment.copy_paste=0.5", "cuts objects out by their masks, which this data does not have"),
        ("segmentation", 3, "data.augment.mosaic=1", "data.augment.mosaic is for detection"),
        ("segmentation", 3, "data.augment.sizes=[16]", "data.augment.sizes is for detection"),
        ("classification", 2, "data.augment.hue=0.1", "of 1 or 3 channels, and these have 2"),
        ("classification", 1, "data.mean=[0.1,0.2,0.3]", "3 numbers .* have 1 channels"),
    ],
)
def test_what_does_not_go_together_is_refused(kind: str, channels: int, override: str, named: str) -> None:
    more = ["data.std=[1,1,1]"] if "mean" in override else []
    with pytest.raises(UserError, match=named):
        loader(recipe(override, *more), Noise(kind, channels, with_masks=False))


def test_mixing_needs_two_samples() -> None:
    with pytest.raises(UserError, match="mixes samples of a micro-batch"):
        loader(recipe("data.augment.mixup=1", "train.micro_batch=1"), Noise())
