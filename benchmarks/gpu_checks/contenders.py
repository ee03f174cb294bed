"""What `speed.py` measures: our engine, and loops written by hand around networks of torchvision, timm, or ours."""

import sys
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmarks.gpu_checks.training import Training

IGNORED = 255
Batch = dict[str, Any]
# The loss of a model on a batch that is on its device.
LossOf = Callable[[nn.Module, Batch], Tensor]


class ByHand:
    """A training loop as a user writes it, in bf16 by autocast, on batches in pinned memory.

    Args:
        training: ours, whose batches it uses.
        channels_last: whether images and weights have this memory format.
    """

    def __init__(self, training: Training, model: nn.Module, loss_of: LossOf, channels_last: bool):
        self._device, self._loss_of, self._number = training.engine.world.device, loss_of, 0
        self._memory = torch.channels_last if channels_last else torch.preserve_format
        self.model = model.to(self._device, memory_format=self._memory).train()
        self._optimizer = torch.optim.SGD(self.model.parameters(), lr=1e-3, momentum=0.9)
        self._batches: Sequence[Batch] = [batch.micro_batches[0] for batch in training.batches]

    def _here(self, value: Any) -> Any:
        if isinstance(value, Tensor):
            memory = self._memory if value.dim() == 4 and value.is_floating_point() else torch.preserve_format
            return value.to(self._device, non_blocking=True, memory_format=memory)
        return [self._here(one) for one in value] if isinstance(value, list | tuple) else value

    def _autocast(self) -> AbstractContextManager[Any]:
        return torch.autocast(self._device.type, torch.bfloat16)

    def step(self) -> None:
        batch = {name: self._here(value) for name, value in self._batches[self._number % len(self._batches)].items()}
        with self._autocast():
            loss = self._loss_of(self.model, batch)
        loss.backward()
        self._optimizer.step()
        self._optimizer.zero_grad(set_to_none=True)
        self._number += 1
        self.loss = loss.detach()

    def losses(self) -> dict[str, float]:
        return {"loss": float(self.loss)}


def classes(model: nn.Module, batch: Batch) -> Tensor:
    return F.cross_entropy(model(batch["image"]), batch["target"])


def pixels(model: nn.Module, batch: Batch) -> Tensor:
    found = model(batch["image"])
    scores = found["out"] if isinstance(found, dict) else found
    return F.cross_entropy(scores, batch["mask"].long(), ignore_index=IGNORED)


def torchvision_objects(model: nn.Module, batch: Batch) -> Tensor:
    """torchvision's detectors count the background as class 0."""
    columns = zip(batch["boxes"], batch["labels"], batch["masks"], strict=True)
    targets = [{"boxes": boxes, "labels": labels + 1, "masks": masks.to(torch.uint8)} for boxes, labels, masks in columns]
    losses: dict[str, Tensor] = model(list(batch["image"]), targets)
    return torch.stack(list(losses.values())).sum()


def of_our_task(training: Training) -> LossOf:
    """The losses of one of our networks, each a sum and its weight, as our task computes them."""

    def loss_of(model: nn.Module, batch: Batch) -> Tensor:
        losses = training.task.losses(model, batch)
        return torch.stack([total / weight for total, weight in losses.values()]).sum()

    return loss_of


def torchvision_network(name: str, **options: Any) -> nn.Module:
    import torchvision

    found: nn.Module = torchvision.models.get_model(name, weights=None, **options)
    return found


def torchvision_mask_rcnn(backbone: str, side: int, classes: int) -> nn.Module:
    """torchvision's, whose own transform leaves images of this size as they are."""
    from torchvision.models.detection import MaskRCNN
    from torchvision.models.detection.backbone_utils import resnet_fpn_backbone

    body = resnet_fpn_backbone(backbone_name=backbone, weights=None, trainable_layers=5)
    found: nn.Module = MaskRCNN(body, num_classes=classes + 1, min_size=side, max_size=side)
    return found


def timm_network(name: str, classes: int, **options: Any) -> nn.Module:
    if "wandb" not in sys.modules:
        # timm imports it where it is installed; it makes folders then, which a process that is killed leaves behind.
        sys.modules["wandb"] = None  # type: ignore[assignment]
    import timm

    found: nn.Module = timm.create_model(name, pretrained=False, num_classes=classes, **options)
    return found
