"""Warnings while training: a loss that rises from the start, gradients that vanish or explode. Each is given once."""

import math
import statistics
from collections import deque
from collections.abc import Iterator

from phalanx.dist.step.step_metrics import StepFigures

_WINDOW = 20  # steps whose losses are averaged
_RISEN = 1.2  # times the first window's loss
_VANISHED = 1e-8  # norm of the gradient
_EXPLODED = 100.0  # times the median norm of the window before


class LossWatch:
    """Looks at the figures of each step.

    Norms are known where `train.clip_norm` is set. A run that resumes begins anew.
    """

    def __init__(self) -> None:
        self._first: list[float] = []
        self._recent: deque[float] = deque(maxlen=_WINDOW)
        self._norms: deque[float] = deque(maxlen=_WINDOW)
        self._given: set[str] = set()

    def add(self, known: StepFigures) -> Iterator[str]:
        """The warnings that a step gives rise to."""
        loss = sum(known.losses.values())
        if math.isfinite(loss):
            yield from self._of_loss(known.step, loss)
        if known.norm is not None and math.isfinite(known.norm) and not known.skipped:
            yield from self._of_norm(known.step, known.norm)

    def _of_loss(self, step: int, loss: float) -> Iterator[str]:
        if len(self._first) < _WINDOW:
            self._first.append(loss)
            return
        self._recent.append(loss)
        before, now = statistics.fmean(self._first), statistics.fmean(self._recent)
        # Only from the start: a loss that rises later is overfitting, or its schedule.
        if len(self._recent) == _WINDOW and step <= 10 * _WINDOW and before > 0 and now > _RISEN * before:
            yield from self._once(
                "loss",
                f"the loss rises from the start: {before:.4g} in the first {_WINDOW} steps, {now:.4g} up to step {step}. Lower "
                "optim.lr, or set schedule.warmup_steps and train.clip_norm; `phalanx find-lr` finds a rate",
            )

    def _of_norm(self, step: int, norm: float) -> Iterator[str]:
        if norm < _VANISHED:
            yield from self._once(
                "vanishing",
                f"step {step}: the gradients vanish (norm {norm:.1g}): nothing is learnt. Check the loss and model.init, or "
                "add normalisation layers",
            )
        if len(self._norms) == _WINDOW and norm > _EXPLODED * statistics.median(self._norms):
            yield from self._once(
                "exploding",
                f"step {step}: the gradients explode (norm {norm:.3g}, before about {statistics.median(self._norms):.3g}). "
                "Lower optim.lr or train.clip_norm",
            )
        self._norms.append(norm)

    def _once(self, kind: str, sentence: str) -> Iterator[str]:
        if kind not in self._given:
            self._given.add(kind)
            yield sentence
