"""What is kept of all that a detector sees."""

from dataclasses import dataclass

import torch
from torch import Tensor
from torchvision.ops import batched_nms


@dataclass(frozen=True)
class Inference:
    """How many detections there may be, and how good they must be.

    Attributes:
        score: least score of a detection.
        nms_iou: of two detections of a class whose boxes overlap more, the better one stays.
        detections: most an image.
    """

    score: float = 0.05
    nms_iou: float = 0.5
    detections: int = 100


def best(boxes: Tensor, scores: Tensor, labels: Tensor, wanted: Inference) -> Tensor:
    """The places of the detections that are kept, best first. Shape: [k, 4], [k], [k] to [at most wanted.detections]."""
    above = torch.nonzero(scores >= wanted.score).squeeze(1)
    kept = batched_nms(boxes[above].float(), scores[above].float(), labels[above], wanted.nms_iou)
    return above[kept[: wanted.detections]]
