"""Metrics from sums and rows over a full split: the same to the last bit on any number of ranks.

Undefined values are left out of every mean. A mean of nothing is NaN: 0 would be the best of all losses.
COCO's and PASCAL VOC's average precision is -1 then, as in COCO's program.
"""

import math
from collections.abc import Iterable


def mean_of_known(values: Iterable[float | None]) -> float:
    """The mean of the known values; NaN if there are none."""
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known else math.nan


def ratio(part: float, total: float) -> float:
    """`part / total`; NaN if `total` is 0."""
    return part / total if total else math.nan
