"""What all YOLO networks share: images in, losses or detections out."""

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from phalanx.models.detection.batching import together
from phalanx.models.detection.inference import Inference, best, of_best_class
from phalanx.models.detection.targets import sent
from phalanx.models.detection.yolo.layers import Conv

Targets = Sequence[Mapping[str, Any]]
LossTerms = dict[str, tuple[Tensor, Any]]
_CANDIDATES = 3000  # most detections per image that enter non-maximum suppression


class Objects(NamedTuple):
    """The objects of a batch: as many places per image as the image with the most objects needs, and at least one.

    Attributes:
        boxes: [B, n, 4] in pixels.
        labels: int64 [B, n], their classes.
        there: bool [B, n], whether the place has an object.
    """

    boxes: Tensor
    labels: Tensor
    there: Tensor


def objects(targets: Targets, like: Tensor) -> Objects:
    """The objects of targets, on the device and in the format of what is predicted. Shapes depend on the targets alone."""
    counts = [len(target["boxes"]) for target in targets]
    most = max(1, *counts)
    boxes, labels = torch.zeros(len(counts), most, 4, dtype=like.dtype), torch.zeros(len(counts), most, dtype=torch.int64)
    for place, (count, target) in enumerate(zip(counts, targets, strict=True)):
        boxes[place, :count], labels[place, :count] = target["boxes"].reshape(-1, 4), target["labels"]
    there = torch.arange(most) < torch.tensor(counts)[:, None]
    return Objects(*(sent(each, like.device) for each in (boxes, labels, there)))


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
        targets: Targets | None = None,
        inference: Inference | None = None,
    ) -> Any:
        batch = together(images)
        if targets is not None:
            return self._losses(self._outputs(batch), targets, (batch.shape[-2], batch.shape[-1]))
        boxes, scores = self._decoded(self._outputs(batch))
        return _detections(boxes, scores, [tuple(image.shape[-2:]) for image in images], inference or Inference())

    def decoded(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """What each cell predicts, before non-maximum suppression.

        Shape: [B, C, H, W] to boxes [B, cells, 4] in pixels, and scores [B, cells, classes] from 0 to 1.
        """
        return self._decoded(self._outputs(together(images)))

    def _outputs(self, batch: Tensor) -> list[Tensor]:
        # Half precision is too coarse for boxes of hundreds of pixels.
        found = self.head(self.body(batch))
        return [each.float() if each.dtype in (torch.float16, torch.bfloat16) else each for each in found]

    @abstractmethod
    def _losses(self, outputs: list[Tensor], targets: Targets, size: tuple[int, int]) -> LossTerms:
        """The losses, from the head's outputs on images [H, W] in size. No shape depends on what is predicted."""

    @abstractmethod
    def _decoded(self, outputs: list[Tensor]) -> tuple[Tensor, Tensor]:
        """Boxes [B, cells, 4] in pixels, and scores [B, cells, classes] from 0 to 1."""

    def fuse(self) -> "Yolo":
        """For inference: every BatchNorm becomes part of the convolution before it."""
        for module in self.modules():
            if isinstance(module, Conv):
                module.fuse()
        return self


def _detections(boxes: Tensor, scores: Tensor, sizes: Sequence[tuple[int, int]], wanted: Inference) -> list[dict[str, Tensor]]:
    """Of each image. A cell may see several classes.

    The host waits for the device once, to learn how many candidates there are, and once per image for the suppression.
    """
    scores = of_best_class(scores) if wanted.one_label else scores
    above = scores >= wanted.score
    counts = above.sum(dim=(1, 2)).tolist()
    image, cells, labels = torch.nonzero_static(above, size=sum(counts)).unbind(dim=1)
    values, places = scores[image, cells, labels], boxes[image, cells]
    candidates = zip(values.split(counts), places.split(counts), labels.split(counts), sizes, strict=True)
    return [_best(*each, wanted) for each in candidates]


def _best(values: Tensor, boxes: Tensor, labels: Tensor, size: tuple[int, int], wanted: Inference) -> dict[str, Tensor]:
    """Those of an image's candidates that are kept, within the image."""
    if len(values) > _CANDIDATES:
        values, order = values.topk(_CANDIDATES)
        boxes, labels = boxes[order], labels[order]
    height, width = size
    x, y = boxes[:, 0::2].clamp(0, width), boxes[:, 1::2].clamp(0, height)
    found = torch.stack([x[:, 0], y[:, 0], x[:, 1], y[:, 1]], dim=1)
    kept = best(found, values, labels, wanted)
    return {"boxes": found[kept], "scores": values[kept], "labels": labels[kept]}
