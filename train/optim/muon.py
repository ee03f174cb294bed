"""Muon for matrices, AdamW for all other parameters.

Jordan et al., Muon: An optimizer for hidden layers in neural networks, 2024 (kellerjordan.github.io/posts/muon); Liu et al.,
Muon is Scalable for LLM Training, 2025 (arXiv:2502.16982), whose `adjust_lr_fn=match_rms_adamw` lets both have one learning
rate. torch's Muon takes parameters of two dimensions: a convolution's weight, which has four, is AdamW's here.
"""

from collections.abc import Iterable
from typing import Any

import torch

from phalanx.train.optim.joined import Joined


class Muon(Joined):
    """Both as one optimizer.

    Args:
        groups: of parameters, with `weight_decay` and `lr`.
        momentum, nesterov, ns_coefficients, ns_steps, adjust_lr_fn: Muon's, see `torch.optim.Muon`.
        betas, eps: AdamW's.
    """

    def __init__(
        self,
        groups: Iterable[dict[str, Any]],
        lr: float,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        momentum: float = 0.95,
        nesterov: bool = True,
        ns_coefficients: tuple[float, float, float] = (3.4445, -4.775, 2.0315),
        ns_steps: int = 5,
        adjust_lr_fn: str | None = None,
    ):
        groups = list(groups)
        made: list[torch.optim.Optimizer] = []
        if matrices := _of(groups, matrices=True):
            how = {"momentum": momentum, "nesterov": nesterov, "ns_steps": ns_steps, "adjust_lr_fn": adjust_lr_fn}
            made.append(torch.optim.Muon(matrices, lr=lr, ns_coefficients=ns_coefficients, **how))  # type: ignore[arg-type]
        if others := _of(groups, matrices=False):
            made.append(torch.optim.AdamW(others, lr=lr, betas=betas, eps=eps))
        super().__init__(made)


def _of(groups: Iterable[dict[str, Any]], matrices: bool) -> list[dict[str, Any]]:
    """The groups with their matrices, or with all else; those of which nothing is left are left out."""
    parted = [{**group, "params": [p for p in group["params"] if (p.dim() == 2) is matrices]} for group in groups]
    return [group for group in parted if group["params"]]
