"""The engine: turns micro-batches into steps of the optimizer, on any number of ranks.

It knows of ranks so that the loop and the models need not. A step goes like this: the weights of the losses are exchanged
while the first forward runs; each micro-batch runs with its own noise and its own BatchNorm statistics; the gradients meet
in the backward of the rank's last micro-batch; then they are clipped and the optimizer steps.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import nullcontext
from typing import Any

import torch
from torch import Tensor, nn

from phalanx.configs.schema import RunConfig
from phalanx.dist import optimizer_state
from phalanx.dist.batchnorm import MicroBatchStatistics
from phalanx.dist.checkpoint.entries import Entry, whole
from phalanx.dist.checkpoint.manifest import MICRO_BATCHES, Manifest
from phalanx.dist.collectives import sum_exactly
from phalanx.dist.exact_reduce import ExactReduce
from phalanx.dist.exchange import Agreed, Exchange, Pending
from phalanx.dist.process_group import World
from phalanx.dist.randomness import key, seed_everything, undisturbed
from phalanx.dist.reports import Figures, Reports, StepFigures
from phalanx.dist.sampler import Share, share
from phalanx.dist.strategies import wrap

MicroBatch = dict[str, Any]
# A loss: its sum over a micro-batch, and the weight to divide by: a number of samples, pixels or boxes.
Losses = Mapping[str, tuple[Tensor, float]]

PRECISIONS = {"fp32": torch.float32, "fp64": torch.float64}


class Engine:
    """A model, its optimizer and its strategy.

    Args:
        model: a single-device model with initialised weights, on the CPU.
        make_optimizer: from the named parameters that are trained.
        learning_rate: of a step, counted from 0.
        config: the run's.
        world: the ranks, joined.

    Attributes:
        model: what a task calls, under the strategy.
        plain: the same model without its strategy.
        stop_agreed: whether the ranks agreed to stop after the step that is under way.
    """

    def __init__(
        self,
        model: nn.Module,
        make_optimizer: Callable[[Mapping[str, nn.Parameter]], torch.optim.Optimizer],
        learning_rate: Callable[[int], float],
        config: RunConfig,
        world: World,
    ):
        self.world, self.config = world, config
        self.mine: Share = share(config.micro_batches, world.ranks.rank, world.ranks.world)
        self.dtype = PRECISIONS[config.dist.precision]
        model.to(device=world.device, dtype=self.dtype)
        self.statistics = MicroBatchStatistics(model, self.mine)
        self._wrapped = wrap(model, config.dist, world)
        self.model, self.plain = self._wrapped.model, self._wrapped.plain
        self.parameters = dict(self.plain.named_parameters())
        self.optimizer = make_optimizer({n: p for n, p in self.parameters.items() if p.requires_grad})
        trained = [p for p in self.parameters.values() if p.requires_grad]
        self._exact = ExactReduce(trained, world, self.mine) if config.dist.reduce == "exact" else None
        self._learning_rate = learning_rate
        self._exchange: Exchange | None = None
        self._reports = Reports(world, self.mine)
        self._pending: Pending | None = None
        self._agreed: Agreed | None = None
        self._losses: tuple[str, ...] = ()
        self._step = 0
        self.stop_agreed = False

    # -- a step ---------------------------------------------------------------------------------------------------------

    def micro_batches(
        self, step: int, batch: Sequence[MicroBatch], weights: Sequence[Mapping[str, float]], stop: bool = False
    ) -> Iterator[MicroBatch]:
        """This rank's micro-batches of a step, one after another, each set up to run.

        Args:
            step: number of steps finished before.
            batch: the micro-batches, on the CPU.
            weights: of each, the weights of the losses that are known from its targets.
            stop: whether this rank was asked to stop; all ranks will have agreed by the end of the step.
        """
        assert self._exchange is not None, "the engine must be warmed up first"
        self._step, self._agreed = step, None
        self._pending = self._exchange.send(weights, self._reports.to_send(), stop)
        self.plain.train()
        for number, micro_batch in enumerate(batch, self.mine.first):
            with self._wrapped.quiet() if number < self.mine.last - 1 else nullcontext():
                yield self._set_up(step, number, micro_batch)

    def _set_up(self, step: int, number: int, micro_batch: MicroBatch) -> MicroBatch:
        if self._exact is not None:
            self._exact.expect(number)
        seed_everything(key(self.config.seed, "noise", step, number))
        self.statistics.select(number)
        return self.to_device(micro_batch)

    def backward(self, losses: Losses) -> None:
        """Adds a micro-batch's gradients, each loss divided by its weight over the global batch."""
        agreed = self._receive()
        if tuple(losses) != self._losses:
            now, before = list(losses), list(self._losses)
            raise ValueError(f"the task returned the losses {now}, but at the start {before}; they must stay the same")
        pairs = [self._normalised(*losses[name], agreed.weights.get(name)) for name in self._losses]
        reported, shares = zip(*pairs, strict=True)
        self._reports.add(reported)
        torch.stack(shares).sum().backward()
        if self._exact is not None:
            self._exact.taken()

    def _normalised(self, total: Tensor, weight: float, over_all: float | None) -> tuple[Tensor, Tensor]:
        """A loss's sum as it is reported, and its share of the loss of the step, times what the strategy divides by.

        A weight that depends on predictions is not known over all ranks beforehand: such a loss is divided by its
        micro-batch's own weight, and averaged over micro-batches. Without weight, nothing was there to be learnt from: zero.
        """
        if over_all is None:
            total, over_all = total * (1 / weight if weight else 0.0), float(self.mine.total)
        return total, total * (self._wrapped.divides_by / over_all if over_all else 0.0)

    def _receive(self) -> Agreed:
        if self._agreed is None:
            assert self._pending is not None
            self._agreed = self._pending.receive()
            self.stop_agreed = self._agreed.stop
            self._reports.received(self._agreed.sums)
        return self._agreed

    def step(self) -> list[StepFigures]:
        """Clips, sets the learning rate, steps; returns the figures of earlier steps that are known by now, on all ranks."""
        agreed = self._receive()
        if self._exact is not None:
            self._exact.finish()
        norm = None
        if self.config.train.clip_norm is not None:
            norm = nn.utils.clip_grad_norm_(self.plain.parameters(), self.config.train.clip_norm)
        rate = self._learning_rate(self._step)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        weights = {name: agreed.weights.get(name, float(self.mine.total)) for name in self._losses}
        self._reports.finish(Figures(self._step, weights, rate, norm))
        return self._reports.take_known()

    def settle(self) -> list[StepFigures]:
        """Waits until the figures of all finished steps are known. All ranks call together."""
        return self._reports.settle()

    # -- at the start ---------------------------------------------------------------------------------------------------

    def warm_up(self, losses_of: Callable[[nn.Module, MicroBatch], Losses], micro_batch: MicroBatch) -> None:
        """One discarded forward and backward, so that a fresh and a resumed run sum gradients in the same order.

        DDP orders its gradient buckets anew after the first backward. What the pass changes (gradients, buffers,
        statistics, random state) is put back. It also tells the names of the losses.
        """
        self.plain.train()
        self.statistics.select(self.mine.first)
        buffers = {n: b.clone() for n, b in self.plain.named_buffers()}
        with undisturbed(self.world.device):
            losses = losses_of(self.model, self.to_device(micro_batch))
            torch.stack([total for total, _ in losses.values()]).sum().backward()
            self.optimizer.zero_grad(set_to_none=True)
        with torch.no_grad():
            for name, buffer in self.plain.named_buffers():
                buffer.copy_(buffers[name])
        self._losses = tuple(losses)
        self._exchange = Exchange(self.world, self.mine, self._losses)

    def to_device(self, batch: MicroBatch) -> MicroBatch:
        """The batch on this rank's device, floating point numbers in the run's precision."""
        return {k: self._tensor(v) if isinstance(v, Tensor) else v for k, v in batch.items()}

    def _tensor(self, value: Tensor) -> Tensor:
        dtype = self.dtype if value.is_floating_point() else value.dtype
        if self.world.device.type == "cuda" and not value.is_cuda and not value.is_pinned():
            value = value.pin_memory()  # a copy from other memory would wait for the device
        return value.to(device=self.world.device, dtype=dtype, non_blocking=True)

    # -- evaluation -----------------------------------------------------------------------------------------------------

    def average_statistics(self) -> None:
        """Puts the model into evaluation, with BatchNorm's statistics averaged over micro-batches. All ranks call together."""
        self.statistics.mean(self.world)
        self.plain.eval()

    # -- checkpoints ----------------------------------------------------------------------------------------------------

    def entries(self) -> list[Entry]:
        """Everything of the model and the optimizer that a checkpoint holds, as this rank has it."""
        return [*self._model_entries(), *optimizer_state.entries(self.optimizer, self.parameters)]

    def _model_entries(self) -> list[Entry]:
        statistics = dict(self.statistics.rows())
        persistent = set(self.plain.state_dict())
        result = [whole(name, "model", parameter) for name, parameter in self.parameters.items()]
        result += [
            whole(name, "model", buffer)
            for name, buffer in self.plain.named_buffers()
            if name in persistent and name not in statistics
        ]
        for name, rows in statistics.items():
            shape = (self.mine.total, *rows.shape[1:])
            start = self.mine.first * (rows.numel() // self.mine.size)
            result.append(Entry(name + MICRO_BATCHES, "statistics", rows, shape, start, replicated=False))
        return result

    def scalars(self) -> dict[str, Any]:
        """What a checkpoint holds besides tensors. Random numbers need no state: all are functions of the seed and the step."""
        return {"optimizer": optimizer_state.scalars(self.optimizer, self.parameters)}

    def make_room(self, stored: Manifest) -> None:
        """Prepares the optimizer for the state of a checkpoint; `entries` then lists all that is to be read."""
        optimizer_state.make_room(self.optimizer, self.parameters, stored.tensors, stored.state["optimizer"])

    def all_finite(self) -> bool:
        """Whether every parameter is a finite number, on every rank. All ranks call together; waits for the device."""
        largest = nn.utils.get_total_norm([p.detach() for p in self.parameters.values()], norm_type=float("inf"))
        not_finite = torch.zeros(self.world.ranks.world)
        not_finite[self.world.ranks.rank] = not torch.isfinite(largest)
        return not sum_exactly(self.world, not_finite).any()
