"""`dist.reduce=exact` under FSDP2 and HSDP: the reduce-scatter of a micro-batch becomes an exchange by shards and a fixed tree.

FSDP2 accepts a custom reduce-scatter for each of its units. Here every rank sends each shard of its micro-batch's gradient to
the ranks that hold it, in as many bytes as a reduce-scatter for each copy of the weights; those add what they received by the
tree of `summation_tree`, and return the total after the step's last micro-batch. HSDP's copies add up to it then: one of them
has the total, and the others negative zeros, which change no bit of it.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch
import torch.distributed
from torch import Tensor, nn
from torch.distributed.fsdp import FSDPModule
from torch.distributed.fsdp._fully_shard._fsdp_api import ReduceScatter
from torch.distributed.tensor import DTensor

from phalanx.configs.strategies import STRATEGIES
from phalanx.dist.comm.process_group import World
from phalanx.dist.microbatches.forward_passes import ForwardPass, forward_passes
from phalanx.dist.microbatches.sampler import Share
from phalanx.dist.strategies import exact_replicated, summation_tree
from phalanx.dist.strategies.fsdp import Fsdp
from phalanx.dist.strategies.replicated import MakeOptimizer, Replicated, TrainedNames
from phalanx.dist.strategies.summation_tree import TreeNode

if TYPE_CHECKING:
    from phalanx.configs.schema import RunConfig
    from phalanx.configs.sections.dist import DistConfig


class _TreeReduceScatter(ReduceScatter):
    """The sums of this rank's shard of one unit.

    Args:
        all_passes: the forward passes of every rank.
        total: micro-batches of a step.

    Attributes:
        place: index of the running pass; None in the warm-up.
    """

    def __init__(self, all_passes: Sequence[Sequence[ForwardPass]], total: int):
        self._all_passes, self._total = all_passes, total
        self._sums: dict[TreeNode, Tensor] = {}
        self.place: int | None = None

    def allocate(self, size: Sequence[int | torch.SymInt], *, dtype: torch.dtype, device: torch.device) -> Tensor:
        return torch.empty(*size, dtype=dtype, device=device)

    def __call__(self, output_tensor: Tensor, input_tensor: Tensor, group: Any, op: Any, async_op: bool = False) -> None:
        """Takes this pass's gradients, [shards * shard], and outputs the step's sum of this rank's shard, or zero, [shard]."""
        together = torch.distributed.get_world_size(group)
        copies = len(self._all_passes) // together  # of the weights; neighbours share one
        outgoing = input_tensor.repeat(copies)
        incoming = torch.empty_like(outgoing)
        torch.distributed.all_to_all_single(incoming, outgoing)
        output_tensor.zero_()
        if self.place is None:
            return
        for own, piece in zip(self._all_passes, incoming.chunk(len(self._all_passes)), strict=True):
            forward_pass = own[self.place]
            if not forward_pass.is_filler:
                summation_tree.add(self._sums, TreeNode(0, forward_pass.first), piece, self._total, Tensor.add_)
        if self.place == len(self._all_passes[0]) - 1:
            total = self._sums.pop(summation_tree.root(self._total))
            assert not self._sums
            is_first_copy = torch.distributed.get_rank() < together
            output_tensor.copy_(total) if is_first_copy else output_tensor.fill_(-0.0)


class ExactFsdp(Fsdp):
    """A model under FSDP2 or HSDP whose gradients are the same bits on any number of ranks, and under DDP with exact sums."""

    def __init__(
        self,
        model: nn.Module,
        make_optimizer: MakeOptimizer,
        config: "DistConfig",
        world: World,
        micro_batches: int,
        phases: Sequence[TrainedNames] = (),
    ):
        super().__init__(model, make_optimizer, config, world, phases)
        self._passes = all_passes = forward_passes(micro_batches, 1, world.ranks.world)
        self._total, self._sums_of_scalars = micro_batches, dict[TreeNode, Tensor]()
        self._last, self._place = len(all_passes[0]) - 1, 0
        self._sums: list[_TreeReduceScatter] = []
        for module in self.unwrapped.modules():
            if isinstance(module, FSDPModule):
                self._sums.append(_TreeReduceScatter(all_passes, micro_batches))
                module.set_custom_reduce_scatter(self._sums[-1])
                # No division, neither before nor after.
                module.set_force_sum_reduction_for_comms(True)
                module.set_gradient_divide_factor(1.0)
        self.grad_divisor = 1

    def _begin(self, numbers: range | None, last: bool) -> None:
        super()._begin(numbers, True)
        for sums in self._sums:
            sums.place = None if numbers is None else self._place
        if numbers is None:
            return
        if self._place == self._last:
            # The zeros of earlier passes would turn a negative zero into zero.
            super().discard()
        self._place = 0 if self._place == self._last else self._place + 1

    @contextmanager
    def forward_backward(self, numbers: range | None, last: bool) -> Iterator[None]:
        place = self._place
        with super().forward_backward(numbers, last):
            yield
        if numbers is not None:
            self._add_scalars(place)

    def _add_scalars(self, place: int) -> None:
        """Adds a pass's gradients of replicated parameters, of every rank, by the same tree."""
        trained = [p for p in self._scalars if p.requires_grad]
        if not trained:
            return
        own = torch.stack([torch.zeros_like(p) if p.grad is None else p.grad for p in trained]).detach()
        every = [torch.empty_like(own) for _ in self._passes]
        torch.distributed.all_gather(every, own)
        for passes, piece in zip(self._passes, every, strict=True):
            if not passes[place].is_filler:
                summation_tree.add(self._sums_of_scalars, TreeNode(0, passes[place].first), piece, self._total, Tensor.add_)
        done = place == self._last
        sums = self._sums_of_scalars.pop(summation_tree.root(self._total)).unbind() if done else [None] * len(trained)
        for parameter, value in zip(trained, sums, strict=True):
            parameter.grad = value

    def _of_scalars(self) -> list[Tensor]:
        return [p.grad for p in self._scalars if p.grad is not None]

    def norm(self, gradients: Sequence[Tensor]) -> Tensor:
        """As under DDP: of full gradients, one after another, so that it does not depend on the sharding."""
        norms: list[Tensor] = []
        for parameter in self.parameters.values():
            if isinstance(parameter.grad, DTensor):
                # Offloaded gradients lie on the host, where NCCL gathers nothing.
                norms += torch._foreach_norm([self._full(parameter.grad)])
            elif parameter.grad is not None:
                norms += torch._foreach_norm([parameter.grad])
        return torch.linalg.vector_norm(torch.stack(norms))


def wrap(
    model: nn.Module,
    make_optimizer: MakeOptimizer,
    config: "RunConfig",
    world: World,
    mine: Share,
    phases: Sequence[TrainedNames] = (),
) -> Replicated:
    """As `phalanx.dist.strategies.wrap`; where each rank has a copy of its own, nothing is sharded."""
    alone = STRATEGIES[config.dist.strategy].replicates and (config.dist.shard_ranks or world.ranks.local_world) == 1
    if alone or world.ranks.world == 1:
        return exact_replicated.wrap(model, make_optimizer, config, world, mine, phases)
    return ExactFsdp(model, make_optimizer, config.dist, world, config.micro_batches, phases)
