"""Four images as one: each pixel and each box is where its image was put."""

from collections.abc import Sequence
from typing import Any

import numpy
import pytest
import torch
from torch import Tensor

from phalanx.configs.errors import UserError
from phalanx.configs.sections.data import AugmentConfig
from phalanx.data.transforms.fit import Fill
from phalanx.data.transforms.mosaic import Composer, Sample, VisibleBoxes, Warped
from phalanx.data.transforms.mosaic_canvas import Warp, draw_point, draw_warp
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
    return _composer(mosaic_scale=scale, **more).mosaic(parts)


def _composer(size: tuple[int, int] = SIZE, **augment: Any) -> Composer:
    return Composer(recipe().data.model_copy(update={"image_size": size, "augment": AugmentConfig(**augment)}), FILL)


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


def test_a_warp_is_the_product_that_yolov5_and_yolox_define() -> None:
    """Moved by T, sheared by S, rotated and scaled by R, about the canvas's centre by C; pixel by pixel, bilinearly."""
    augment = AugmentConfig(mosaic_scale=(0.5, 1.5), mosaic_rotate=30, mosaic_shear=20, mosaic_shift=0.2)
    canvas = (2 * SIZE[0], 2 * SIZE[1])
    ground = torch.randint(0, 256, (3, *canvas), dtype=torch.uint8)
    for seed in range(5):
        torch.manual_seed(seed)
        warp = draw_warp(SIZE, canvas, augment)
        torch.manual_seed(seed)
        uniform = [
            float(torch.empty(()).uniform_(*ends))
            for ends in ((-30, 30), (0.5, 1.5), (-20, 20), (-20, 20), (-0.2, 0.2), (-0.2, 0.2))
        ]
        (angle, scale, along_x, along_y), (down, right) = uniform[:4], uniform[4:]
        cosine, sine = scale * numpy.cos(numpy.radians(angle)), scale * numpy.sin(numpy.radians(angle))
        centred = numpy.array([[1, 0, -canvas[1] / 2], [0, 1, -canvas[0] / 2], [0, 0, 1]])
        rotated = numpy.array([[cosine, sine, 0], [-sine, cosine, 0], [0, 0, 1]])
        sheared = numpy.array([[1, numpy.tan(numpy.radians(along_x)), 0], [numpy.tan(numpy.radians(along_y)), 1, 0], [0, 0, 1]])
        moved = numpy.array([[1, 0, (0.5 + right) * SIZE[1]], [0, 1, (0.5 + down) * SIZE[0]], [0, 0, 1]])
        matrix = moved @ sheared @ rotated @ centred
        corners = matrix @ numpy.array([[10, 40, 10, 40], [20, 20, 50, 50], [1, 1, 1, 1]])
        around = [corners[0].min(), corners[1].min(), corners[0].max(), corners[1].max()]
        assert torch.allclose(
            warp.boxes(torch.tensor([[10.0, 20, 40, 50]])), torch.tensor([around], dtype=torch.float32), atol=1e-3
        )
        seen, inverse = warp.image(ground, FILL), numpy.linalg.inv(matrix)
        masks = warp.masks(torch.stack([ground[0] > 128]))
        for row, column in ((0, 0), (5, 60), (24, 32), (47, 63), (40, 3)):
            x, y, _ = inverse @ [column + 0.5, row + 0.5, 1]
            expected = _bilinear(ground[0].numpy(), y - 0.5, x - 0.5, 128)
            assert abs(int(seen[0, row, column]) - expected) <= 1
            there = 0 <= y < canvas[0] and 0 <= x < canvas[1]
            assert bool(masks[0, row, column]) == (there and bool(ground[0, int(y), int(x)] > 128))


def _bilinear(image: Any, row: float, column: float, outside: int) -> float:
    top, left = int(numpy.floor(row)), int(numpy.floor(column))
    total = 0.0
    for y in (top, top + 1):
        for x in (left, left + 1):
            inside = 0 <= y < image.shape[0] and 0 <= x < image.shape[1]
            total += (1 - abs(row - y)) * (1 - abs(column - x)) * (float(image[y, x]) if inside else outside)
    return total


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
    made = _composer(mosaic_scale=(0.5, 0.5), mosaic_shift=0.0).alone(PARTS[3])  # of the aspect of the result
    assert (made["image"][:, height // 4 : -height // 4, width // 4 : -width // 4] >= 70).all()
    assert made["boxes"].tolist() == [[width / 2 - 8, height / 2 - 6, width / 2 + 8, height / 2 + 6]]
    ground = torch.tensor([128, 64, 191], dtype=torch.uint8).view(3, 1, 1)
    assert (made["image"][:, : height // 4] == ground).all() and (made["image"][:, :, -width // 4 :] == ground).all()


def test_the_image_that_a_mosaic_is_blended_with_is_padded_as_yolox_pads_it() -> None:
    """A letterboxed image, its padding on the right and below, mirrored with it; black beyond where it is smaller."""
    square = (64, 64)
    wide = {name: value for name, value in _part(1, 32, 64).items() if name != "masks"}
    colour = torch.tensor([128, 64, 191], dtype=torch.uint8).view(3, 1, 1)
    places = set()
    for seed in range(20):
        torch.manual_seed(seed)
        made = _composer(square).beside(wide, (0.5, 0.5))
        assert (made["image"][:, :16, :32] != 0).all() and (made["image"][:, 16:32, :32] == colour).all()
        assert not made["image"][:, 32:].any() and not made["image"][:, :, 32:].any()
        torch.manual_seed(seed)
        tall = {**_part(1, 64, 32), "boxes": torch.tensor([[0.0, 0.0, 16.0, 64.0]])}
        (box,) = _composer(square).beside(tall, (0.5, 0.5))["boxes"].tolist()
        places.add(tuple(box))
        torch.manual_seed(seed)
        larger = _composer(square).beside(PARTS[1], (1.5, 1.5))
        for box, mask in zip(larger["boxes"], larger["masks"], strict=True):
            rows, columns = mask.any(1).nonzero(), mask.any(0).nonzero()
            edges = torch.tensor([columns.min(), rows.min(), columns.max() + 1, rows.max() + 1])
            assert (edges - box).abs().max() <= 1.01
    assert places == {(0.0, 0.0, 8.0, 32.0), (24.0, 0.0, 32.0, 32.0)}


def test_a_canvas_of_twice_the_size_ends_where_it_ends() -> None:
    """At a quarter of the scale it is half as high and wide as the result, and stays in its middle if it is not moved."""
    ground, points = torch.tensor([128, 64, 191], dtype=torch.uint8).view(3, 1, 1), set()
    height, width = SIZE
    for seed in range(20):
        torch.manual_seed(seed)
        made = _made(PARTS, (0.25, 0.25), mosaic_shift=0.0)
        there = (made["image"] != ground).any(dim=0)
        assert there.any() and not there[: height // 4].any() and not there[-height // 4 :].any()
        assert not there[:, : width // 4].any() and not there[:, -width // 4 :].any()
        points.add(draw_point(SIZE))
    assert len(points) > 10 and all(
        height / 2 <= row <= 1.5 * height and width / 2 <= column <= 1.5 * width for row, column in points
    )


def test_boxes_are_dropped_by_the_share_that_is_seen_and_by_their_aspect() -> None:
    half, flat = [-8.0, 0.0, 8.0, 48.0], [0.0, 0.0, 64.0, 8.0]
    still = Warped(Warp(SIZE, SIZE, (1.0, 0.0, 0.0, 1.0), (SIZE[0] / 2, SIZE[1] / 2), 1.0))
    boxes = torch.tensor([half, flat])
    inside = torch.tensor([[0.0, 0.0, 8.0, 48.0], flat])
    seen, areas = still.boxes(boxes)
    assert torch.equal(seen, inside) and areas.tolist() == [8 * 48, 64 * 8]  # what is beyond the canvas does not count
    for visible, longest, kept in ((0.1, None, [True, True]), (0.6, None, [False, True]), (0.1, 7.0, [True, False])):
        assert VisibleBoxes(visible, longest).of(inside, torch.tensor([16.0 * 48, 64 * 8])).tolist() == kept
    assert VisibleBoxes(smallest=8.5).of(inside, areas).tolist() == [False, False]


def test_a_mosaic_without_objects_is_not_blended_and_what_needs_a_canvas_says_so() -> None:
    dataset, mixed = (
        Noise("detection"),
        ["data.augment.mosaic=1", "data.augment.mosaic_mixup=1", "data.augment.mosaic_shift=0.1"],
    )
    for batch in loader(recipe(*mixed, "data.augment.mosaic_mixup_scale=[0.5,1.5]"), dataset).from_step(0, 2):
        objects = [len(boxes) for micro_batch in batch.micro_batches for boxes in micro_batch["boxes"]]
        assert batch.others is not None and all(len(others) in (3, 4) for others in batch.others)
        assert all(len(others) == 3 for others, count in zip(batch.others, objects, strict=True) if not count)
    with pytest.raises(
        UserError, match=r"data\.augment\.mosaic_rotate is for a canvas of twice the size.* Set data\.augment\.mosaic_shift=0"
    ):
        loader(recipe("data.augment.mosaic=1", "data.augment.mosaic_rotate=5"), dataset)
