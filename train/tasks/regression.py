"""Regression: numbers of any shape per sample."""

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from phalanx.configs.errors import UserError
from phalanx.configs.own_code import is_own
from phalanx.configs.schema import RunConfig
from phalanx.models.regression_losses import RegressionLoss
from phalanx.train.metrics import ratio
from phalanx.train.tasks import DataInfo, Rows
from phalanx.train.tasks.output_heads import batch_size, inputs, shown
from phalanx.train.tasks.own_loss import label, own_loss
from phalanx.train.tasks.own_metrics import OwnMetrics


class Regression:
    """The configured loss of `target` [B, ...]; mean absolute error, root mean squared error, and R2.

    A network may return [B, 1] for targets [B], and the reverse.
    """

    def __init__(self, config: RunConfig, data: DataInfo):
        self._config = config
        self._name, own = label(config.loss.name), is_own(config.loss.name)
        self._loss = own_loss(config.loss) if own else RegressionLoss(config.loss.name, config.loss.threshold)  # type: ignore[arg-type]

        self._own = OwnMetrics(config.evaluate.metrics)

    # -- training

    def weights(self, batch: Mapping[str, Any]) -> dict[str, float]:
        return {self._name: float(self._loss.weight(batch["target"]))}

    def losses(self, model: nn.Module, batch: Mapping[str, Any]) -> dict[str, tuple[Tensor, Any]]:
        target = batch["target"]
        return {self._name: (self._loss.total(self._output(model, batch), target), self._loss.weight(target))}

    def _output(self, model: nn.Module, batch: Mapping[str, Any]) -> Tensor:
        """The network's output in the shape of the target.

        Raises:
            UserError: if it has another.
        """
        target, output = batch["target"], model(inputs(batch))
        if isinstance(output, Mapping) and isinstance(output.get("out"), Tensor):
            output = output["out"]
        if isinstance(output, Tensor) and self._name == "nll" and output.dim() == target.dim() + 1:
            return output
        if isinstance(output, Tensor) and self._name != "nll" and _joined(output) == _joined(target):
            return output.reshape(target.shape)
        wanted = "log-probabilities [B, classes, ...]" if self._name == "nll" else f"a tensor {list(target.shape)}"
        raise UserError(
            f"model.name={self._config.model.name}: for {batch_size(inputs(batch))} samples the network returned "
            f"{shown(output)}, but task.name=regression with loss.name={self._name} needs {wanted} for targets "
            f"{list(target.shape)}. Let it return that.",
            shared=True,
        )

    # -- evaluation

    def measure(self, model: nn.Module, batch: Mapping[str, Any]) -> dict[str, Tensor | Rows]:
        output, target = self._output(model, batch), batch["target"]
        sums: dict[str, Tensor | Rows] = {"loss": self._loss.total(output, target), "loss_weight": self._loss.weight(target)}
        sums |= self._own.sums(output, target)
        if self._name == "nll":
            right = (output.argmax(dim=1) == target) & (target >= 0)
            return sums | {"right": right.sum(), "count": (target >= 0).sum()}
        known = ~target.isnan()
        wanted, error = target.double()[known], (output.double() - target.double())[known]
        return sums | {
            "count": known.sum(),
            "absolute": error.abs().sum(),
            "squared": error.square().sum(),
            "target": wanted.sum(),
            "target_squared": wanted.square().sum(),
        }

    def metrics(self, sums: Mapping[str, Any]) -> dict[str, float]:
        found = {"loss": ratio(sums["loss"], sums["loss_weight"])} | self._own.values(sums)
        if self._name == "nll":
            return found | {"accuracy": ratio(sums["right"], sums["count"])}
        mean = ratio(sums["target"], sums["count"])
        spread = sums["target_squared"] - sums["count"] * mean * mean
        return found | {
            "mae": ratio(sums["absolute"], sums["count"]),
            "rmse": math.sqrt(ratio(sums["squared"], sums["count"])),
            "r2": 1 - sums["squared"] / spread if spread > 0 else math.nan,
        }


def _joined(tensor: Tensor) -> torch.Size:
    """The shape without a last dimension of one."""
    return tensor.shape[:-1] if tensor.dim() > 1 and tensor.shape[-1] == 1 else tensor.shape
