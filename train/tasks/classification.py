"""Classification: one class per image."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from torch import Tensor, nn

from phalanx.configs.errors import UserError
from phalanx.configs.schema import RunConfig
from phalanx.models.losses import BinaryCrossEntropy, CrossEntropy, Loss
from phalanx.train.metrics import accuracy, calibration, ratio
from phalanx.train.tasks import DataInfo, Rows
from phalanx.train.tasks.criterion import criterion
from phalanx.train.tasks.ensemble import MeanProbability
from phalanx.train.tasks.output_heads import HEADS, Heads, auxiliary_weight, inputs
from phalanx.train.tasks.own_loss import label
from phalanx.train.tasks.own_metrics import OwnMetrics

if TYPE_CHECKING:
    from PIL.Image import Image

# Classes of the largest confusion matrix that is written (8 MB): larger ones are unreadable.
_LARGEST_CONFUSION = 1000
_LISTED = 5


class Classification:
    """The configured loss; top-1 and top-5 accuracy, mean class accuracy, calibration."""

    def __init__(self, config: RunConfig, data: DataInfo):
        self._outputs = outputs(config, data)
        self._heads = Heads(config, self._outputs)
        self._top = min(5, self._outputs)
        self._names = names(data.classes, self._outputs)
        self._loss_name = label(config.loss.name)
        self._auxiliary = config.loss.auxiliary
        self._loss = criterion(config.loss, data, self._outputs)
        self._own = OwnMetrics(config.evaluate.metrics)

    # -- training

    def weights(self, batch: Mapping[str, Any]) -> dict[str, float]:
        weight = float(self._loss.weight(batch["target"]))
        # A network's heads are known only from its output; the weight of one that it lacks is not used.
        return dict.fromkeys((self._loss_name, *(f"{self._loss_name}_{head}" for head in HEADS)), weight)

    def losses(self, model: nn.Module, batch: Mapping[str, Any]) -> dict[str, tuple[Tensor, Any]]:
        target = batch["target"]
        weight, found = self._loss.weight(target), dict[str, tuple[Tensor, Any]]()
        for head, logits in self._heads.of(model(inputs(batch)), inputs(batch)).items():  # [B, classes] each
            total = self._loss.total(logits, target)
            if head == "out":
                found[self._loss_name] = (total, weight)
            else:
                found[f"{self._loss_name}_{head}"] = (total * auxiliary_weight(model, self._auxiliary), weight)
        return found

    # -- evaluation

    def measure(self, model: nn.Module, batch: Mapping[str, Any]) -> dict[str, Tensor | Rows]:
        logits, target = self._logits(model, batch), batch["target"]  # [B, classes], [B]
        loss = without_smoothing(self._loss)
        sums: dict[str, Tensor | Rows] = {"loss": loss.total(logits, target), "loss_weight": loss.weight(target)}
        if target.is_floating_point():
            target = target.argmax(dim=1)
        counted = target >= 0
        target = target.clamp(min=0)
        best = logits.topk(self._top, dim=1).indices  # [B, top]
        hits = (best == target.unsqueeze(1)) & counted.unsqueeze(1)
        sums |= {
            "samples": counted.sum(),
            "top1": hits[:, 0].sum(),
            "top5": hits.sum(),
            "class_samples": accuracy.count_classes(target, counted, self._outputs),
            "class_hits": accuracy.count_classes(target, hits[:, 0], self._outputs),
        }
        sums |= self._own.sums(logits, batch["target"])
        if self._outputs <= _LARGEST_CONFUSION:
            sums["confusion"] = accuracy.confusion(target, best[:, 0], counted, self._outputs)
        confidence = logits.softmax(dim=1).gather(1, best[:, :1]).squeeze(1)
        return sums | calibration.count_bins(confidence, hits[:, 0], counted)

    def metrics(self, sums: Mapping[str, Any]) -> dict[str, float]:
        return {
            "loss": ratio(sums["loss"], sums["loss_weight"]),
            "top1": ratio(sums["top1"], sums["samples"]),
            "top5": ratio(sums["top5"], sums["samples"]),
            "top1_mean_class": accuracy.mean_class_accuracy(sums["class_hits"], sums["class_samples"]),
            "calibration_error": calibration.expected_error(sums["bin_samples"], sums["bin_hits"], sums["bin_confidence"]),
        } | self._own.values(sums)

    def details(self, sums: Mapping[str, Any]) -> dict[str, Any]:
        found: dict[str, Any] = {
            "per_class": accuracy.per_class(self._names, sums["class_hits"], sums["class_samples"]),
            "reliability": calibration.reliability(sums["bin_samples"], sums["bin_hits"], sums["bin_confidence"]),
        }
        if "confusion" in sums:
            found["confusion"] = sums["confusion"].tolist()
        return found

    def combine(self, models: Sequence[nn.Module]) -> nn.Module:
        return MeanProbability(models, "softmax", self._heads.main)

    def _logits(self, model: nn.Module, batch: Mapping[str, Any]) -> Tensor:
        """Shape: [B, classes]."""
        return self._heads.main(model(inputs(batch)), inputs(batch))

    # -- prediction

    def predict(self, model: nn.Module, batch: Mapping[str, Any]) -> list[dict[str, Any]]:
        probabilities = self._logits(model, batch).double().softmax(dim=1).cpu()
        best = probabilities.topk(min(_LISTED, self._outputs), dim=1)
        found = []
        for values, classes in zip(best.values.tolist(), best.indices.tolist(), strict=True):
            listed = [{"label": self._names[c], "class": c, "probability": p} for c, p in zip(classes, values, strict=True)]
            found.append(listed[0] | {"top": listed})
        return found

    def draw(self, image: "Image", prediction: Mapping[str, Any]) -> "Image":
        from phalanx.train.pictures.caption import with_caption

        return with_caption(image, [(entry["label"], entry["probability"]) for entry in prediction["top"][:3]])


def outputs(config: RunConfig, data: DataInfo) -> int:
    """Number of the network's outputs.

    Raises:
        UserError: if the data has more classes.
    """
    wanted = config.model.num_classes or len(data.classes)
    if wanted < len(data.classes):
        raise UserError(
            f"model.num_classes={wanted}, but the data has {len(data.classes)} classes. Set at least that many, or remove it."
        )
    return wanted


def names(classes: Sequence[str], count: int) -> list[str]:
    """The names of all outputs; those beyond the data's classes are numbered."""
    return [*classes, *(str(number) for number in range(len(classes), count))]


def without_smoothing(loss: Loss) -> Loss:
    """The loss without label smoothing, which would distort it in evaluation."""
    return replace(loss, label_smoothing=0.0) if isinstance(loss, CrossEntropy | BinaryCrossEntropy) else loss
