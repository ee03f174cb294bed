"""Warnings by evaluations while training: classes that are never predicted, and ReLUs that are dead. Each is given once."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

_NAMED = 5
_MANY_DEAD = 0.5  # share of a layer's channels


def never_predicted(sums: Mapping[str, Any], names: Sequence[str]) -> str | None:
    """A warning on classes that have samples, or pixels, or objects, and are never predicted.

    Args:
        sums: with `confusion`, [classes or one more, the same]: true classes by predicted ones; without, nothing is known.
    """
    table = sums.get("confusion")
    if not isinstance(table, Tensor) or table.dim() != 2 or len(table) < len(names):
        return None
    true, predicted = table.sum(dim=1)[: len(names)], table.sum(dim=0)[: len(names)]
    missing = [name for name, here, seen in zip(names, true.tolist(), predicted.tolist(), strict=True) if here and not seen]
    if not missing:
        return None
    listed = ", ".join(missing[:_NAMED]) + (", ..." if len(missing) > _NAMED else "")
    return (
        f"{len(missing)} of {len(names)} classes are never predicted: {listed}. They may be too rare: set "
        "loss.class_weights=balanced or data.sampling=class_balanced, or train longer"
    )


class ReluWatch:
    """Counts the channels of every ReLU that are zero for all samples of a batch."""

    def __init__(self) -> None:
        self._alive: dict[str, Tensor] = {}

    @contextmanager
    def on(self, model: nn.Module) -> Iterator[None]:
        """Looks at the forwards of a module within the context."""
        handles = [
            module.register_forward_hook(self._hook(name))
            for name, module in model.named_modules()
            if isinstance(module, nn.ReLU)
        ]
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()

    def _hook(self, name: str) -> Any:
        def look(module: nn.Module, inputs: Any, output: Tensor) -> None:
            if output.dim() < 2:
                return
            alive = (output.detach() > 0).transpose(0, 1).flatten(1).any(dim=1)
            known = self._alive.get(name)
            # A module that is used several times in a forward, as ResNet's blocks use theirs, is dead where all uses are.
            self._alive[name] = alive if known is None or known.shape != alive.shape else known | alive

        return look

    def warning(self) -> str | None:
        """A warning on the layers most of whose channels are dead; waits for the device."""
        shares = {name: 1 - alive.to(torch.float32).mean().item() for name, alive in self._alive.items()}
        dead = {name: share for name, share in shares.items() if share > _MANY_DEAD}
        if not dead:
            return None
        worst = max(dead, key=dead.__getitem__)
        return (
            f"dead ReLUs: in {len(dead)} of {len(shares)} layers more than half of the channels are zero for all samples of a "
            f"batch, most in {worst} ({dead[worst]:.0%}). Lower optim.lr, or set model.init=he_normal"
        )


class HealthWarnings:
    """The warnings of a run's evaluations.

    Args:
        classes: their names.
    """

    def __init__(self, classes: Sequence[str]):
        self._classes, self._given = classes, set[str]()

    def of(self, sums: Mapping[str, Any], relus: ReluWatch, late: bool) -> Iterator[str]:
        """The warnings of an evaluation that were not given before.

        Args:
            sums: what the task measured.
            late: whether the run is half over: before, rare classes need not be learnt.
        """
        found = {"relus": relus.warning(), "classes": never_predicted(sums, self._classes) if late else None}
        for kind, sentence in found.items():
            if sentence is not None and kind not in self._given:
                self._given.add(kind)
                yield sentence
