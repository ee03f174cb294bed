"""The forwards of a rank's micro-batches in lockstep: each waits at every synchronized BatchNorm until the others have come.

With `dist.reduce=exact` micro-batches are not merged, since the kernels round otherwise on larger batches. Each forward is a
greenlet, which leaves the thread to the next one where it waits. What a forward sees of its surroundings is its own: parameters
(by replicas, for gradients of its own), BatchNorm statistics, random numbers, autocast, the gradient mode and autograd's hooks.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

import torch
import torch.distributed
from torch import Tensor, nn

from phalanx.configs.errors import UserError
from phalanx.dist.batchnorm.exact_sync import normalise
from phalanx.dist.batchnorm.groups import StatsGroup
from phalanx.dist.batchnorm.recomputed import Kept
from phalanx.dist.batchnorm.sync_batchnorm import SyncBatchNorm
from phalanx.dist.microbatches.randomness import OwnGenerators, undisturbed

if TYPE_CHECKING:
    from greenlet import greenlet

T = TypeVar("T")
Normalised = tuple[Tensor, Tensor, Tensor]  # the output, the mean and the unbiased variance
_ENDED = -1
_DIFFER = -2


class _Request(NamedTuple):
    """What a forward waits with."""

    layer: SyncBatchNorm
    input: Tensor
    weight: Tensor | None
    bias: Tensor | None
    kept: Kept | None


class _ThreadState(NamedTuple):
    """What torch keeps for each thread, and a forward may change."""

    gradients: bool
    autocast: tuple[tuple[bool, torch.dtype], ...]
    cached: bool
    saving: "tuple[SavingHooks, ...]"

    @classmethod
    def now(cls, devices: Sequence[str]) -> "_ThreadState":
        autocast = tuple((torch.is_autocast_enabled(device), torch.get_autocast_dtype(device)) for device in devices)
        saving = _without_saving_hooks()
        _with_saving_hooks(saving)
        return cls(torch.is_grad_enabled(), autocast, torch.is_autocast_cache_enabled(), saving)

    def restore(self, devices: Sequence[str]) -> None:
        torch.set_grad_enabled(self.gradients)
        for device, (enabled, dtype) in zip(devices, self.autocast, strict=True):
            torch.set_autocast_enabled(device, enabled)
            torch.set_autocast_dtype(device, dtype)
        torch.set_autocast_cache_enabled(self.cached)
        _without_saving_hooks()
        _with_saving_hooks(self.saving)


SavingHooks = tuple[Callable[[Tensor], Any], Callable[[Any], Tensor]]


def _without_saving_hooks() -> tuple[SavingHooks, ...]:
    """Removes the hooks for tensors that autograd saves, such as activation checkpointing's; returns them, the oldest first."""
    removed: list[SavingHooks] = []
    while (newest := torch._C._autograd._top_saved_tensors_default_hooks(False)) is not None:
        removed.insert(0, newest)
        torch._C._autograd._pop_saved_tensors_default_hooks()
    return tuple(removed)


def _with_saving_hooks(hooks: tuple[SavingHooks, ...]) -> None:
    for pack, unpack in hooks:
        torch._C._autograd._push_saved_tensors_default_hooks(pack, unpack)


@dataclass
class _Forward:
    """A forward under way, and what it had when it last waited."""

    greenlet: "greenlet"
    generators: OwnGenerators
    thread: _ThreadState
    waits_for: Any = None


class Lockstep:
    """Runs the forwards of several micro-batches, and normalises together what waits at the same layer.

    Args:
        model: with its BatchNorm layers converted.
        select: makes the modules use the replica of a number, counted from 0, and the statistics of that micro-batch.
        release: makes them use their own again.

    Raises:
        UserError: without greenlet; in `run`, if the micro-batches do not come to the same layers in the same order.
    """

    def __init__(
        self,
        model: nn.Module,
        stats_group: StatsGroup,
        device: torch.device,
        select: Callable[[int], None],
        release: Callable[[], None],
    ):
        if find_spec("greenlet") is None:
            raise UserError("dist.reduce=exact with dist.sync_bn needs the package greenlet: pip install greenlet", shared=True)
        self._group, self._device, self._select, self._release = stats_group, device, select, release
        self._devices = sorted({device.type, "cpu"})
        layers = {id(m): name for name, m in model.named_modules() if isinstance(m, SyncBatchNorm)}
        self._names, self._numbers = list(layers.values()), {layer: number for number, layer in enumerate(layers)}
        self._orders: set[tuple[int, ...]] = set()  # in which the layers came in the first forwards
        stats_group.wait_for_others = self._refuse

    def run(self, forwards: Sequence[Callable[[], T]], seeds: Sequence[int], check: bool) -> list[T]:
        """What the forwards return.

        Args:
            seeds: of each one's random numbers.
            check: whether the ranks tell each other to which layer they have come, as they do before the first step; later,
                a rank compares the order of its layers with that of then.
        """
        from greenlet import greenlet  # only this needs it

        self._group.wait_for_others = self._wait
        outside = _ThreadState.now(self._devices)
        generators = [OwnGenerators(seed, self._device) for seed in seeds]
        running = [_Forward(greenlet(forward), own, outside) for forward, own in zip(forwards, generators, strict=True)]
        order: list[int] = []
        with undisturbed(self._device):
            try:
                answers: Sequence[Any] = [()] * len(running)
                while True:
                    for number, (forward, answer) in enumerate(zip(running, answers, strict=True)):
                        self._go_on(number, forward, answer)
                    outside.restore(self._devices)
                    self._compare(running, order, check)
                    if running[0].greenlet.dead:
                        break
                    torch.set_grad_enabled(running[0].thread.gradients)
                    answers = [(normalised,) for normalised in self._normalised([forward.waits_for for forward in running])]
            finally:
                for forward in running:  # ends those that still wait, after an error
                    forward.thread.restore(self._devices)
                    forward.greenlet.throw()
                self._group.wait_for_others = self._refuse
                self._release()
                outside.restore(self._devices)
        if check:
            self._orders.add(tuple(order))
        return [forward.waits_for for forward in running]

    def _go_on(self, number: int, forward: _Forward, answer: tuple[Any, ...]) -> None:
        """Runs a forward until it waits or ends."""
        self._select(number)
        forward.generators.resume()
        forward.thread.restore(self._devices)
        forward.waits_for = forward.greenlet.switch(*answer)
        forward.thread = _ThreadState.now(self._devices)
        forward.generators.leave()

    def _compare(self, running: Sequence[_Forward], order: list[int], check: bool) -> None:
        """Whether all forwards have come to the same layer, or have all ended."""
        reached = {_ENDED if f.greenlet.dead else self._numbers[id(f.waits_for.layer)] for f in running}
        now = reached.pop() if len(reached) == 1 else _DIFFER
        if check:
            everyone = self._tell(now)
            if set(everyone) != {now} or now == _DIFFER:
                raise self._error(shared=True)
        order.append(now)
        if not check and not any(known[: len(order)] == tuple(order) for known in self._orders):
            raise self._error(shared=False)

    def _tell(self, now: int) -> list[int]:
        """To which layer each rank of the stats group has come."""
        if self._group.group is None:
            return [now]
        own = torch.tensor([now], device=self._device)
        everyone = [torch.empty_like(own) for _ in self._group.sizes]
        torch.distributed.all_gather(everyone, own, group=self._group.group)
        return [int(value) for value in everyone]

    def _error(self, shared: bool) -> UserError:
        return UserError(
            "the micro-batches do not come to the same BatchNorm layers in the same order, so that their statistics cannot be "
            "synchronized with dist.reduce=exact. Make the forward the same for every batch, or set dist.reduce=fast or "
            "dist.sync_bn=off (each is another experiment).",
            shared=shared,
        )

    def _normalised(self, requests: Sequence[_Request]) -> list[Normalised]:
        layer = requests[0].layer
        _, inputs, weights, biases, kept = zip(*requests, strict=True)
        outputs, mean, variance = normalise(self._group, layer.eps, inputs, weights, biases, kept if all(kept) else None)
        return [(output, mean, variance) for output in outputs]

    def _wait(self, layer: SyncBatchNorm, input: Tensor, kept: Kept | None) -> Normalised:
        """Called by a layer in a forward: leaves the thread to the others."""
        from greenlet import getcurrent

        parent = getcurrent().parent
        if parent is None:
            return self._refuse(layer, input, kept)
        result: Normalised = parent.switch(_Request(layer, input, layer.weight, layer.bias, kept))
        return result

    def _refuse(self, layer: SyncBatchNorm, input: Tensor, kept: Kept | None) -> Normalised:
        name = self._names[self._numbers[id(layer)]]
        raise UserError(
            f"the BatchNorm layer {name} runs in training mode outside the forward of a step, where its statistics cannot be "
            "synchronized (dist.reduce=exact with dist.sync_bn). A network's own activation checkpointing does so: use "
            "train.activation_checkpointing instead."
        )
