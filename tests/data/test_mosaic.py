"""Four images as one: each pixel and each box is where its image was put."""

from collections.abc import Sequence

import torch
from torch import Tensor

from phalanx.configs.sections.data import AugmentConfig
from phalanx.data.transforms.fit import Fill
from phalanx.data.transforms.mosaic import Sample, beside, mosaic, moved_alone
from phalanx.data.transforms.mosaic_canvas import draw_canvas, draw_single
from tests.data.examples import Noise, loader, recipe

SIZE = (48, 64)
FILL = Fill((0.5, 0.25, 0.75), 255)


def _part(number: int, height: int, width: int) -> dict[str, Tensor]:
    """An image of one colour with a brighter rectangle, which has a box and a mask."""
    image = torch.full((3, height, width), 20 * number, dtype=torch.uint8)
    top, left, bottom, right = height // 4, width // 4, 3 * height // 4, 3 * width // 4
    image[:, top:bottom, left:right] = 20 * number + 120
    masks = torch.zeros(1, height, width, dtype=torch.bool)
    masks[0, top:bottom, left:right] = True
    box = torch.tensor([[left, top, right, bottom]], dtype=torch.float32)
    return {"image": image, "boxes": box, "labels": torch.tensor([number]), "masks": masks}


def _made(parts: Sequence[dict[str, Tensor]], scale: tuple[float, float], **more: float) -> Sample:
    return mosaic(parts, draw_canvas(SIZE, AugmentConfig(mosaic_scale=scale, **more)), FILL)


PARTS = [_part(1, 40, 60), _part(2, 32, 32), _part(3, 80, 40), _part(4, 48, 64)]
UNMASKED = [{name: value for name, value in part.items() if name != "masks"} for part in PARTS]


def test_boxes_and_masks_lie_on_their_objects() -> None:
    for seed in range(20):
        torch.manual_seed(seed)
        made = _made(PARTS, (0.5, 1.5))
        assert made["image"].shape == (3, *SIZE) and made["image"].dtype == torch.uint8
        assert made["masks"].shape == (len(made["boxes"]), *SIZE) and len(made["labels"]) == len(made["boxes"]) > 0
        for box, label, mask in zip(made["boxes"], made["labels"].tolist(), made["masks"], strict=True):
            left, top, right, bottom = (round(value) for value in box.tolist())
            assert 0 <= left < right <= SIZE[1] and 0 <= top < bottom <= SIZE[0]
            within = made["image"][0, top + 2 : bottom - 2, left + 2 : right - 2]
            assert (within.int() - (20 * label + 120)).abs().max() <= 1 if within.numel() else True
            rows, columns = mask.any(1).nonzero(), mask.any(0).nonzero()
            edges = torch.tensor([columns.min(), rows.min(), columns.max() + 1, rows.max() + 1])
            assert (edges - box).abs().max() <= 1.01


def test_at_a_scale_of_one_half_the_ground_is_seen_and_nothing_is_twice_there() -> None:
    torch.manual_seed(0)
    made = _made(PARTS, (0.25, 0.25))
    ground = torch.tensor([128, 64, 191], dtype=torch.uint8).view(3, 1, 1)
    assert (made["image"] == ground).all(dim=0).float().mean() > 0.5
    assert len(made["labels"]) == len(set(made["labels"].tolist()))


def test_a_box_that_is_hardly_there_is_left_out_and_the_same_seed_gives_the_same_picture() -> None:
    counts = set()
    for seed in range(20):
        pictures = []
        for _ in range(2):
            torch.manual_seed(seed)
            pictures.append(_made(PARTS, (1.5, 1.5)))
        assert torch.equal(pictures[0]["image"], pictures[1]["image"])
        assert torch.equal(pictures[0]["boxes"], pictures[1]["boxes"])
        sides = pictures[0]["boxes"][:, 2:] - pictures[0]["boxes"][:, :2]
        assert not len(sides) or sides.min() >= 2
        counts.add(len(sides))
    assert len(counts) > 1


def test_images_without_boxes_have_their_place_too() -> None:
    torch.manual_seed(1)
    empty = {"image": PARTS[0]["image"], "boxes": torch.zeros(0, 4), "labels": torch.zeros(0, dtype=torch.int64)}
    made = _made([empty] * 4, (1.0, 1.0))
    assert made["boxes"].shape == (0, 4) and made["labels"].shape == (0,) and "masks" not in made


def test_the_ledger_s_line_tells_which_samples_are_in_a_mosaic_and_they_end_with_their_epochs() -> None:
    config = recipe("data.augment.mosaic=0.8", "data.augment.mosaic_mixup=0.5", "data.augment.mosaic_epochs=1")
    dataset = Noise("detection")
    lengths = set()
    for batch in loader(config, dataset).from_step(0, 4):
        assert batch.others is not None and len(batch.others) == len(batch.ids) == 16
        epochs = [epoch for micro_batch in batch.micro_batches for epoch in micro_batch["epoch"].tolist()]
        for epoch, others in zip(epochs, batch.others, strict=True):
            assert len(others) in ((0, 3, 7) if epoch == 0 else (0,)) and all(0 <= number < 21 for number in others)
            lengths.add(len(others))
    assert lengths == {0, 3, 7}
    (plain,) = loader(recipe(), dataset).from_step(0, 1)
    assert plain.others is None


def test_what_a_rotation_brings_into_the_result_is_made_too() -> None:
    """A plain mosaic of large images has no corner that is filled, however its canvas is turned."""
    plain = [
        {"image": torch.full((3, 64, 64), 10, dtype=torch.uint8), "boxes": torch.zeros(0, 4), "labels": torch.zeros(0)}
    ] * 4
    for seed in range(20):
        torch.manual_seed(seed)
        made = _made(plain, (8.0, 8.0), mosaic_rotate=180, mosaic_shear=30)
        assert (made["image"] == 10).all()


def test_turned_boxes_lie_around_their_turned_objects() -> None:
    found = 0
    for seed in range(40):
        torch.manual_seed(seed)
        made = _made(PARTS, (0.5, 1.5), mosaic_rotate=30, mosaic_shear=10, mosaic_shift=0.1)
        for box, label, mask in zip(made["boxes"], made["labels"].tolist(), made["masks"], strict=True):
            rows, columns = mask.any(1).nonzero(), mask.any(0).nonzero()
            edges = torch.tensor([columns.min(), rows.min(), columns.max() + 1, rows.max() + 1])
            assert torch.equal(edges.float(), box)
            inner = torch.nn.functional.avg_pool2d(mask.float()[None], 5, 1, 2)[0] == 1  # away from an object's edge
            assert (made["image"][0][inner].int() - (20 * label + 120)).abs().max() <= 2 if inner.any() else True
            found += int(inner.any())
        torch.manual_seed(seed)
        wider = _made(UNMASKED, (0.5, 1.5), mosaic_rotate=30, mosaic_shear=10, mosaic_shift=0.1)
        for box, label in zip(made["boxes"], made["labels"], strict=True):
            (around,) = wider["boxes"][wider["labels"] == label]  # it is around the turned corners
            assert (around[:2] <= box[:2] + 1).all() and (around[2:] >= box[2:] - 1).all()
    assert found > 20


def test_an_image_alone_lies_in_the_middle_of_its_canvas() -> None:
    torch.manual_seed(0)
    height, width = SIZE
    part = PARTS[3]  # of the aspect of the result
    made = moved_alone(part, draw_canvas(SIZE, AugmentConfig(mosaic_scale=(0.5, 0.5), mosaic_shift=0.0)), FILL)
    assert (made["image"][:, height // 4 : -height // 4, width // 4 : -width // 4] >= 70).all()
    assert made["boxes"].tolist() == [[width / 2 - 8, height / 2 - 6, width / 2 + 8, height / 2 + 6]]
    ground = torch.tensor([128, 64, 191], dtype=torch.uint8).view(3, 1, 1)
    assert (made["image"][:, : height // 4] == ground).all() and (made["image"][:, :, -width // 4 :] == ground).all()


def test_the_image_that_a_mosaic_is_blended_with_is_a_part_of_a_larger_one_or_in_the_corner() -> None:
    mirrored = set()
    for seed in range(20):
        torch.manual_seed(seed)
        made = beside(PARTS[1], draw_single(SIZE, AugmentConfig(), (0.5, 1.5)), FILL)
        for box, mask in zip(made["boxes"], made["masks"], strict=True):
            rows, columns = mask.any(1).nonzero(), mask.any(0).nonzero()
            edges = torch.tensor([columns.min(), rows.min(), columns.max() + 1, rows.max() + 1])
            assert (edges - box).abs().max() <= 1.01
        torch.manual_seed(seed)
        odd = {**PARTS[1], "boxes": torch.tensor([[0.0, 0.0, 8.0, 32.0]]), "masks": torch.ones(1, 32, 32, dtype=torch.bool)}
        (box,) = beside(odd, draw_single((64, 64), AugmentConfig(), (0.5, 0.5)), FILL)["boxes"].tolist()
        mirrored.add(box[0])
        assert box in ([0.0, 0.0, 8.0, 32.0], [24.0, 0.0, 32.0, 32.0])
    assert mirrored == {0.0, 24.0}


def test_a_canvas_of_twice_the_size_ends_where_it_ends() -> None:
    """At a quarter of the scale it is half as high and wide as the result, and stays in its middle if it is not moved."""
    ground, meets = torch.tensor([128, 64, 191], dtype=torch.uint8).view(3, 1, 1), set()
    height, width = SIZE
    for seed in range(20):
        torch.manual_seed(seed)
        made = _made(PARTS, (0.25, 0.25), mosaic_shift=0.0)
        there = (made["image"] != ground).any(dim=0)
        assert there.any() and not there[: height // 4].any() and not there[-height // 4 :].any()
        assert not there[:, : width // 4].any() and not there[:, -width // 4 :].any()
        torch.manual_seed(seed)
        canvas = draw_canvas(SIZE, AugmentConfig(mosaic_scale=(0.25, 0.25), mosaic_shift=0.1))
        assert all(0.5 - 0.125 - 0.1 <= at / side <= 0.5 + 0.125 + 0.1 for at, side in zip(canvas.centre, SIZE, strict=True))
        meets.add(canvas.centre)
    assert len(meets) > 10


def test_boxes_are_dropped_by_the_share_that_is_seen_and_by_their_aspect() -> None:
    half = {
        **UNMASKED[3],
        "boxes": torch.tensor([[-8.0, 0.0, 8.0, 48.0], [0.0, 0.0, 64.0, 8.0]]),
        "labels": torch.tensor([1, 2]),
    }
    canvas = draw_single(SIZE, AugmentConfig(), (1.0, 1.0))
    for visible, longest, kept in ((0.1, None, [1, 2]), (0.6, None, [2]), (0.1, 7.0, [1]), (0.6, 7.0, [])):
        torch.manual_seed(3)  # not mirrored
        made = beside(half, canvas._replace(visible=visible, longest=longest), FILL)
        assert made["labels"].tolist() == kept
