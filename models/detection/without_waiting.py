"""Parts of torchvision's detectors, rewritten so that a GPU is not waited for; with the same results to the last bit.

A tensor whose size depends on the device's values (`torch.where`, an index by a mask) makes the host wait for them; so does a
number that is made into a tensor on the device.
"""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor
from torchvision.models.detection._utils import BoxCoder, Matcher
from torchvision.ops import MultiScaleRoIAlign, roi_align
from torchvision.ops.poolers import _convert_to_roi_format


class ObjectMatcher(Matcher):
    """Which object each box is matched to: int64 [boxes], negative where none, from the IoU of all pairs [objects, boxes]."""

    def __call__(self, overlap: Tensor) -> Tensor:
        values, numbers = overlap.max(dim=0)
        doubtful = torch.where(values < self.high_threshold, self.BETWEEN_THRESHOLDS, numbers)
        found = torch.where(values < self.low_threshold, self.BELOW_LOW_THRESHOLD, doubtful)
        if not self.allow_low_quality_matches:
            return found
        best_of_an_object = (overlap == overlap.amax(dim=1, keepdim=True)).any(dim=0)
        return torch.where(best_of_an_object, numbers, found)


class OffsetCoder(BoxCoder):
    """Boxes as offsets of others."""

    def encode_single(self, reference_boxes: Tensor, proposals: Tensor) -> Tensor:
        """What moves `proposals` [n, 4] to `reference_boxes` [n, 4]."""
        sides, wanted_sides = proposals[:, 2:] - proposals[:, :2], reference_boxes[:, 2:] - reference_boxes[:, :2]
        centres, wanted = proposals[:, :2] + 0.5 * sides, reference_boxes[:, :2] + 0.5 * wanted_sides
        x, y, w, h = self.weights
        moves = wanted - centres
        scales = torch.log(wanted_sides / sides)
        columns = [x * moves[:, 0] / sides[:, 0], y * moves[:, 1] / sides[:, 1], w * scales[:, 0], h * scales[:, 1]]
        return torch.stack(columns, dim=1)

    def decode_single(self, rel_codes: Tensor, boxes: Tensor) -> Tensor:
        """Boxes [n, 4 * classes], from what moves `boxes` [n, 4]."""
        boxes = boxes.to(rel_codes.dtype)
        sides = boxes[:, 2:] - boxes[:, :2]
        centres = boxes[:, :2] + 0.5 * sides
        x, y, w, h = self.weights
        moved = []
        for side, (shift, scale) in enumerate(((x, w), (y, h))):
            centre = rel_codes[:, side::4] / shift * sides[:, side, None] + centres[:, side, None]
            growth = torch.clamp(rel_codes[:, side + 2 :: 4] / scale, max=self.bbox_xform_clip)
            half = 0.5 * (torch.exp(growth) * sides[:, side, None])
            moved.append((centre - half, centre + half))
        (left, right), (top, bottom) = moved
        return torch.stack((left, top, right, bottom), dim=2).flatten(1)


class LevelPool(MultiScaleRoIAlign):
    """Looks at each box on the map that its size asks for; the host waits once, for how many each map has."""

    def forward(self, x: Mapping[str, Tensor], boxes: Sequence[Tensor], image_shapes: Sequence[tuple[int, int]]) -> Tensor:
        maps, rois = [x[name] for name in self.featmap_names], _convert_to_roi_format(boxes)
        levels = self.map_levels(boxes)
        counts = (levels[:, None] == torch.arange(len(maps), device=levels.device)).sum(dim=0).tolist()
        pooled = rois.new_zeros(len(rois), maps[0].shape[1], *self.output_size, dtype=maps[0].dtype)
        places = levels.argsort(stable=True).split(counts)
        for each, scale, own in zip(maps, self.scales, places, strict=True):
            seen = roi_align(each, rois[own], self.output_size, scale, self.sampling_ratio)
            pooled[own] = seen.to(pooled.dtype)
        return pooled
