"""A trained network as one function of plain tensors, from pixels between 0 and 1: what ONNX and torch.export write."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torchvision.ops import nms

from phalanx.configs.errors import UserError
from phalanx.configs.schema import RunConfig
from phalanx.configs.tasks import DETECTION
from phalanx.models.detection.inference import Inference, of_best_class
from phalanx.models.detection.yolo.detector import Yolo
from phalanx.train.evaluation.predict import Predictor

_CANDIDATES = 3000  # most of a detector that enter non-maximum suppression, as in training's evaluations


class Exportable(nn.Module):
    """The network with its normalisation.

    Shape: image [B, C, H, W], float32 pixels between 0 and 1, of the recipe's size, to the outputs of `names`.
    """

    names: tuple[str, ...] = ("outputs",)
    batch: int | None = None  # None for any
    mean: Tensor
    std: Tensor

    def __init__(self, network: nn.Module, mean: Sequence[float], std: Sequence[float]):
        super().__init__()
        self.network = network
        self.register_buffer("mean", torch.tensor(mean).view(1, -1, 1, 1))
        self.register_buffer("std", torch.tensor(std).view(1, -1, 1, 1))

    def forward(self, image: Tensor) -> Tensor | tuple[Tensor, ...]:
        return self.outputs((image - self.mean) / self.std)

    def outputs(self, image: Tensor) -> Tensor | tuple[Tensor, ...]:
        found: Tensor = self.network(image)
        return found


class Probabilities(Exportable):
    """Of classification: `probabilities` [B, classes]; of several labels, of each by itself."""

    names = ("probabilities",)

    def __init__(self, network: nn.Module, mean: Sequence[float], std: Sequence[float], several: bool):
        super().__init__(network, mean, std)
        self._several = several

    def outputs(self, image: Tensor) -> Tensor:
        logits: Tensor = self.network(image)
        return logits.sigmoid() if self._several else logits.softmax(dim=1)


class Logits(Exportable):
    """Of segmentation: `logits` [B, classes, H, W]."""

    names = ("logits",)


class Values(Exportable):
    """Of regression: `values` [B, outputs]."""

    names = ("values",)


class YoloDetections(Exportable):
    """Of a YOLO network, for one image: `boxes` [n, 4] in pixels of the input, `scores` [n], best first, `labels` int64 [n].

    Non-maximum suppression is within; its candidates are as many as fit a static shape, so that it can be exported.
    """

    names = ("boxes", "scores", "labels")
    batch = 1

    def __init__(self, network: Yolo, mean: Sequence[float], std: Sequence[float], wanted: Inference):
        super().__init__(network, mean, std)
        self._wanted, self._yolo = wanted, network

    def outputs(self, image: Tensor) -> tuple[Tensor, ...]:
        height, width = image.shape[-2:]
        boxes, scores = self._yolo.decoded(image)
        scores = of_best_class(scores) if self._wanted.one_label else scores
        classes = scores.shape[-1]
        values, places = scores[0].flatten().topk(min(_CANDIDATES, scores.shape[1] * classes))
        labels, found = places % classes, boxes[0][places // classes]
        x, y = found[:, 0::2].clamp(0, width), found[:, 1::2].clamp(0, height)
        found = torch.stack([x[:, 0], y[:, 0], x[:, 1], y[:, 1]], dim=1)
        # Moved apart by classes, boxes of different ones never overlap.
        apart = labels.to(found.dtype) * (max(height, width) + 1)
        kept = nms(found + apart[:, None], values, self._wanted.nms_iou)
        kept = kept[values[kept] >= self._wanted.score][: self._wanted.detections]
        return found[kept], values[kept], labels[kept]


def exportable(asked: Predictor, config: RunConfig) -> Exportable:
    """The network of a predictor.

    Raises:
        UserError: if such a network cannot be exported.
    """
    network, statistics = asked.network, (asked.pipeline.mean, asked.pipeline.std)
    if config.task.name in DETECTION:
        if not isinstance(network, Yolo):
            raise UserError(
                f"model.name={config.model.name}: of detectors, only YOLO networks are exported as a graph. "
                "Export weights (-o FILE.safetensors)."
            )
        evaluate = config.evaluate
        wanted = Inference(evaluate.score, evaluate.nms_iou, evaluate.detections, evaluate.one_label)
        return YoloDetections(network, *statistics, wanted).eval()
    if config.task.name == "classification":
        return Probabilities(network, *statistics, several=asked.kind == "multilabel").eval()
    kinds = {"segmentation": Logits, "regression": Values}
    return kinds.get(config.task.name, Exportable)(network, *statistics).eval()
