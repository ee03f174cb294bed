"""Classification: one class an image."""

from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from phalanx.configs.schema import RunConfig
from phalanx.train.tasks import DataFacts


class Classification:
    """Cross-entropy, with label smoothing if asked; top-1 and top-5 accuracy."""

    def __init__(self, config: RunConfig, data: DataFacts):
        self._smoothing = config.loss.label_smoothing
        self._top = min(5, config.model.num_classes or len(data.classes))

    def weights(self, batch: Mapping[str, Any]) -> dict[str, float]:
        return {"cross_entropy": float(len(batch["target"]))}

    def losses(self, model: nn.Module, batch: Mapping[str, Any]) -> dict[str, tuple[Tensor, float]]:
        logits = model(batch["image"])  # [B, classes]
        total = F.cross_entropy(logits, batch["target"], reduction="sum", label_smoothing=self._smoothing)
        return {"cross_entropy": (total, float(len(logits)))}

    def measure(self, model: nn.Module, batch: Mapping[str, Any]) -> dict[str, Tensor]:
        logits, target = model(batch["image"]), batch["target"]  # [B, classes], [B]
        hits = logits.topk(self._top, dim=1).indices == target.unsqueeze(1)  # [B, top]
        return {
            "samples": torch.tensor(float(len(target))),
            "loss": F.cross_entropy(logits, target, reduction="sum"),
            "top1": hits[:, 0].sum(),
            "top5": hits.sum(),
        }

    def metrics(self, sums: Mapping[str, float]) -> dict[str, float]:
        return {name: sums[name] / sums["samples"] for name in ("loss", "top1", "top5")}
