"""Auxiliary heads: classifiers on earlier features that help deep networks learn, and are dropped in evaluation.

Szegedy et al., Going Deeper with Convolutions, CVPR 2015 (arXiv:1409.4842), section 5: their losses have weight 0.3.
"""

from typing import Any

from torch import Tensor, nn

HEADS = ("aux1", "aux2", "aux3")


def heads(output: Tensor | dict[str, Tensor]) -> dict[str, Tensor]:
    """The logits of a network by head, `out` first: of a tensor, or of a dictionary with `out`, `aux1`, ...

    Raises:
        ValueError: if a dictionary has other names.
    """
    if isinstance(output, Tensor):
        return {"out": output}
    unknown = set(output) - {"out", *HEADS}
    if unknown or "out" not in output:
        raise ValueError(f"the network returned {', '.join(output)}; heads are called out, {', '.join(HEADS)}")
    return {"out": output["out"]} | {name: output[name] for name in HEADS if name in output}


def auxiliary_weight(model: nn.Module, configured: float | None) -> float:
    """The weight of auxiliary losses: as configured, else the network's attribute, under any wrapper.

    Raises:
        ValueError: if neither sets it.
    """
    if configured is not None:
        return configured
    for module in model.modules():
        weight: Any = getattr(module, "auxiliary_weight", None)
        if weight is not None:
            return float(weight)
    raise ValueError("the network has auxiliary heads, but no attribute auxiliary_weight; set loss.auxiliary")
