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
from phalanx.dist.step.phases import Phase

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
    "regression": "numbers",
}


@dataclass(frozen=True)
class DataInfo:
    """The metadata of the training data for a task and a model.

    Attributes:
        classes: their names, in the order of their numbers.
        channels: of the network's input.
        kind: the kind of targets: classification, multilabel, segmentation, detection or regression.
        samples: their number; 0 if not needed.
        class_counts: samples of each class (pixels, boxes); None if unknown or not needed.
        image_size: height and width of the network's input, in pixels; None if unknown.
        ignored: the number, in masks, of ignored pixels; None if it is `data.ignore_index`.
        numbers: how many numbers a target has, for regression; 0 for other kinds.
    """

    classes: tuple[str, ...]
    channels: int
    kind: str = "classification"
    samples: int = 0
    class_counts: tuple[int, ...] | None = None
    image_size: tuple[int, int] | None = None
    ignored: int | None = None
    numbers: int = 0


@dataclass(frozen=True)
class Rows:
    """A measure that is not a sum: one row per sample, `[n, columns]`; `metrics` gets those of all batches, in order."""

    values: "Tensor"


class Task(Protocol):
    """A task; its constructor takes `(config, data, **config.task.options)`.

    A batch is a dictionary of stacked tensors: `image` [B, C, H, W], `target` or `mask` as
    `phalanx.data.transforms.pipeline` makes them, `id` [B], `epoch` [B]; or of lists of tensors, if sizes differ. Ids, epochs,
    sizes and lists are on the CPU, the other tensors on the model's device.
    Optional features of tasks: see `HasPhases`, `ActsBetweenSteps`, `Details`, `Illustrates`, `GivesResults`, `Combines` and
    `Predicts`.
    """

    def weights(self, batch: Mapping[str, Any]) -> dict[str, float]:
        """The divisor of each loss, from the targets only, on the CPU: samples, valid pixels, boxes.

        The engine adds them over all micro-batches of the step. A loss whose weight depends on predictions is left out:
        it is averaged over micro-batches instead.
        """
        ...

    def losses(self, model: "nn.Module", batch: Mapping[str, Any]) -> "dict[str, tuple[Tensor, Any]]":
        """Each loss as (sum over the micro-batch, weight). Always the same names in the same order.

        A weight is a number, or a 0-dimensional tensor, which is only copied to the host if `weights` leaves it out.
        """
        ...

    def measure(self, model: "nn.Module", batch: Mapping[str, Any]) -> "dict[str, Tensor | Rows]":
        """Sums over an evaluation batch, as tensors of any shape, or `Rows`; always the same names.

        Integers are exact in any order, and cheapest; floating point sums are added in the order of the batches.
        """
        ...

    def metrics(self, sums: Mapping[str, Any]) -> dict[str, float]:
        """Metrics from the sums over the whole split, such as `{"top1": 0.97}`.

        Always the same names. A sum of shape [] is a number; others, and rows, are tensors on the CPU. Called once for a few
        samples before the first step, so that errors of an evaluation appear before training.
        """
        ...


@runtime_checkable
class HasPhases(Protocol):
    """A task whose step has several phases, each with losses and an optimizer's step of its own parameters, such as a GAN's."""

    def phases(self) -> Sequence[Phase]:
        """In the order in which they run; `losses` is not called. `weights` returns those of all phases together."""
        ...


@runtime_checkable
class ActsBetweenSteps(Protocol):
    """A task that does something before each step, such as acting in an environment."""

    def before_step(self, model: "nn.Module", step: int) -> None:
        """Called on every rank, in evaluation mode and without gradients, before the step after `step` finished ones.

        All ranks must do the same: torch's random numbers are seeded alike for it. What a resumed run needs to know is kept in
        buffers of the network, which are in checkpoints.
        """
        ...


@runtime_checkable
class Details(Protocol):
    """A task with results beyond numbers for the log."""

    def details(self, sums: Mapping[str, Any]) -> dict[str, Any]:
        """JSON values from the input of `metrics`: a confusion matrix, one row per class. For `phalanx evaluate`."""
        ...


@runtime_checkable
class Illustrates(Protocol):
    """A task that draws its measures."""

    def pictures(self, sums: Mapping[str, Any]) -> "dict[str, Image]":
        """Pictures by name, from the input of `metrics`. For `phalanx evaluate`."""
        ...


@runtime_checkable
class GivesResults(Protocol):
    """A task that writes predictions in COCO's format of results."""

    def give_results(self, keep: "Callable[[int, list[dict[str, Any]]], None]", dataset: "Dataset") -> None:
        """From now on `measure` passes the entries of each image to `keep`, with its sample's number, in ascending order.

        Args:
            dataset: the evaluated one, which has the ids.
        """
        ...


@runtime_checkable
class Combines(Protocol):
    """A task that supports ensembles."""

    def combine(self, models: "Sequence[nn.Module]") -> "nn.Module":
        """A network whose prediction is the mean of theirs."""
        ...


@runtime_checkable
class Predicts(Protocol):
    """A task that predicts images, and draws predictions."""

    def predict(self, model: "nn.Module", batch: Mapping[str, Any]) -> Iterable[dict[str, Any]]:
        """The predictions on a batch without targets, as JSON values; or more, for a task that `Writes`.

        A batch also has `size` [B, 2]: height and width of the original images.
        """
        ...

    def draw(self, image: "Image", prediction: Mapping[str, Any]) -> "Image":
        """A picture of a prediction on its image, as read from the file."""
        ...


@runtime_checkable
class Writes(Protocol):
    """A task whose predictions do not fit into JSON, such as the class of every pixel."""

    def write(self, prediction: Mapping[str, Any], folder: "Path", place: "Path", probabilities: bool) -> dict[str, Any]:
        """Writes these into files below a folder.

        Args:
            place: the image's path in the folder, relative to the given one, without the suffix.
            probabilities: whether those of every class were requested.

        Returns:
            The prediction as JSON values, with files by their path in the folder.

        Raises:
            OSError: if a file cannot be written.
        """
        ...


def phases_of(task: Task) -> Sequence[Phase]:
    """The phases of a task's steps: one, of `losses`, unless it has several."""
    return task.phases() if isinstance(task, HasPhases) else [Phase("", task.losses)]


def check(name: str) -> None:
    """Refuses an unknown task.

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
        UserError: if there is none of that name, or it does not fit this kind of data.
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
