"""Multi-label classification: several labels per image, each present or absent."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from phalanx.train.metrics import ratio
from phalanx.train.metrics.average_precision import average_precisions, mean_average_precision
from phalanx.train.tasks import Rows
from phalanx.train.tasks.classification import Classification, without_smoothing
from phalanx.train.tasks.ensemble import MeanProbability

if TYPE_CHECKING:
    from PIL.Image import Image

_THERE = 0.5  # the probability from which a label is predicted as present
_LISTED = 5


class SeveralLabels(Classification):
    """The configured loss; mean average precision, and the share of correct labels.

    Targets are float32 `[B, classes]`: 1 present, 0 absent, negative unknown.
    """

    def measure(self, model: nn.Module, batch: Mapping[str, Any]) -> dict[str, Tensor | Rows]:
        logits, target = self._logits(model, batch), batch["target"]  # [B, classes] both
        loss = without_smoothing(self._loss)
        known = target >= 0
        return {
            "loss": loss.total(logits, target),
            "loss_weight": loss.weight(target),
            "labels": known.sum(),
            "right": (((logits >= 0) == (target > 0.5)) & known).sum(),
            "scores": Rows(torch.cat([logits, target.to(logits.dtype)], dim=1)),
        } | self._own.sums(logits, target)

    def metrics(self, sums: Mapping[str, Any]) -> dict[str, float]:
        return {
            "loss": ratio(sums["loss"], sums["loss_weight"]),
            "map": mean_average_precision(self._average_precisions(sums)),
            "accuracy": ratio(sums["right"], sums["labels"]),
        } | self._own.values(sums)

    def details(self, sums: Mapping[str, Any]) -> dict[str, Any]:
        labels = sums["scores"][:, self._outputs :]
        positives = (labels > 0.5).sum(dim=0).tolist()
        rows = zip(self._names, positives, self._average_precisions(sums), strict=True)
        return {"per_class": [{"class": name, "samples": n, "ap": value} for name, n, value in rows]}

    def _average_precisions(self, sums: Mapping[str, Any]) -> list[float | None]:
        scores, labels = sums["scores"].split(self._outputs, dim=1)
        return average_precisions(scores, labels)

    def combine(self, models: Sequence[nn.Module]) -> nn.Module:
        return MeanProbability(models, "sigmoid", self._heads.main)

    def predict(self, model: nn.Module, batch: Mapping[str, Any]) -> list[dict[str, Any]]:
        found = []
        for row in self._logits(model, batch).double().sigmoid().cpu().tolist():
            listed = [{"label": self._names[c], "class": c, "probability": p} for c, p in enumerate(row)]
            listed.sort(key=lambda entry: -entry["probability"])
            there = [entry for entry in listed if entry["probability"] >= _THERE]
            found.append({"labels": [entry["label"] for entry in there], "there": there, "top": listed[:_LISTED]})
        return found

    def draw(self, image: "Image", prediction: Mapping[str, Any]) -> "Image":
        from phalanx.train.pictures.caption import with_caption

        shown = prediction["there"][:_LISTED]
        return with_caption(image, [(entry["label"], entry["probability"]) for entry in shown] or [("no label", None)])
