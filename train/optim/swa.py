"""Stochastic weight averaging as a recipe states it: Izmailov et al., UAI 2018 (arXiv:1803.05407)."""

from phalanx.configs.errors import UserError
from phalanx.configs.schema import RunConfig
from phalanx.dist.ema import shares


def first(config: RunConfig, last_step: int) -> int:
    """The first step whose weights are averaged."""
    assert config.train.swa_start is not None
    return max(1, round(config.train.swa_start * last_step))


def share_of_new(config: RunConfig, last_step: int, epoch: float, phases: int = 1) -> shares.ShareOfNew | None:
    """What share the weights have in their average after each step; None without `train.swa_start`.

    Args:
        last_step: the run's number of steps.
        epoch: steps of an epoch.
        phases: how many the task has.

    Raises:
        UserError: if there are several.
    """
    if config.train.swa_start is None:
        return None
    if phases > 1:
        raise UserError(
            f"train.swa_start: the task has {phases} phases, and averages are for one. Remove it, or set train.ema.",
            shared=True,
        )
    return shares.equal(first(config, last_step), config.train.swa_every or max(1, round(epoch)))
