"""What all YOLO networks share: images in, losses or detections out."""

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from phalanx.models.detection.batching import together
from phalanx.models.detection.inference import Inference, best
from phalanx.models.detection.yolo.layers import Conv

LossTerms = dict[str, tuple[Tensor, Any]]
_CANDIDATES = 3000  # most detections per image that enter non-maximum suppression


class Objects(NamedTuple):
    """The objects of all images of a batch, one after another.

    Attributes:
        boxes: [n, 4] in pixels.
        labels, images: int64 [n], class and image of each.
        counts: objects of each image.
    """

    boxes: Tensor
    labels: Tensor
    images: Tensor
    counts: tuple[int, ...]


def objects(targets: Sequence[Mapping[str, Any]], like: Tensor) -> Objects:
    """The objects of targets, on the device and in the format of what is predicted."""
    counts = tuple(len(target["boxes"]) for target in targets)
    boxes = torch.cat([target["boxes"].reshape(-1, 4) for target in targets]).to(like)
    labels = torch.cat([target["labels"] for target in targets]).to(like.device)
    images = torch.repeat_interleave(torch.tensor(counts)).to(like.device)
    return Objects(boxes, labels, images, counts)


class Yolo(nn.Module):
    """A YOLO network.

    Called with targets, it gives its losses as (sum, weight); without, for each image `boxes` [k, 4] in pixels of the given
    image, `scores` [k], best first, and `labels` [k].

    Args:
        body: from images to three maps; its `block_names` and `channels` are read.
        head: from maps to the predictions of each cell.

    Shape: images [B, C, H, W], or B of [C, h, w], normalised; targets: for each image `boxes` [n, 4] and `labels` [n].
    """

    def __init__(self, body: nn.Module, head: nn.Module, classes: int):
        super().__init__()
        self.body, self.head, self.classes = body, head, classes
        names: tuple[str, ...] = body.block_names  # type: ignore[assignment]
        self.block_names = tuple(f"body.{name}" for name in names)

    def forward(
        self,
        images: Tensor | Sequence[Tensor],
        targets: Sequence[Mapping[str, Any]] | None = None,
        inference: Inference | None = None,
    ) -> Any:
        batch = together(images)
        outputs = self.head(self.body(batch))
        # Half precision is too coarse for boxes of hundreds of pixels.
        outputs = [each.float() if each.dtype in (torch.float16, torch.bfloat16) else each for each in outputs]
        size = (batch.shape[-2], batch.shape[-1])
        if targets is not None:
            return self._losses(outputs, objects(targets, outputs[0]), size)
        boxes, scores = self._decoded(outputs)
        sizes = [tuple(image.shape[-2:]) for image in images]
        wanted = inference or Inference()
        return [_detections(*each, wanted) for each in zip(boxes, scores, sizes, strict=True)]

    @abstractmethod
    def _losses(self, outputs: list[Tensor], there: Objects, size: tuple[int, int]) -> LossTerms:
        """The losses, from the head's outputs on images [H, W] in size."""

    @abstractmethod
    def _decoded(self, outputs: list[Tensor]) -> tuple[Tensor, Tensor]:
        """Boxes [B, cells, 4] in pixels, and scores [B, cells, classes] from 0 to 1."""

    def fuse(self) -> "Yolo":
        """For inference: every BatchNorm becomes part of the convolution before it."""
        for module in self.modules():
            if isinstance(module, Conv):
                module.fuse()
        return self


def _detections(boxes: Tensor, scores: Tensor, size: tuple[int, int], wanted: Inference) -> dict[str, Tensor]:
    """Of one image. A cell may see several classes."""
    cells, labels = (scores >= wanted.score).nonzero(as_tuple=True)
    values = scores[cells, labels]
    if len(values) > _CANDIDATES:
        values, order = values.topk(_CANDIDATES)
        cells, labels = cells[order], labels[order]
    height, width = size
    limits = boxes.new_tensor([width, height, width, height])
    found = torch.minimum(boxes[cells].clamp(min=0), limits)
    kept = best(found, values, labels, wanted)
    return {"boxes": found[kept], "scores": values[kept], "labels": labels[kept]}
