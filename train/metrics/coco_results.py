"""Detections in COCO's results format (cocodataset.org/#format-results), which pycocotools' `COCO.loadRes` reads."""

import importlib.util
from collections.abc import Mapping, Sequence
from typing import Any

import numpy
from torch import Tensor

from phalanx.configs.errors import UserError


def results(prediction: Mapping[str, Tensor], image_id: int | str, category_ids: Sequence[int | str]) -> list[dict[str, Any]]:
    """One entry per detection: `image_id`, `category_id`, `bbox` (left, top, width, height), `score`; `segmentation`.

    Args:
        prediction: `boxes` [k, 4], `scores` [k], `labels` [k], and optionally `masks` bool [k, H, W], all in the image's size.
        image_id: the dataset's.
        category_ids: the dataset's, of each class.

    Raises:
        UserError: if there are masks and pycocotools is not installed.
    """
    corners = prediction["boxes"].double().tolist()
    found = [
        {
            "image_id": image_id,
            "category_id": category_ids[label],
            "bbox": [left, top, right - left, bottom - top],
            "score": score,
        }
        for label, score, (left, top, right, bottom) in zip(
            prediction["labels"].tolist(), prediction["scores"].tolist(), corners, strict=True
        )
    ]
    if "masks" not in prediction:
        return found
    return [one | {"segmentation": lengths} for one, lengths in zip(found, run_lengths(prediction["masks"]), strict=True)]


def run_lengths(masks: Tensor) -> list[dict[str, Any]]:
    """COCO's compressed run lengths of masks: `size`, height and width, and `counts`, as JSON values.

    Shape: bool [k, H, W].

    Raises:
        UserError: if pycocotools is not installed.
    """
    if importlib.util.find_spec("pycocotools") is None:
        raise UserError(
            "masks are written by the package pycocotools, which is not installed. Install it: pip install pycocotools."
        )
    from pycocotools.mask import encode

    if not len(masks):
        return []
    by_columns = numpy.asfortranarray(masks.cpu().numpy().astype(numpy.uint8).transpose(1, 2, 0))  # [H, W, k]
    return [{"size": list(one["size"]), "counts": one["counts"].decode("ascii")} for one in encode(by_columns)]
