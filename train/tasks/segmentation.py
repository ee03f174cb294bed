"""Semantic segmentation: the class of every pixel."""

import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from phalanx.configs.schema import RunConfig
from phalanx.configs.sections.evaluate import EvaluateConfig
from phalanx.data.transforms.fit import evaluated_placement
from phalanx.models.segmentation.crf import dense_crf
from phalanx.train.metrics import boundary, mean_of_known, pixel_confusion
from phalanx.train.tasks import DataInfo, Rows
from phalanx.train.tasks.classification import names, outputs
from phalanx.train.tasks.ensemble import MeanProbability
from phalanx.train.tasks.output_heads import HEADS, Heads, auxiliary_weight
from phalanx.train.tasks.pixel_criterion import pixel_criterion, probabilities
from phalanx.train.tasks.views import Views, at_size

if TYPE_CHECKING:
    from PIL.Image import Image

_UNKNOWN = -1  # ignored by losses and metrics
_TINY = 1e-7  # a probability whose logarithm is finite, and whose difference from 1 is representable in float32


class Segmentation:
    """The configured losses of pixels; mean IoU, pixel accuracy, Dice and boundary F-score at the masks' original size."""

    def __init__(self, config: RunConfig, data: DataInfo):
        self._outputs = outputs(config, data)
        self._heads = Heads(config, self._outputs, maps=True)
        self._names = names(data.classes, self._outputs)
        self._ignored = config.data.ignore_index if data.ignored is None else data.ignored
        self._data, self._evaluate = config.data, config.evaluate
        self._crf = _crf(config.evaluate)
        self._auxiliary = config.loss.auxiliary
        self._parts = pixel_criterion(config.loss, data, self._outputs)
        self._probabilities = probabilities(config.loss)

    def _target(self, mask: Tensor) -> Tensor:
        """The mask with a negative number at ignored pixels."""
        return mask.masked_fill(mask == self._ignored, _UNKNOWN)

    # -- training

    def weights(self, batch: Mapping[str, Any]) -> dict[str, float]:
        target, found = self._target(batch["mask"]), dict[str, float]()
        for part in self._parts:
            if part.depends_on_predictions:
                continue
            weight = float(part.loss.weight(target))
            # A network's heads are known only from its output; the weight of one that it lacks is not used.
            found |= dict.fromkeys((part.name, *(f"{part.name}_{head}" for head in HEADS)), weight)
        return found

    def losses(self, model: nn.Module, batch: Mapping[str, Any]) -> dict[str, tuple[Tensor, Any]]:
        target, found = self._target(batch["mask"]), dict[str, tuple[Tensor, Any]]()  # [B, H, W]
        for head, logits in self._heads.of(model(batch["image"]), batch["image"]).items():  # [B, classes, H, W] each
            for part in self._parts:
                total, weight = part.of(logits, target)
                if head == "out":
                    found[part.name] = (total, weight)
                else:
                    found[f"{part.name}_{head}"] = (total * auxiliary_weight(model, self._auxiliary), weight)
        return found

    # -- evaluation

    def measure(self, model: nn.Module, batch: Mapping[str, Any]) -> dict[str, Tensor | Rows]:
        parts, device = [part.without_training() for part in self._parts], _computes_like(model, batch).device
        sums: dict[str, Tensor] = {
            "loss": torch.zeros(len(parts), dtype=torch.float64, device=device),
            "loss_weight": torch.zeros(len(parts), dtype=torch.float64, device=device),
            "confusion": torch.zeros(self._outputs, self._outputs, dtype=torch.int64, device=device),
            "boundary_f": torch.zeros(self._outputs, dtype=torch.float64, device=device),
            "boundary_images": torch.zeros(self._outputs, dtype=torch.int64, device=device),
        }
        sizes = [tuple(mask.shape) for mask in batch["mask"]]
        for logits, mask in zip(self._at_sizes(model, batch, sizes), batch["mask"], strict=True):
            target, predicted = self._target(mask.to(device, non_blocking=True)), logits.argmax(dim=0)
            for place, part in enumerate(parts):
                total, weight = part.of(logits.unsqueeze(0), target.unsqueeze(0))
                sums["loss"][place] += total
                sums["loss_weight"][place] += weight
            sums["confusion"] += pixel_confusion.confusion(target, predicted, self._outputs)
            score, there = boundary.boundary_f(target, predicted, self._outputs)
            sums["boundary_f"] += score
            sums["boundary_images"] += there
        return dict(sums)

    def _at_sizes(self, model: nn.Module, batch: Mapping[str, Any], sizes: Sequence[Sequence[int]]) -> Iterator[Tensor]:
        """Logits [classes, H, W] of each image at its original size, before it was resized to the network's input."""
        for place, (logits, size) in enumerate(zip(self._logits(model, batch), sizes, strict=True)):
            top, left, height, width = evaluated_placement(self._data, self._evaluate, size)
            whole = logits[:, top : top + height, left : left + width]
            found = at_size(whole.unsqueeze(0), torch.Size(size)).squeeze(0)
            yield self._refined(found, batch["pixels"][place]) if self._evaluate.crf else found

    def _logits(self, model: nn.Module, batch: Mapping[str, Any]) -> Iterator[Tensor]:
        """Logits [classes, h, w] of each image in its input size."""
        network = Views(model, self._evaluate, self._probabilities, self._heads.main)
        if isinstance(batch["image"], Tensor):
            yield from network(batch["image"])
            return
        like = _computes_like(model, batch)
        for image in batch["image"]:
            yield network(image.unsqueeze(0).to(like)).squeeze(0)

    def _refined(self, logits: Tensor, pixels: Tensor) -> Tensor:
        """Logits of the network's probabilities, refined by a dense CRF. Shape: [classes, H, W], uint8 [C, H, W]."""
        given = logits if self._probabilities == "softmax" else F.logsigmoid(logits)
        refined = dense_crf.refine(pixels.to(logits.device), given, self._crf).clamp(min=_TINY)
        return refined.log() if self._probabilities == "softmax" else refined.logit(eps=_TINY)

    def metrics(self, sums: Mapping[str, Any]) -> dict[str, float]:
        confusion, losses = sums["confusion"], zip(sums["loss"].tolist(), sums["loss_weight"].tolist(), strict=True)
        known = [total / weight for total, weight in losses if weight]
        return {
            "loss": sum(known) if known else math.nan,
            "miou": mean_of_known(pixel_confusion.iou(confusion)),
            "pixel_accuracy": pixel_confusion.pixel_accuracy(confusion),
            "dice": mean_of_known(pixel_confusion.dice(confusion)),
            "boundary_f": mean_of_known(self._boundary_f(sums)),
        }

    def _boundary_f(self, sums: Mapping[str, Any]) -> list[float | None]:
        """Per class, the mean over the images where it has a boundary."""
        counts = zip(sums["boundary_f"].tolist(), sums["boundary_images"].tolist(), strict=True)
        return [total / images if images else None for total, images in counts]

    def details(self, sums: Mapping[str, Any]) -> dict[str, Any]:
        return {
            "per_class": pixel_confusion.per_class(self._names, sums["confusion"], self._boundary_f(sums)),
            "confusion": sums["confusion"].tolist(),
        }

    def combine(self, models: Sequence[nn.Module]) -> nn.Module:
        return MeanProbability(models, self._probabilities, self._heads.main)

    # -- prediction

    def predict(self, model: nn.Module, batch: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
        """Per image: `mask` [H, W], `logits` [classes, H, W], and `classes`, one row per class in it."""
        for logits in self._at_sizes(model, batch, batch["size"].tolist()):
            mask = logits.argmax(dim=0)
            pixels = torch.bincount(mask.flatten(), minlength=self._outputs).tolist()
            there = sorted((c for c in range(self._outputs) if pixels[c]), key=lambda c: -pixels[c])
            rows = [
                {"label": self._names[c], "class": c, "pixels": pixels[c], "share": pixels[c] / mask.numel()} for c in there
            ]
            yield {"classes": rows, "mask": mask.cpu().numpy(), "logits": logits}

    def draw(self, image: "Image", prediction: Mapping[str, Any]) -> "Image":
        from phalanx.train.pictures.overlay import with_overlay

        legend = [(row["class"], row["label"], row["share"]) for row in prediction["classes"]]
        return with_overlay(image, prediction["mask"], legend)

    def write(self, prediction: Mapping[str, Any], folder: Path, place: Path, probabilities: bool) -> dict[str, Any]:
        from phalanx.train.pictures.mask_files import write_mask

        mask = Path("masks") / place.with_suffix(".png")
        write_mask(folder / mask, prediction["mask"], self._outputs)
        found = {"mask": str(mask), "classes": prediction["classes"]}
        if not probabilities:
            return found
        logits, file = prediction["logits"], Path("probabilities") / place.with_suffix(".npy")
        given = logits.softmax(dim=0) if self._probabilities == "softmax" else logits.sigmoid()
        (folder / file).parent.mkdir(parents=True, exist_ok=True)
        numpy.save(folder / file, given.half().cpu().numpy(), allow_pickle=False)
        return found | {"probabilities": str(file)}


def _computes_like(model: nn.Module, batch: Mapping[str, Any]) -> Tensor:
    """A batch's images on the network's device and in its dtype; those of several sizes were left on the CPU."""
    image: Tensor | Sequence[Tensor] = batch["image"]
    return image if isinstance(image, Tensor) else next(model.parameters())


def _crf(config: EvaluateConfig) -> dense_crf.Parameters:
    return dense_crf.Parameters(
        appearance=config.crf_appearance,
        appearance_pixels=config.crf_appearance_pixels,
        appearance_colour=config.crf_appearance_colour,
        smoothness=config.crf_smoothness,
        smoothness_pixels=config.crf_smoothness_pixels,
        iterations=config.crf_iterations,
    )
