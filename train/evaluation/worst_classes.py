"""The classes on which an evaluation went worst."""

from collections.abc import Mapping
from typing import Any

_MEASURES = ("iou", "ap", "top1")  # of a class, by which it is judged
_MOST = 3
_FEW = 4  # classes of which all are listed elsewhere


def worst_classes(details: Mapping[str, Any]) -> str | None:
    """A line that names them, by the results of `Details.details`; None where there are too few classes, or no measure."""
    rows = details.get("per_class") or []
    measure = next((name for name in _MEASURES if rows and name in rows[0]), None)
    known = [] if measure is None else [row for row in rows if row.get(measure) is not None]
    if len(known) < _FEW:
        return None
    worst = sorted(known, key=lambda row: row[measure])[:_MOST]
    return f"worst classes by {measure}: " + ", ".join(f"{row['class']} {row[measure]:.4f}" for row in worst)
