"""What is kept of all that a detector sees."""

from dataclasses import dataclass

import torch
from torch import Tensor
from torchvision.ops import batched_nms, nms


@dataclass(frozen=True)
class Inference:
    """How many detections there may be, and how good they must be.

    Attributes:
        score: least score of a detection.
        nms_iou: of two detections of a class whose boxes overlap more, the better one stays.
        detections: most an image.
        one_label: of a YOLO network: whether a cell gives one detection, of its best class, rather than one of each class.
    """

    score: float = 0.05
    nms_iou: float = 0.5
    detections: int = 100
    one_label: bool = False


def of_best_class(scores: Tensor) -> Tensor:
    """Scores of which all but the best of each cell are -1, below any threshold. Shape: [..., cells, classes] to the same."""
    best = scores.argmax(dim=-1, keepdim=True)
    return torch.full_like(scores, -1.0).scatter(-1, best, scores.gather(-1, best))


def best(boxes: Tensor, scores: Tensor, labels: Tensor, wanted: Inference) -> Tensor:
    """The places of the detections that are kept of those with a high enough score, best first.

    Shape: [k, 4], [k], [k] to [at most wanted.detections].
    """
    return suppressed(boxes.float(), scores.float(), labels, wanted.nms_iou)[: wanted.detections]


def suppressed(boxes: Tensor, scores: Tensor, groups: Tensor, iou: float) -> Tensor:
    """Non-maximum suppression within each group: torchvision's `batched_nms`, which waits for a GPU twice; this one once.

    Shape: [k, 4], [k], [k] to the places of those that stay, best first.
    """
    if boxes.device.type == "cpu" or not len(boxes):
        return batched_nms(boxes, scores, groups, iou)
    # Its way for GPUs: moved apart by groups, boxes of different groups never overlap.
    apart = groups.to(boxes.dtype) * (boxes.max() + 1)
    return nms(boxes + apart[:, None], scores, iou)
