"""A user's own metrics: sums over samples, or metrics of torchmetrics whose states add up."""

import inspect
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import torch
from torch import Tensor

from phalanx.configs.errors import UserError
from phalanx.configs.own_code import load_own
from phalanx.train.tasks import Rows


class OwnMetric(Protocol):
    """A metric, made by `Class()` or a function without arguments."""

    def sums(self, output: Tensor, target: Tensor) -> Mapping[str, Tensor]:
        """Sums over a batch, of any shape, always the same names. Integers are exact in any order."""
        ...

    def value(self, sums: Mapping[str, Any]) -> float:
        """The metric from the sums over the whole split."""
        ...


class OwnMetrics:
    """Those of `evaluate.metrics`, each logged under the name of its class or function.

    Args:
        names: `./file.py:Name` each.
    """

    def __init__(self, names: Sequence[str]):
        self._metrics = {name.rpartition(":")[2]: _made(name) for name in names}

    def sums(self, output: Tensor, target: Tensor) -> dict[str, Tensor | Rows]:
        """The sums of all metrics over a batch."""
        found: dict[str, Tensor | Rows] = {}
        for name, metric in self._metrics.items():
            found |= {f"{name}/{key}": torch.as_tensor(value) for key, value in metric.sums(output, target).items()}
        return found

    def values(self, sums: Mapping[str, Any]) -> dict[str, float]:
        """The metrics, from what `sums` gave over the whole split."""
        found = {}
        for name, metric in self._metrics.items():
            own = {key.partition("/")[2]: value for key, value in sums.items() if key.startswith(f"{name}/")}
            found[name] = float(metric.value(own))
        return found


def _made(name: str) -> OwnMetric:
    given: Any = load_own("evaluate.metrics", name)
    try:
        inspect.signature(given).bind()
    except TypeError as error:
        raise UserError(f"evaluate.metrics={name}: it is called without arguments: {error}. Give them defaults.") from None
    made: Any = given()
    if all(hasattr(made, attribute) for attribute in ("_reductions", "_defaults", "update", "compute", "reset")):
        return _OfTorchmetrics(name, made)
    if not all(callable(getattr(made, method, None)) for method in ("sums", "value")):
        raise UserError(
            f"evaluate.metrics={name}: a metric has the methods sums(output, target) and value(sums), or is one of "
            "torchmetrics. Add them."
        )
    metric: OwnMetric = made
    return metric


class _OfTorchmetrics:
    """A `torchmetrics.Metric`: the states of each batch are added up, so that no rank waits for another."""

    def __init__(self, name: str, metric: Any):
        self._metric, self._states = metric, list(metric._defaults)
        summed = [getattr(reduction, "__name__", "") == "dim_zero_sum" for reduction in metric._reductions.values()]
        if not all(summed) or not all(isinstance(value, Tensor) for value in metric._defaults.values()):
            raise UserError(
                f"evaluate.metrics={name}: the states of {type(metric).__name__} do not add up over batches. Use a metric of "
                "sums, such as MulticlassF1Score, or one with bins in place of lists (thresholds=100)."
            )

    def sums(self, output: Tensor, target: Tensor) -> dict[str, Tensor]:
        self._metric.to(output.device).reset()
        self._metric.update(output, target)
        return {name: getattr(self._metric, name).clone() for name in self._states}

    def value(self, sums: Mapping[str, Any]) -> float:
        self._metric.to("cpu").reset()
        self._metric._update_count = 1
        for name in self._states:
            setattr(self._metric, name, torch.as_tensor(sums[name]).to(self._metric._defaults[name].dtype))
        return float(self._metric.compute())
