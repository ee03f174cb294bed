"""A user's own detector, which is called and answers as torchvision's are: class 0 is the background, losses are means."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from phalanx.configs.errors import UserError
from phalanx.configs.own_code import is_own
from phalanx.configs.schema import RunConfig
from phalanx.configs.tasks import DETECTION
from phalanx.models import registry
from phalanx.models.detection.inference import Inference
from phalanx.train.tasks.output_heads import shown


def has_background(config: RunConfig) -> bool:
    """Whether the network counts the background among its classes."""
    name = config.model.name
    return config.task.name in DETECTION if is_own(name) else registry.get(name).background


class OwnDetector:
    """
    Args:
        name: of the network, for messages.
    """

    def __init__(self, name: str):
        self._name = name

    def losses(
        self, model: nn.Module, images: Sequence[Tensor], targets: Sequence[Mapping[str, Any]]
    ) -> dict[str, tuple[Tensor, Any]]:
        """Each loss with the weight 1: the mean over micro-batches is taken.

        Raises:
            UserError: if it does not return a dictionary of numbers.
        """
        device = images[0].device
        learnt = [{"boxes": one["boxes"].to(device), "labels": one["labels"].to(device) + 1} for one in targets]
        found = model(list(images), learnt)
        numbers = isinstance(found, Mapping) and all(isinstance(v, Tensor) and v.dim() == 0 for v in found.values())
        if not numbers or not found:
            raise UserError(
                f"model.name={self._name}: in training the network returned {shown(found)}, but task.name=detection needs a "
                "dictionary of losses, each a tensor without dimensions, as torchvision's detectors return. Return that.",
                shared=True,
            )
        return {str(name): (value, 1.0) for name, value in found.items()}

    def detected(self, model: nn.Module, images: Sequence[Tensor], wanted: Inference) -> list[dict[str, Tensor]]:
        """Of each image `boxes`, `scores` and `labels`, best first, as the built-in detectors give them.

        Raises:
            UserError: if it does not return these.
        """
        found = model(list(images))
        if not isinstance(found, list | tuple) or not all(
            isinstance(one, Mapping) and {"boxes", "scores", "labels"} <= set(one) for one in found
        ):
            raise UserError(
                f"model.name={self._name}: in evaluation the network returned {shown(found)}, but task.name=detection needs a "
                "list of dictionaries with boxes, scores and labels, as torchvision's detectors return. Return that.",
                shared=True,
            )
        results = []
        for one in found:
            order = torch.argsort(one["scores"], descending=True, stable=True)
            order = order[(one["scores"][order] >= wanted.score)][: wanted.detections]
            results.append({"boxes": one["boxes"][order], "scores": one["scores"][order], "labels": one["labels"][order] - 1})
        return results
