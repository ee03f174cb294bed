"""The section `loss` of a recipe."""

from collections.abc import Iterator
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator

from phalanx.configs.own_code import is_own
from phalanx.configs.sections.section import Factor, Section, experiment
from phalanx.configs.tasks import DETECTION


def _class_weights(value: Any) -> Any:
    """The word `balanced`, or numbers."""
    if value == "balanced":
        return value
    try:
        numbers = [float(number) for number in value] if isinstance(value, list | tuple) else []
    except (TypeError, ValueError):
        numbers = []
    if not numbers or min(numbers) < 0 or max(numbers) == 0:
        raise ValueError("balanced, or a list of numbers, one per class")
    return numbers


ClassWeights = Annotated[Literal["balanced"] | list[float], BeforeValidator(_class_weights)]
REGRESSION_LOSSES = ("mse", "l1", "smooth_l1", "huber", "kl", "nll", "hinge")
LOSSES = (*("cross_entropy", "bce", "focal", "dice"), *REGRESSION_LOSSES)
PIXEL_LOSSES = ("cross_entropy", "bce", "focal", "dice")


def _pixel_losses(value: dict[str, float]) -> dict[str, float]:
    if unknown := set(value) - set(PIXEL_LOSSES):
        raise ValueError(f"{', '.join(sorted(unknown))} is none of {', '.join(PIXEL_LOSSES)}, each with what it counts")
    return value


def _loss(value: str) -> str:
    if value not in LOSSES and not is_own(value):
        raise ValueError(f"one of {', '.join(LOSSES)}, or your own as ./file.py:Class")
    return value


LossName = Annotated[str, AfterValidator(_loss)]
AddedLosses = Annotated[dict[str, Factor], AfterValidator(_pixel_losses)]


class LossConfig(Section):
    name: LossName = experiment(
        "cross_entropy",
        "the loss, or your own as ./file.py:Class; bce and focal also take several labels per image; mse and l1 compare "
        "probabilities (not of pixels), in regression numbers; dice is for segmentation; smooth_l1, huber, kl, nll and "
        "hinge are for regression",
    )
    options: dict[str, Any] = experiment({}, "keyword arguments of a loss of your own")
    add: AddedLosses = experiment({}, "segmentation: further losses with their weights beside loss.name, such as {dice: 1.0}")
    label_smoothing: float = experiment(
        0.0, "label smoothing: share of the target that is spread over all classes (arXiv:1512.00567)", ge=0, lt=1
    )
    class_weights: ClassWeights | None = experiment(
        None, "weight of each class: numbers in the order of the classes, or balanced (inverse to their frequency)"
    )
    pos_weight: ClassWeights | None = experiment(
        None, "bce: weight of positive labels of each class: numbers, or balanced (negatives over positives)"
    )
    target_threshold: float | None = experiment(
        None,
        "bce: mixed targets above this count as 1 and others as 0, before label smoothing, such as 0.2 with MixUp and CutMix "
        "(arXiv:2110.00476); as they are if null",
        gt=0,
        lt=1,
    )
    focal_gamma: float = experiment(2.0, "focal: exponent that down-weights easy samples (arXiv:1708.02002)", ge=0)
    focal_alpha: float | None = experiment(None, "focal: weight of positives; negatives have 1 - alpha", ge=0, le=1)
    threshold: float = experiment(1.0, "smooth_l1, huber: error from which they grow linearly instead of quadratically", gt=0)
    dice_per_class: bool = experiment(
        True, "dice: the mean over the classes of an image; false: only the second of two classes (arXiv:1606.04797)"
    )
    dice_smooth: float = experiment(1.0, "dice: term added to numerator and denominator", ge=0)
    ohem_threshold: float | None = experiment(
        None,
        "segmentation, hard example mining: cross_entropy counts only pixels whose class has a probability below this, such as "
        "0.7 (arXiv:1604.03540); all if null",
        gt=0,
        le=1,
    )
    ohem_keep: float = experiment(
        0.1, "ohem_threshold: minimum share of an image's pixels that count, the hardest ones", ge=0, le=1
    )
    count_ignored: bool = experiment(
        False, "segmentation, cross_entropy: the mean is over all pixels, ignored ones too, which count 0, as in mmsegmentation"
    )
    auxiliary: float | None = experiment(None, "weight of the auxiliary heads' losses; the network's default if null", ge=0)

    @property
    def names(self) -> tuple[str, ...]:
        """All losses that are used."""
        return (self.name, *self.add)


def contradictions(loss: LossConfig, task: str) -> Iterator[tuple[str, str]]:
    """Pairs of key and sentence for values that are allowed separately but not together, or not with the task."""
    if task in DETECTION:
        for key, field in LossConfig.model_fields.items():
            if getattr(loss, key) != field.default:
                yield f"loss.{key}", f"loss.{key} is not for task.name={task}: a detector has its own losses. Remove it."
        return
    if loss.options and not is_own(loss.name):
        yield "loss.options", f"loss.options are for a loss of your own; {loss.name} takes none. Remove them."
    if task == "regression":
        yield from _of_regression(loss)
        return
    if loss.pos_weight is not None and "bce" not in loss.names:
        yield "loss.pos_weight", f"loss.pos_weight is for loss.name=bce, not {loss.name}. Remove it, or set bce."
    if loss.target_threshold is not None and "bce" not in loss.names:
        yield "loss.target_threshold", f"loss.target_threshold is for loss.name=bce, not {loss.name}. Remove it, or set bce."
    if loss.focal_alpha is not None and "focal" not in loss.names:
        yield "loss.focal_alpha", f"loss.focal_alpha is for loss.name=focal, not {loss.name}. Remove it, or set focal."
    if loss.label_smoothing and not {"cross_entropy", "bce"} & set(loss.names):
        yield "loss.label_smoothing", f"loss.label_smoothing is for cross_entropy and bce, not {loss.name}. Set it to 0."
    if loss.ohem_threshold is not None and "cross_entropy" not in loss.names:
        yield "loss.ohem_threshold", f"loss.ohem_threshold is for cross_entropy, not {loss.name}. Remove it."
    if loss.count_ignored and "cross_entropy" not in loss.names:
        yield "loss.count_ignored", f"loss.count_ignored is for cross_entropy, not {loss.name}. Remove it."
    if loss.name in loss.add:
        yield "loss.add", f"loss.add has {loss.name}, which is loss.name already, with weight 1. Remove it."
    if task == "segmentation" and loss.name not in PIXEL_LOSSES and not is_own(loss.name):
        yield "loss.name", f"loss.name={loss.name}: segmentation takes {', '.join(PIXEL_LOSSES)}. Set one of them."
    if task != "classification":
        return
    if loss.name in REGRESSION_LOSSES and loss.name not in ("mse", "l1"):
        yield "loss.name", f"loss.name={loss.name} needs task.name=regression. Set cross_entropy, bce, focal, mse or l1."
    if loss.name == "dice":
        yield "loss.name", "loss.name=dice needs task.name=segmentation. Set cross_entropy, bce, focal, mse or l1."
    for key in ("add", "ohem_threshold", "count_ignored"):
        if value := getattr(loss, key):
            yield f"loss.{key}", f"loss.{key}={value} needs task.name=segmentation. Remove it."


def _of_regression(loss: LossConfig) -> Iterator[tuple[str, str]]:
    if loss.name not in REGRESSION_LOSSES and not is_own(loss.name):
        yield "loss.name", f"loss.name={loss.name}: regression takes {', '.join(REGRESSION_LOSSES)}. Set one of them."
    for key, field in LossConfig.model_fields.items():
        if key not in ("name", "options", "threshold") and getattr(loss, key) != field.default:
            yield f"loss.{key}", f"loss.{key} is not for task.name=regression. Remove it."
