"""Tasks: from a batch to losses, from predictions to metrics. A user's own task is a class in a file, in the same protocol."""

import difflib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

from phalanx.configs.errors import UserError
from phalanx.configs.messages import nearest
from phalanx.configs.own_code import check as check_own
from phalanx.configs.own_code import is_own, load_ours, load_own, refuse_half
from phalanx.configs.schema import RunConfig
from phalanx.configs.tasks import TASKS

if TYPE_CHECKING:
    from pathlib import Path

    from PIL.Image import Image
    from torch import Tensor, nn

    from phalanx.data.dataset import Dataset

_KINDS = {
    "classification": "one class per image",
    "multilabel": "several labels per image",
    "segmentation": "a mask per image",
    "detection": "boxes",
}


@dataclass(frozen=True)
class DataInfo:
    """What a task and a model need to know of the training data.

    Attributes:
        classes: their names, in the order of their numbers.
        channels: of an image, as the network sees it.
        kind: what there is to learn: classification, multilabel, segmentation or detection.
        samples: their number; 0 where nobody needs it.
        class_counts: samples of each class (pixels, boxes); None where the data does not say, or nobody needs them.
        image_size: height and width that the network sees, in pixels; None where they are not known.
        ignored: the number, in masks, of pixels that count for nothing; None where it is `data.ignore_index`.
    """

    classes: tuple[str, ...]
    channels: int
    kind: str = "classification"
    samples: int = 0
    class_counts: tuple[int, ...] | None = None
    image_size: tuple[int, int] | None = None
    ignored: int | None = None


@dataclass(frozen=True)
class Rows:
    """A measure that is no sum: a row a sample, `[n, columns]`; `metrics` gets those of all batches, in their order."""

    values: "Tensor"


class Task(Protocol):
    """What is learnt; its constructor takes `(config, data, **config.task.options)`.

    A batch is a dictionary of stacked tensors: `image` [B, C, H, W], `target` or `mask` as
    `phalanx.data.transforms.pipeline` has them, `id` [B], `epoch` [B]; or of lists of tensors, where sizes differ.
    A task may do more: see `Details`, `Illustrates`, `GivesResults`, `Combines` and `Predicts`.
    """

    def weights(self, batch: Mapping[str, Any]) -> dict[str, float]:
        """What each loss will be divided by, from the targets alone, on the CPU: samples, valid pixels, boxes.

        The engine adds them over all micro-batches of the step. A loss whose weight depends on predictions is left out:
        it is averaged over micro-batches instead.
        """
        ...

    def losses(self, model: "nn.Module", batch: Mapping[str, Any]) -> "dict[str, tuple[Tensor, Any]]":
        """Each loss as (sum over the micro-batch, weight). Always the same names in the same order.

        A weight is a number, or a 0-dimensional tensor, which is only brought to the host where `weights` leaves it out.
        """
        ...

    def measure(self, model: "nn.Module", batch: Mapping[str, Any]) -> "dict[str, Tensor | Rows]":
        """Sums over an evaluation batch, as tensors of any shape, or `Rows`; always the same names.

        Whole numbers are exact in any order, and cost least; floating point sums are added in the order of the batches.
        """
        ...

    def metrics(self, sums: Mapping[str, Any]) -> dict[str, float]:
        """Metrics from the sums over the whole split, such as `{"top1": 0.97}`.

        Always the same names. A sum of shape [] is a number; others, and rows, are tensors on the CPU. Asked once for a few
        samples before the first step, so that what is wrong with an evaluation shows before anything is trained.
        """
        ...


@runtime_checkable
class Details(Protocol):
    """A task that can tell more than numbers for the log."""

    def details(self, sums: Mapping[str, Any]) -> dict[str, Any]:
        """JSON values from what `metrics` gets too: a confusion matrix, a row a class. For `phalanx evaluate`."""
        ...


@runtime_checkable
class Illustrates(Protocol):
    """A task that draws what it has measured."""

    def pictures(self, sums: Mapping[str, Any]) -> "dict[str, Image]":
        """Pictures by name, from what `metrics` gets too. For `phalanx evaluate`."""
        ...


@runtime_checkable
class GivesResults(Protocol):
    """A task whose predictions others evaluate too, in COCO's format of results."""

    def give_results(self, keep: "Callable[[int, list[dict[str, Any]]], None]", dataset: "Dataset") -> None:
        """From now on `measure` hands over the entries of each image, with the number of its sample, in rising order.

        Args:
            dataset: that is measured, which has the ids.
        """
        ...


@runtime_checkable
class Combines(Protocol):
    """A task whose networks can be asked together."""

    def combine(self, models: "Sequence[nn.Module]") -> "nn.Module":
        """A network whose prediction is the mean of theirs."""
        ...


@runtime_checkable
class Predicts(Protocol):
    """A task that can say what it sees in an image, and draw it."""

    def predict(self, model: "nn.Module", batch: Mapping[str, Any]) -> Iterable[dict[str, Any]]:
        """What is seen in each image of a batch without targets, as JSON values; or more, for a task that `Writes`.

        A batch has `size` [B, 2] too: height and width of the images themselves.
        """
        ...

    def draw(self, image: "Image", prediction: Mapping[str, Any]) -> "Image":
        """A picture of a prediction on the image that it is of, as it was read from its file."""
        ...


@runtime_checkable
class Writes(Protocol):
    """A task whose predictions hold more than JSON does, such as the class of every pixel."""

    def write(self, prediction: Mapping[str, Any], folder: "Path", place: "Path", probabilities: bool) -> dict[str, Any]:
        """Writes what JSON does not hold into files below a folder.

        Args:
            place: of the image in the folder: its name, or its way from the folder that was given, without the suffix.
            probabilities: whether those of every class were asked for.

        Returns:
            The prediction as JSON values, files by their place in the folder.

        Raises:
            OSError: where a file cannot be written.
        """
        ...


def check(name: str) -> None:
    """Whether there is such a task.

    Raises:
        UserError: with the nearest name.
    """
    if is_own(name):
        check_own("task.name", name)
    elif name not in TASKS:
        refuse_half("task.name", name)
        near = difflib.get_close_matches(name, TASKS, n=1, cutoff=0.7)
        hint = f" Did you mean {near[0]}?" if near else f" There are: {', '.join(TASKS)}; your own is ./file.py:Class."
        raise UserError(f"task.name={name}: there is no such task.{nearest.value('task.name', name) or hint}")


def build(config: RunConfig, data: DataInfo) -> Task:
    """The configured task.

    Raises:
        UserError: where there is none of that name, or it cannot learn from this kind of data.
    """
    name = config.task.name
    check(name)
    if not is_own(name) and data.kind not in TASKS[name].classes:
        learns = " or ".join(_KINDS[kind] for kind in TASKS[name].classes)
        fitting = [other for other, spec in TASKS.items() if data.kind in spec.classes]
        remedy = f"Set task.name={fitting[0]}, or another data.name." if fitting else "Set another data.name."
        raise UserError(
            f"task.name={name} learns {learns}, but data.name={config.data.name} gives {_KINDS[data.kind]}. {remedy}"
        )
    kind: Any = load_own("task.name", name) if is_own(name) else load_ours(TASKS[name].classes[data.kind])
    task: Task = kind(config, data, **config.task.options)
    return task
