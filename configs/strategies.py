"""The strategies by name: what they shard, and who runs them. The only table of strategies. No torch here.

A new strategy is a line here, its name in `StrategyName`, and a module of `phalanx.dist.strategies` (docs/extending.md).
"""

from dataclasses import dataclass
from typing import Literal

StrategyName = Literal["single", "ddp", "fsdp", "hsdp", "zero1", "zero2", "zero3"]
Sharded = Literal["optimizer", "gradients", "weights"]


@dataclass(frozen=True)
class StrategySpec:
    """
    Attributes:
        module: of `phalanx.dist.strategies`; its `wrap` makes a model train over all ranks.
        shards: what is sharded; a rank holds all of the rest.
        collective: whether forwards and backwards wait for other ranks.
        deepspeed: whether DeepSpeed runs it (ZeRO); otherwise torch does.
        exact_module: as `module`, with `dist.reduce=exact`; None if the strategy has its own order of summation.
        phased_module: as `module`, for tasks of several phases in a step; None if the strategy cannot run them.
        replicates: whether the weights are sharded among a few ranks (`dist.shard_ranks`), and each such group has a copy.
        one_rank: whether it runs on one rank only.
    """

    module: str
    shards: tuple[Sharded, ...] = ()
    collective: bool = False
    deepspeed: bool = False
    exact_module: str | None = None
    phased_module: str | None = None
    replicates: bool = False
    one_rank: bool = False

    @property
    def is_fsdp(self) -> bool:
        """Whether torch shards the weights, by whole rows of each parameter."""
        return "weights" in self.shards and not self.deepspeed

    @property
    def zero_stage(self) -> int:
        """The stage of ZeRO: 1 shards the optimizer, 2 the gradients too, 3 the weights too. 0 without DeepSpeed."""
        return len(self.shards) if self.deepspeed else 0


_ALL: tuple[Sharded, ...] = ("optimizer", "gradients", "weights")

STRATEGIES: dict[str, StrategySpec] = {
    "single": StrategySpec("replicated", exact_module="exact_replicated", phased_module="phased_ddp", one_rank=True),
    "ddp": StrategySpec("replicated", exact_module="exact_replicated", phased_module="phased_ddp"),
    "fsdp": StrategySpec("fsdp", _ALL, collective=True, exact_module="exact_fsdp", phased_module="fsdp"),
    "hsdp": StrategySpec("fsdp", _ALL, collective=True, exact_module="exact_fsdp", phased_module="fsdp", replicates=True),
    "zero1": StrategySpec("zero", _ALL[:1], deepspeed=True),
    "zero2": StrategySpec("zero", _ALL[:2], collective=True, deepspeed=True),
    "zero3": StrategySpec("zero", _ALL, collective=True, deepspeed=True),
}
DEEPSPEED = tuple(name for name, spec in STRATEGIES.items() if spec.deepspeed)
EXACT = tuple(name for name, spec in STRATEGIES.items() if spec.exact_module is not None)
