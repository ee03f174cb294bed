"""Calibration: whether predictions with a confidence of 80 % are right in 80 of 100 cases.

Guo et al., On Calibration of Modern Neural Networks, ICML 2017 (arXiv:1706.04599), section 2: 15 bins of equal width.
"""

from typing import Any

import torch
from torch import Tensor

from phalanx.train.metrics import ratio

BINS = 15


def count_bins(confidence: Tensor, hit: Tensor, counted: Tensor) -> dict[str, Tensor]:
    """Sums over a batch per bin `((b-1)/15, b/15]` of confidence.

    Args:
        confidence: the probability of the predicted class, `[B]`.
        hit: whether the prediction is right, bool `[B]`.
        counted: whether the sample counts, bool `[B]`.

    Returns:
        `bin_samples` and `bin_hits`, int64 `[15]`, and `bin_confidence`, the sum of confidences, float64 `[15]`.
    """
    confidence = confidence.double()
    place = (confidence * BINS).ceil().long().clamp(1, BINS) - 1
    among = (place.unsqueeze(1) == torch.arange(BINS, device=place.device)) & counted.unsqueeze(1)  # [B, 15]
    # A product with a matrix of 0 and 1, since index_add has no fixed order on a GPU.
    return {
        "bin_samples": among.sum(dim=0),
        "bin_hits": (among & hit.unsqueeze(1)).sum(dim=0),
        "bin_confidence": torch.where(counted, confidence, 0.0) @ among.double(),
    }


def expected_error(samples: Tensor, hits: Tensor, confidence: Tensor) -> float:
    """Expected calibration error (equation 3): the mean over samples of |accuracy - confidence| of their bin.

    0 is best; NaN without samples.
    """
    gaps = zip(hits.tolist(), confidence.tolist(), strict=True)
    return ratio(sum(abs(hit - sure) for hit, sure in gaps), int(samples.sum()))


def reliability(samples: Tensor, hits: Tensor, confidence: Tensor) -> list[dict[str, Any]]:
    """The reliability diagram: one row per bin with samples."""
    rows = enumerate(zip(samples.tolist(), hits.tolist(), confidence.tolist(), strict=True))
    return [
        {"above": b / BINS, "to": (b + 1) / BINS, "samples": n, "top1": hit / n, "confidence": sure / n}
        for b, (n, hit, sure) in rows
        if n
    ]
