"""The keys of `evaluate`: how a network that segments or detects is asked while it is evaluated, and when it predicts."""

import re
from collections.abc import Iterator
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator

from phalanx.configs.sections.data import ImageSize
from phalanx.configs.sections.section import Int, Section, bookkeeping
from phalanx.configs.tasks import DETECTION, TASKS


def _seen(value: Any) -> Any:
    """The word `original`, or pixels."""
    if value == "original":
        return value
    given = value if isinstance(value, list | tuple) else [value]
    if not all(re.fullmatch(r"[1-9][0-9]{0,5}", str(side).strip()) for side in given) or len(given) not in (1, 2):
        raise ValueError("original, or pixels: a whole number, or two, height and width, as [1024, 2048]")
    sides = tuple(int(side) for side in given)
    return sides[0] if len(sides) == 1 else sides


def _scales(value: list[float]) -> list[float]:
    if not value or not all(scale > 0 for scale in value) or len(set(value)) < len(value):
        raise ValueError("numbers above zero, each once, such as [0.75, 1.0, 1.25]")
    return value


_OF_DETECTION = {"score", "nms_iou", "detections", "one_label", "shown", "voc_ap", "fitness"}

SeenSize = Annotated[Literal["original"] | int | tuple[int, int], BeforeValidator(_seen)]
Scales = Annotated[list[float], AfterValidator(_scales)]


class EvaluateConfig(Section):
    size: SeenSize | None = bookkeeping(
        None,
        "input size in evaluation, instead of data.image_size: pixels, or original for each image's own size",
    )
    fit: Literal["stretch", "crop", "pad", "short_side"] | None = bookkeeping(
        None,
        "how an image of another aspect becomes that size in evaluation, instead of data.fit; short_side: in its own aspect, "
        "the size is [short side, longest side]",
    )
    scales: Scales = bookkeeping([1.0], "test-time augmentation: scales of that size, whose mean probabilities count")
    flip: bool = bookkeeping(False, "test-time augmentation: evaluate the mirrored image too")
    window: ImageSize | None = bookkeeping(
        None, "sliding window: size of the part of an image that is evaluated at a time; the full image if null"
    )
    stride: ImageSize | None = bookkeeping(None, "step of the sliding window; two thirds of its sides if null")
    crf: bool = bookkeeping(False, "refine masks by a dense CRF on the image in its own size (arXiv:1210.5644)")
    crf_iterations: Int = bookkeeping(10, "crf: updates of the mean field", ge=0)
    crf_appearance: float = bookkeeping(4.0, "crf: weight of the kernel of position and colour", ge=0)
    crf_appearance_pixels: float = bookkeeping(49.0, "crf: its standard deviation in pixels", gt=0)
    crf_appearance_colour: float = bookkeeping(5.0, "crf: its standard deviation in levels of 0 to 255", gt=0)
    crf_smoothness: float = bookkeeping(3.0, "crf: weight of the kernel of position alone", ge=0)
    crf_smoothness_pixels: float = bookkeeping(3.0, "crf: its standard deviation in pixels", gt=0)
    score: float = bookkeeping(0.05, "detection: lowest score of a detection", ge=0, le=1)
    nms_iou: float = bookkeeping(
        0.5, "detection: IoU above which the lower-scoring of two boxes of a class is dropped (NMS threshold)", ge=0, le=1
    )
    detections: Int = bookkeeping(100, "detection: maximum number of detections per image", ge=1)
    one_label: bool = bookkeeping(
        False,
        "YOLO networks: a place gives one detection, of its best class, as in YOLOX; false: one of each class above the score",
    )
    shown: float = bookkeeping(0.5, "detection: lowest score that is drawn, and counted in the confusion matrix", ge=0, le=1)
    metrics: list[str] = bookkeeping(
        [], "metrics of your own, as ./file.py:Class each, for classification and regression; those of torchmetrics too"
    )
    voc_ap: bool = bookkeeping(False, "detection: also compute PASCAL VOC's average precision, by every point and by 11 points")
    fitness: bool = bookkeeping(
        False, "detection: also compute fitness, 0.1 AP50 + 0.9 AP, by which YOLOv5 and YOLOv8 choose their best weights"
    )

    @property
    def views(self) -> list[tuple[float, bool]]:
        """The scale of each view of an image, and whether it is mirrored."""
        return [(scale, mirrored) for scale in self.scales for mirrored in ([False, True] if self.flip else [False])]

    @property
    def window_sides(self) -> tuple[int, int] | None:
        """Height and width of the window."""
        return None if self.window is None else _sides(self.window)

    @property
    def stride_sides(self) -> tuple[int, int] | None:
        """By how much the window moves on, down and to the right."""
        if self.window_sides is None or self.stride is not None:
            return None if self.stride is None else _sides(self.stride)
        height, width = self.window_sides
        return max(1, height * 2 // 3), max(1, width * 2 // 3)


def _tasks_of(key: str) -> tuple[str, ...]:
    """The names of the tasks that a key is for."""
    if key in ("size", "fit"):
        return "classification", "segmentation", *DETECTION
    if key == "metrics":
        return "classification", "regression"
    return DETECTION if key in _OF_DETECTION else ("segmentation",)


def _sides(size: int | tuple[int, int]) -> tuple[int, int]:
    return (size, size) if isinstance(size, int) else size


def contradictions(config: EvaluateConfig, task: str) -> Iterator[tuple[str, str]]:
    """Pairs of key and sentence for values that do not go together."""
    for key, field in EvaluateConfig.model_fields.items():
        tasks = _tasks_of(key)
        if task in TASKS and task not in tasks and getattr(config, key) != field.default:
            yield f"evaluate.{key}", f"evaluate.{key} is for task.name={' or '.join(tasks)}, not {task}. Remove it."
            return
    if task == "classification" and config.size == "original":
        yield "evaluate.size", "evaluate.size=original gives images of several sizes, which a batch cannot hold. Set pixels."
    if task == "classification" and config.fit == "short_side":
        yield (
            "evaluate.fit",
            "evaluate.fit=short_side gives images of several sizes, which a batch cannot hold. Set crop.",
        )
    if config.size == "original" and config.fit is not None:
        yield "evaluate.fit", "evaluate.fit fits images to a size, and evaluate.size=original keeps theirs. Remove one."
    if config.stride is None:
        return
    if config.window_sides is None or config.stride_sides is None:
        yield (
            "evaluate.stride",
            "evaluate.stride is how evaluate.window moves on, which is not given. Set it too, or remove both.",
        )
    elif any(step > side for step, side in zip(config.stride_sides, config.window_sides, strict=True)):
        yield (
            "evaluate.stride",
            f"evaluate.stride={_shown(config.stride_sides)} leaves gaps between windows of {_shown(config.window_sides)}. "
            "Set at most so many pixels.",
        )


def _shown(sides: tuple[int, int]) -> str:
    return str(list(sides))
