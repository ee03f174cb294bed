"""Width and depth of the YOLO networks by the letter of their size: one table. No torch here.

v5 and v8: Terven et al., A Comprehensive Review of YOLO, arXiv:2304.00501; X: Ge et al., arXiv:2107.08430.
"""

import math
from dataclasses import dataclass


@dataclass(frozen=True)
class Scale:
    """Factors of channels and of blocks.

    Attributes:
        most: channels before the factor are at most so many.
        multiple: channels are rounded up to a multiple of it.
    """

    depth: float
    width: float
    most: int = 1024
    multiple: int = 8

    def channels(self, number: int) -> int:
        return math.ceil(min(number, self.most) * self.width / self.multiple) * self.multiple

    def blocks(self, number: int) -> int:
        return max(1, round(number * self.depth))


SCALES = {
    "yolov5n": Scale(0.33, 0.25),
    "yolov5s": Scale(0.33, 0.5),
    "yolov5m": Scale(0.67, 0.75),
    "yolov5l": Scale(1.0, 1.0),
    "yolov5x": Scale(1.33, 1.25),
    "yolox_nano": Scale(0.33, 0.25),
    "yolox_tiny": Scale(0.33, 0.375),
    "yolox_s": Scale(0.33, 0.5),
    "yolox_m": Scale(0.67, 0.75),
    "yolox_l": Scale(1.0, 1.0),
    "yolox_x": Scale(1.33, 1.25),
    "yolov8n": Scale(0.33, 0.25),
    "yolov8s": Scale(0.33, 0.5),
    "yolov8m": Scale(0.67, 0.75, most=768),
    "yolov8l": Scale(1.0, 1.0, most=512),
    "yolov8x": Scale(1.0, 1.25, most=512),
}
