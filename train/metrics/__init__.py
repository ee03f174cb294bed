"""Metrics from sums and rows over a whole split: the same to the last bit however many ranks measured them.

What has nothing to be measured on is left out of every mean. A mean of nothing is NaN: 0 would be the best of all losses.
COCO's and PASCAL VOC's average precision is -1 then, as COCO's program has it.
"""

import math
from collections.abc import Iterable


def mean_of_known(values: Iterable[float | None]) -> float:
    """The mean of those that are known; NaN where none is."""
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known else math.nan


def ratio(part: float, whole: float) -> float:
    """`part / whole`; NaN of nothing."""
    return part / whole if whole else math.nan
