"""What share new weights have in an average of weights, as a function of the update's number alone."""

import math
from collections.abc import Callable

ShareOfNew = Callable[[int], float]


def exponential(
    decay: float, ramp: int | None = None, copies: int = 0, is_due: Callable[[int], bool] = lambda update: True
) -> ShareOfNew:
    """An exponential moving average (EMA): 1 - decay; with a ramp the decay rises to that as `decay * (1 - exp(-n / ramp))`.

    The ramp is that of Ultralytics' YOLOv5 and YOLOv8 (`ModelEMA` in `utils/torch_utils.py`) and of YOLOX: the initial weights
    count for nothing after a few updates, and the average is over about the last `1 / (1 - decay)`, but over few where there
    were few.

    Args:
        decay: share of the old average, between 0 and 1.
        ramp: updates over which the decay rises; None for a constant one.
        copies: updates up to which the average is a copy of the weights, as in torchvision's references while they warm up.
        is_due: whether the average is updated after an update of the optimizer, counted from 1.
    """

    def share(update: int) -> float:
        if not is_due(update):
            return 0.0
        if update <= copies:
            return 1.0
        return 1 - (decay if ramp is None else decay * (1 - math.exp(-update / ramp)))

    return share


def in_each_epoch(every: int, global_batch: int, samples: int | None) -> Callable[[int], bool]:
    """Whether an update is an epoch's first, or one of every `every`-th after that, as torchvision's references count.

    Args:
        global_batch, samples: of a step, and of an epoch; None: all updates are of one epoch.
    """

    def is_due(update: int) -> bool:
        step = update - 1
        if samples is not None:
            epoch = step * global_batch // samples
            step -= -(-epoch * samples // global_batch)  # the first step whose first sample is of this epoch
        return step % every == 0

    return is_due


def equal(start: int, every: int) -> ShareOfNew:
    """Stochastic weight averaging (SWA): the mean of the weights after update `start` and after every `every`-th from there on.

    Before, the average is the weights. Izmailov et al., UAI 2018 (arXiv:1803.05407), algorithm 1.

    Args:
        start: the first averaged update, counted from 1.
        every: updates between two of them.
    """

    def share(update: int) -> float:
        if update <= start:
            return 1.0
        number, between = divmod(update - start, every)
        return 0.0 if between else 1 / (number + 1)

    return share
