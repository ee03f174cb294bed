"""Objects of one image upon another, and images of another size at every step."""

from typing import Any

import torch

from phalanx.data.transforms.copy_paste import CopyPaste
from phalanx.data.transforms.multi_scale import MultiScale


def _batch() -> dict[str, Any]:
    """Two images of one colour each, with two rectangles: of 0 left and right, of 1 above and below."""
    image = torch.stack([torch.full((3, 12, 12), 1.0), torch.full((3, 12, 12), 2.0)])
    boxes = [torch.tensor([[0.0, 0, 4, 12], [8, 0, 12, 12]]), torch.tensor([[0.0, 0, 12, 4], [0, 8, 12, 12]])]
    masks = [torch.zeros(2, 12, 12, dtype=torch.bool) for _ in range(2)]
    masks[0][0, :, :4] = masks[0][1, :, 8:] = masks[1][0, :4] = masks[1][1, 8:] = True
    labels = [torch.tensor([0, 1]), torch.tensor([2, 3])]
    return {"image": image, "boxes": boxes, "masks": masks, "labels": labels, "id": torch.tensor([5, 6])}


def test_pasted_objects_cover_those_that_were_there_and_masks_and_boxes_follow() -> None:
    taken_both = False
    for step in range(40):
        pasted = CopyPaste(1.0, seed=1)(step, _batch())
        for place, foreign in ((0, 2.0), (1, 1.0)):
            image, masks, boxes = (pasted[name][place] for name in ("image", "masks", "boxes"))
            labels = pasted["labels"][place].tolist()
            others = [number for number, label in enumerate(labels) if (label >= 2) == (place == 0)]
            over = masks[others].any(dim=0) if others else torch.zeros(12, 12, dtype=torch.bool)
            assert torch.equal(image[0] == foreign, over)  # what is pasted is seen, and nothing else of the other image
            assert int(masks.sum(dim=0).max()) <= 1 + len(others)
            for mask, box in zip(masks, boxes.tolist(), strict=True):
                rows, columns = mask.any(1).nonzero(), mask.any(0).nonzero()
                edges = [int(columns.min()), int(rows.min()), int(columns.max()) + 1, int(rows.max()) + 1]
                assert box == edges
            taken_both = taken_both or len(others) == 2
            own = [number for number in range(len(labels)) if number not in others]
            assert all(not (masks[number] & over).any() for number in own)
    assert taken_both


def test_an_object_that_is_covered_wholly_is_left_out() -> None:
    batch = _batch()
    batch["masks"][1] = torch.ones(1, 12, 12, dtype=torch.bool)
    batch["boxes"][1], batch["labels"][1] = torch.tensor([[0.0, 0, 12, 12]]), torch.tensor([7])
    found = [CopyPaste(1.0, seed=2)(step, batch)["labels"][0].tolist() for step in range(20)]
    assert [0, 1] in found and [7] in found and all(labels in ([0, 1], [7]) for labels in found)


def test_the_size_of_a_step_follows_from_seed_and_step_and_boxes_and_masks_from_the_image() -> None:
    scales = MultiScale([6, 12, 24], short_side=12, seed=3)
    sizes = [scales.size(step) for step in range(30)]
    assert set(sizes) == {6, 12, 24} and sizes == [MultiScale([6, 12, 24], 12, 3).size(step) for step in range(30)]
    for step in (sizes.index(6), sizes.index(24)):
        changed, side = scales(step, _batch()), sizes[step]
        assert changed["image"].shape == (2, 3, side, side) and changed["masks"][0].shape == (2, side, side)
        assert torch.equal(changed["boxes"][0], _batch()["boxes"][0] * side / 12)
        for mask, (left, top, right, bottom) in zip(changed["masks"][1], changed["boxes"][1].int().tolist(), strict=True):
            assert mask[top:bottom, left:right].all() and int(mask.sum()) == (bottom - top) * (right - left)
