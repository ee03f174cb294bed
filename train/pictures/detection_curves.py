"""Pictures of an evaluation of detections: precision-recall curves, and the confusion matrix."""

from collections.abc import Mapping, Sequence

from PIL.Image import Image
from torch import Tensor

from phalanx.train.metrics.coco_ap import RECALLS, OverlapKind, curves
from phalanx.train.pictures.confusion import confusion
from phalanx.train.pictures.precision_recall import precision_recall

_PREFIX: dict[OverlapKind, str] = {"boxes": "", "masks": "mask_"}


def pictures(rows: Mapping[OverlapKind, tuple[Tensor, Tensor]], table: Tensor, names: Sequence[str]) -> dict[str, Image]:
    """`precision_recall` of boxes and `mask_precision_recall`, both at an overlap of one half; and `confusion`.

    Args:
        rows: of detections and of objects, from `phalanx.train.metrics.coco_ap`.
        table: `phalanx.train.metrics.detection_confusion`'s, [classes + 1, classes + 1].
        names: the classes' names.
    """
    drawn = {}
    for kind, (found, truth) in rows.items():
        precision = curves(found, truth, len(names)).precision[0, 0]  # every area, an overlap of 0.5: [R, K]
        title = f"Precision over recall of {kind} that overlap by 0.5"
        drawn[f"{_PREFIX[kind]}precision_recall"] = precision_recall(RECALLS, precision, names, title)
    drawn["confusion"] = confusion(table.numpy(), [*names, "background"], "What objects are taken for")
    return drawn
