"""A detector's targets, on its device."""

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor

from phalanx.models.detection.wide import wide


def on_device(targets: Sequence[Mapping[str, Any]], like: Tensor) -> list[dict[str, Any]]:
    """Targets on the device of a batch, their boxes in its format, but never in half precision; all else as it is."""
    boxes_like = wide(like[:0])
    moved = []
    for target in targets:
        own = {name: value.to(like.device) if isinstance(value, Tensor) else value for name, value in target.items()}
        moved.append(own | {"boxes": own["boxes"].reshape(-1, 4).to(boxes_like.dtype)})
    return moved
