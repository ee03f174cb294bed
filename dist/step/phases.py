"""The phases of a step: one after another, each with losses and an optimizer's step of its own parameters.

Most tasks have one. A GAN has two: first the discriminator learns, then the generator (Goodfellow et al., NIPS 2014,
arXiv:1406.2661, algorithm 1). All phases of a step see the same batch. No torch here.
"""

import difflib
import fnmatch
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from phalanx.configs.errors import UserError

if TYPE_CHECKING:
    from phalanx.dist.step.first_forward import LossesOf


@dataclass(frozen=True)
class Phase:
    """One of a task's phases.

    Attributes:
        name: in messages, and in `optim.phases` of the recipe.
        losses: as `Task.losses`; the names of losses differ between phases.
        trains: shell patterns of the parameters that this phase trains, such as `("discriminator.*",)`.
        every: the phase runs in every so many steps, first in step 1.
    """

    name: str
    losses: "LossesOf"
    trains: Sequence[str] = ("*",)
    every: int = 1


class Phases:
    """Where a step is.

    Attributes:
        number: of the running phase, among all of the task's.
        losses: the names of each phase's losses, known from the warm-up.
    """

    def __init__(self, phases: Sequence[Phase]):
        self._all = phases
        self.number, self._due = 0, [0]
        self.losses: list[tuple[str, ...]] = [()] * max(1, len(phases))

    def of_step(self, step: int) -> Iterator[Phase]:
        """The phases of the step after `step` finished ones, one after another."""
        self._due = [number for number, phase in enumerate(self._all) if step % phase.every == 0]
        for number in self._due:
            self.number = number
            yield self._all[number]

    @property
    def is_first(self) -> bool:
        return self.number == self._due[0]

    @property
    def is_last(self) -> bool:
        return self.number == self._due[-1]

    def set_losses(self, names: Sequence[tuple[str, ...]]) -> None:
        """
        Raises:
            UserError: if two phases have a loss of one name.
        """
        self.losses = list(names)
        owners: dict[str, str] = {}
        for phase, own in zip(self._all, names, strict=False):
            for name in own:
                if name in owners:
                    raise UserError(
                        f"the task's phases {owners[name]} and {phase.name} both return a loss named {name}. Rename one.",
                        shared=True,
                    )
                owners[name] = phase.name

    def weights(self, known: Mapping[str, float], default: float) -> dict[str, float | None]:
        """The weight of every loss over the global batch; None for those of phases that this step leaves out.

        Args:
            known: the weights known from the targets.
            default: of the other losses.
        """
        return {
            name: known.get(name, default) if number in self._due else None
            for number, own in enumerate(self.losses)
            for name in own
        }


def trained_in(phases: Sequence[Phase], names: Collection[str]) -> list[frozenset[str]]:
    """The parameters that each phase trains.

    Args:
        names: of the parameters that are not frozen.

    Raises:
        UserError: if phases are ill-defined, share a parameter, or leave one out.
    """
    listed = [phase.name for phase in phases]
    if len(set(listed)) < len(listed):
        raise UserError(f"the task's phases are named {', '.join(listed)}. Give each a name of its own.", shared=True)
    if not any(phase.every == 1 for phase in phases):
        raise UserError(f"none of the task's phases {', '.join(listed)} runs in every step. Let one have every=1.", shared=True)
    owners: dict[str, str] = {}
    result = []
    for phase in phases:
        if not isinstance(phase.every, int) or phase.every < 1:
            raise UserError(f"the task's phase {phase.name} has every={phase.every}. Give a positive integer.", shared=True)
        found = frozenset(name for pattern in phase.trains for name in _matching(phase, pattern, names))
        for name in sorted(found):
            if name in owners:
                raise UserError(
                    f"the task's phases {owners[name]} and {phase.name} both train {name}. Leave it to one of them.",
                    shared=True,
                )
            owners[name] = phase.name
        result.append(found)
    if missing := [name for name in names if name not in owners]:
        more = f" and {len(missing) - 1} more" if len(missing) > 1 else ""
        raise UserError(
            f"none of the task's phases {', '.join(listed)} trains {missing[0]}{more}. Add it to `trains` of one of them, or "
            f"freeze it (model.freeze=[{missing[0]}]).",
            shared=True,
        )
    return result


def _matching(phase: Phase, pattern: str, names: Collection[str]) -> list[str]:
    if found := fnmatch.filter(names, pattern):
        return found
    near = difflib.get_close_matches(pattern, names, n=1, cutoff=0.4) or sorted(names)[:1]
    hint = f" There is, for example, {near[0]}." if near else ""
    raise UserError(
        f"the task's phase {phase.name} trains {pattern}, but no trained parameter has such a name.{hint}", shared=True
    )
