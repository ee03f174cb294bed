"""Tasks: from a batch to losses, from predictions to metrics. A user's own task is a class in a file, in the same protocol."""

import difflib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from phalanx.configs.errors import UserError
from phalanx.configs.own_code import check as check_own
from phalanx.configs.own_code import is_own, load_ours, load_own
from phalanx.configs.schema import RunConfig

if TYPE_CHECKING:
    from torch import Tensor, nn

TASKS = {"classification": "phalanx.train.tasks.classification:Classification"}


@dataclass(frozen=True)
class DataFacts:
    """What a task and a model need to know of the data."""

    classes: tuple[str, ...]
    channels: int


class Task(Protocol):
    """What is learnt; its constructor takes `(config, data, **config.task.options)`.

    A batch is a dictionary of stacked tensors: `image` [B, C, H, W], `target` as the dataset gives it, `id` [B], `epoch` [B].
    """

    def weights(self, batch: Mapping[str, Any]) -> dict[str, float]:
        """What each loss will be divided by, from the targets alone, on the CPU: samples, valid pixels, boxes.

        The engine adds them over all micro-batches of the step. A loss whose weight depends on predictions is left out:
        it is averaged over micro-batches instead.
        """
        ...

    def losses(self, model: "nn.Module", batch: Mapping[str, Any]) -> "dict[str, tuple[Tensor, float]]":
        """Each loss as (sum over the micro-batch, weight). Always the same names in the same order."""
        ...

    def measure(self, model: "nn.Module", batch: Mapping[str, Any]) -> "dict[str, Tensor]":
        """Sums over an evaluation batch, as 0-dimensional tensors; always the same names, `samples` among them."""
        ...

    def metrics(self, sums: Mapping[str, float]) -> dict[str, float]:
        """Metrics from the sums over the whole split, such as `{"top1": 0.97}`."""
        ...


def check(name: str) -> None:
    """Whether there is such a task.

    Raises:
        UserError: with the nearest name.
    """
    if is_own(name):
        check_own("task.name", name)
    elif name not in TASKS:
        near = difflib.get_close_matches(name, TASKS, n=1, cutoff=0.4)
        hint = f"Did you mean {near[0]}?" if near else f"There are: {', '.join(TASKS)}; your own is ./file.py:Class."
        raise UserError(f"task.name={name}: there is no such task. {hint}")


def build(config: RunConfig, data: DataFacts) -> Task:
    """The configured task."""
    name = config.task.name
    check(name)
    kind: Any = load_own("task.name", name) if is_own(name) else load_ours(TASKS[name])
    task: Task = kind(config, data, **config.task.options)
    return task
