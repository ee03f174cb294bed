"""Four images as one: each pixel and each box is where its image was put."""

import torch
from torch import Tensor

from phalanx.data.transforms.fit import Fill
from phalanx.data.transforms.mosaic import mosaic
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


PARTS = [_part(1, 40, 60), _part(2, 32, 32), _part(3, 80, 40), _part(4, 48, 64)]


def test_boxes_and_masks_lie_on_their_objects() -> None:
    for seed in range(20):
        torch.manual_seed(seed)
        made = mosaic(PARTS, SIZE, (0.5, 1.5), FILL)
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
    made = mosaic(PARTS, SIZE, (0.25, 0.25), FILL)
    ground = torch.tensor([128, 64, 191], dtype=torch.uint8).view(3, 1, 1)
    assert (made["image"] == ground).all(dim=0).float().mean() > 0.5
    assert len(made["labels"]) == len(set(made["labels"].tolist()))


def test_a_box_that_is_hardly_there_is_left_out_and_the_same_seed_gives_the_same_picture() -> None:
    counts = set()
    for seed in range(20):
        pictures = []
        for _ in range(2):
            torch.manual_seed(seed)
            pictures.append(mosaic(PARTS, SIZE, (1.5, 1.5), FILL))
        assert torch.equal(pictures[0]["image"], pictures[1]["image"])
        assert torch.equal(pictures[0]["boxes"], pictures[1]["boxes"])
        sides = pictures[0]["boxes"][:, 2:] - pictures[0]["boxes"][:, :2]
        assert not len(sides) or sides.min() >= 2
        counts.add(len(sides))
    assert len(counts) > 1


def test_images_without_boxes_have_their_place_too() -> None:
    torch.manual_seed(1)
    empty = {"image": PARTS[0]["image"], "boxes": torch.zeros(0, 4), "labels": torch.zeros(0, dtype=torch.int64)}
    made = mosaic([empty] * 4, SIZE, (1.0, 1.0), FILL)
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
