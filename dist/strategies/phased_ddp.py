"""Several phases in a step with the full model on every rank: gradients are averaged phase by phase.

DDP waits for a gradient of every parameter in each backward, and so cannot train some of them: here each phase has buckets of
its own parameters, which are averaged while the last backward runs, as DDP's are.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

import torch
import torch.distributed
from torch import Tensor, nn

from phalanx.dist.comm.process_group import World
from phalanx.dist.microbatches.sampler import Share
from phalanx.dist.strategies.exact_reduce import BUCKET_BYTES, buckets
from phalanx.dist.strategies.replicated import MakeOptimizer, Replicated, TrainedNames

if TYPE_CHECKING:
    from phalanx.configs.schema import RunConfig


class _Bucket:
    """Parameters whose gradients are exchanged together."""

    def __init__(self, parameters: Sequence[nn.Parameter]):
        self.parameters, self.missing = parameters, 0
        self.transfer: tuple[Tensor, torch.distributed.Work] | None = None

    def exchange(self) -> None:
        """Starts to add up the gradients of all ranks; those of parameters that no backward reached count as zero."""
        pieces = [(torch.zeros_like(p) if p.grad is None else p.grad).reshape(-1) for p in self.parameters]
        flat = torch.cat(pieces)
        work = torch.distributed.all_reduce(flat, async_op=True)
        assert work is not None
        self.transfer = flat, work

    def finish(self, divisor: int) -> None:
        """Waits, and sets the parameters' gradients to the mean."""
        assert self.transfer is not None
        flat, work = self.transfer
        self.transfer = None
        work.wait()
        flat /= divisor
        for parameter, piece in zip(self.parameters, flat.split([p.numel() for p in self.parameters]), strict=True):
            parameter.grad = piece.view_as(parameter)


class _Averaging:
    """The exchange of one phase's gradients."""

    def __init__(self, parameters: Sequence[nn.Parameter], world: World):
        self._world, self._started, self._running = world.ranks.world, 0, False
        self._buckets = [_Bucket(own) for own in buckets(parameters, BUCKET_BYTES)]
        for bucket in self._buckets:
            for parameter in bucket.parameters:
                parameter.register_post_accumulate_grad_hook(lambda _, bucket=bucket: self._arrived(bucket))

    def expect(self) -> None:
        """Announces that the next backward is the phase's last of this step."""
        self._running, self._started = True, 0
        for bucket in self._buckets:
            bucket.missing = len(bucket.parameters)

    def _arrived(self, bucket: _Bucket) -> None:
        """A hook of the backward: one more gradient of a bucket is complete."""
        if not self._running:
            return
        bucket.missing -= 1
        # The same order on all ranks, independent of the order in which buckets are filled.
        while self._started < len(self._buckets) and not self._buckets[self._started].missing:
            self._buckets[self._started].exchange()
            self._started += 1

    def finish(self) -> None:
        """Sets every parameter's `grad` to the mean over the ranks."""
        self._running = False
        for bucket in self._buckets[self._started :]:
            bucket.exchange()
        for bucket in self._buckets:
            bucket.finish(self._world)


class PhasedDdp(Replicated):
    """A model whose phases train different parameters, on several ranks."""

    def __init__(self, model: nn.Module, make_optimizer: MakeOptimizer, world: World, phases: Sequence[TrainedNames]):
        super().__init__(model, make_optimizer, phases)
        self._averaging = [_Averaging([self.parameters[n] for n in self.parameters if n in own], world) for own in phases]
        self.grad_divisor = world.ranks.world

    @contextmanager
    def forward_backward(self, numbers: range | None, last: bool) -> Iterator[None]:
        if last and numbers is not None:
            self._averaging[self.phase or 0].expect()
        yield

    def gradients(self) -> list[Tensor]:
        self._averaging[self.phase or 0].finish()
        return super().gradients()


def wrap(
    model: nn.Module,
    make_optimizer: MakeOptimizer,
    config: "RunConfig",
    world: World,
    mine: Share,
    phases: Sequence[TrainedNames],
) -> Replicated:
    """As `phalanx.dist.strategies.wrap`."""
    model.to(world.device)
    one = world.ranks.world == 1
    return Replicated(model, make_optimizer, phases) if one else PhasedDdp(model, make_optimizer, world, phases)
