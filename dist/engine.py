"""The engine: turns micro-batches into steps of the optimizer, on any number of ranks, under any strategy.

It knows of ranks so that the loop and the models need not. A step: the ranks exchange the weights of the losses while the
first forward runs; each forward pass, of one micro-batch or of several that synchronize statistics, has its own noise and
BatchNorm statistics; the gradients are reduced in the last backward; then they are clipped and the optimizer steps. A task of
several phases does all this, but the exchange of weights, once for each of them.
"""

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from phalanx.configs.errors import TrainingFailed, UserError
from phalanx.dist import device_progress, heartbeat, precision
from phalanx.dist.batchnorm import sync_batchnorm
from phalanx.dist.batchnorm.groups import make_groups
from phalanx.dist.batchnorm.report import describe_normalisation
from phalanx.dist.batchnorm.running_stats import MicroBatchStatistics
from phalanx.dist.checkpoint.entries import Entry, full_entry
from phalanx.dist.checkpoint.layout import MICRO_BATCHES
from phalanx.dist.comm.collectives import sum_exactly
from phalanx.dist.comm.process_group import World
from phalanx.dist.ema.of_recipe import average_of
from phalanx.dist.ema.recomputed_statistics import recomputed
from phalanx.dist.ema.shares import ShareOfNew
from phalanx.dist.microbatches.forward_passes import ForwardPass, forward_passes, stats_group_size
from phalanx.dist.microbatches.micro_batch import MicroBatch, merge, to_device
from phalanx.dist.microbatches.prefetch import Prefetcher
from phalanx.dist.microbatches.randomness import key, seed_everything, undisturbed
from phalanx.dist.microbatches.sampler import Share, share
from phalanx.dist.parallelize import parallelize
from phalanx.dist.step import first_forward
from phalanx.dist.step.first_forward import Losses, LossesOf, PassInput
from phalanx.dist.step.global_loss import GlobalLoss
from phalanx.dist.step.lockstep import Lockstep
from phalanx.dist.step.loss_scale import LossScale
from phalanx.dist.step.phases import Phase, Phases, trained_in
from phalanx.dist.step.step_message import Agreed, Pending, StepMessage
from phalanx.dist.step.step_metrics import Figures, StepFigures, StepMetrics
from phalanx.dist.strategies.exact_replicated import Exact
from phalanx.dist.strategies.rates import Rates
from phalanx.dist.strategies.strategy import Strategy

if TYPE_CHECKING:  # the engine runs without pydantic, as in `benchmarks/gpu.py`
    from phalanx.configs.schema import RunConfig
    from phalanx.dist.checkpoint.manifest import Manifest


class Engine:
    """A model, its optimizer and its strategy.

    Args:
        model: a single-device model with initialised weights, on the CPU.
        make_optimizer: makes the optimizer from the named trained parameters.
        learning_rate: of an update, counted from 0; or all settings that change per update.
        config: the run's configuration.
        world: the joined ranks.
        phases: of a step, if it has several; they train different parameters.
        swa: what share the weights have in their average after an update; None: no stochastic weight averaging.
        samples: number of an epoch's samples, in which `train.ema_every` counts; None: all steps are of one epoch.

    Attributes:
        model: the wrapped model, which tasks call.
        plain: the same model without its strategy.
        stop_agreed: whether the ranks agreed to stop after the current step.
        save_agreed: whether they agreed to save after it.
        skipped: number of steps that took data but changed no weight, after an overflow in fp16.

    Raises:
        UserError: if model, strategy, precision and ranks do not fit together.
    """

    def __init__(
        self,
        model: nn.Module,
        make_optimizer: Callable[[Mapping[str, nn.Parameter]], torch.optim.Optimizer],
        learning_rate: Callable[[int], float | Rates],
        config: "RunConfig",
        world: World,
        phases: Sequence[Phase] = (),
        swa: ShareOfNew | None = None,
        samples: int | None = None,
    ):
        self.world, self.config, dist = world, config, config.dist
        self.mine: Share = share(config.micro_batches, world.ranks.rank, world.ranks.world)
        self._group_size = stats_group_size(dist.sync_bn, config.micro_batches)
        all_passes = forward_passes(config.micro_batches, self._group_size, world.ranks.world)
        self.passes: list[ForwardPass] = all_passes[world.ranks.rank]
        self._batchnorm_groups = make_groups(all_passes, dist.timeout_s)
        in_lockstep = dist.reduce == "exact" and self._group_size > 1
        self._synchronizes = in_lockstep or any(forward_pass.is_shared for own in all_passes for forward_pass in own)

        self.dtype = precision.weights_dtype(dist.precision)
        precision.check(dist.precision, world.device)
        self._phases = Phases(phases)
        if len(phases) > 1 and dist.precision == "fp16":
            raise UserError(
                f"dist.precision=fp16 scales the loss of one optimizer, and each of the task's {len(phases)} phases has one. "
                "Set dist.precision=bf16 or fp32.",
                shared=True,
            )
        trained = [name for name, parameter in model.named_parameters() if parameter.requires_grad]
        self._trained = trained_in(phases, trained) if len(phases) > 1 else []
        self._strategy: Strategy = parallelize(
            model.to(self.dtype), make_optimizer, config, world, self.mine, synchronize=self._synchronizes, phases=self._trained
        )
        self.model, self.unwrapped = self._strategy.model, self._strategy.unwrapped
        self._stats_group = sync_batchnorm.stats_group_of(self.unwrapped)
        self._lockstep = self._make_lockstep() if in_lockstep else None
        self._rehearses = False
        groups = self.mine.total // self._group_size
        self._global_loss = GlobalLoss(groups, self._batchnorm_groups, self._strategy.grad_divisor, exact=in_lockstep)
        self.statistics = MicroBatchStatistics(self.unwrapped, self.mine)
        self._average = average_of(config, self._strategy, self.statistics, swa, samples)
        if not self._strategy.collective:
            self.passes = [forward_pass for forward_pass in self.passes if not forward_pass.is_filler]
        self._loss_scale = LossScale(dist.loss_scale, dist.loss_scale_window) if dist.precision == "fp16" else None

        self._prefetcher = Prefetcher(world.device, self.to_device) if world.device.type == "cuda" else None
        self._learning_rate = learning_rate
        self._message: StepMessage | None = None
        self._metrics = StepMetrics(world, self.mine)
        self._pending: Pending | None = None
        self._agreed: Agreed | None = None
        self._step, self._pass = 0, self.passes[0]
        self._norms: list[Tensor] = []
        self.stop_agreed = self.save_agreed = False
        self.skipped = 0

    # -- a step ---------------------------------------------------------------------------------------------------------

    def phases(self, step: int) -> Iterator[Phase]:
        """The phases of a step, each to be run by `micro_batches`, `backward` and `step`; of most tasks one."""
        for phase in self._phases.of_step(step):
            if self._has_phases:
                self._strategy.select_phase(self._phases.number)
            yield phase
        if self._has_phases:
            self._strategy.select_phase(None)

    @contextmanager
    def between_steps(self, step: int) -> Iterator[nn.Module]:
        """The module itself in evaluation mode, without gradients, and random numbers of the step; the same on all ranks.

        Args:
            step: number of steps finished before.
        """
        if self.statistics.layers:
            self.statistics.mean(self.world, None)
        self.unwrapped.eval()
        seed_everything(key(self.config.seed, "between steps", step))
        with torch.no_grad():
            yield self.unwrapped

    @property
    def _has_phases(self) -> bool:
        return len(self._phases.losses) > 1

    def micro_batches(
        self,
        step: int,
        batch: Sequence[MicroBatch],
        weights: Sequence[Mapping[str, float]],
        stop: bool = False,
        save: bool = False,
    ) -> Iterator[PassInput]:
        """Yields the inputs of this rank's forward passes of a step, each set up to run by `losses`.

        Args:
            step: number of steps finished before.
            batch: the micro-batches, on the CPU.
            weights: per micro-batch, the weights of losses known from its targets.
            stop: whether this rank was asked to stop; all ranks agree by the end of the step.
            save: whether a checkpoint is due by this rank's clock; likewise.
        """
        assert self._message is not None, "the engine must be warmed up first"
        if self._phases.is_first:
            self._step, self._agreed = step, None
            self._pending = self._message.send(weights, self._metrics.to_send(), stop, save)
        self.unwrapped.train()
        passes = [self._samples(forward_pass, batch) for forward_pass in self.passes]
        samples = self._on_device(passes if self._lockstep is None else [[own] for parts in passes for own in parts])
        for place, forward_pass in enumerate(self.passes):
            with self._strategy.forward_backward(forward_pass.numbers, last=place == len(self.passes) - 1):
                heartbeat.beat("forward", step + 1)
                seed_everything(self._noise(forward_pass.first))
                self._select(forward_pass)
                yield next(samples) if self._lockstep is None else [next(samples) for _ in forward_pass.numbers]

    def losses(self, losses_of: LossesOf, own: PassInput) -> list[Losses]:
        """The losses of a forward pass; of each of its micro-batches, if they run in lockstep (see `Lockstep`).

        Args:
            own: what `micro_batches` yielded.
        """
        if self._lockstep is None:
            return [losses_of(self.model, own)]  # type: ignore[arg-type]
        forwards = [partial(losses_of, self.model, micro_batch) for micro_batch in own]  # type: ignore[arg-type]
        return self._lockstep.run(forwards, [*map(self._noise, self._pass.numbers)], check=self._rehearses)

    def _noise(self, number: int) -> int:
        """The seed of a micro-batch; those of later phases differ from the first one's."""
        phase = [self._phases.number] if self._phases.number else []
        return key(self.config.seed, "noise", self._step, number, *phase)

    def _select(self, forward_pass: ForwardPass) -> None:
        """Selects a pass's statistics and stats group."""
        self._pass = forward_pass
        if self._lockstep is None:
            self.statistics.select(forward_pass)
        self._stats_group.group = self._batchnorm_groups[forward_pass.ranks] if forward_pass.is_shared else None
        self._stats_group.sizes = forward_pass.sizes

    def _make_lockstep(self) -> Lockstep:
        strategy = self._strategy
        assert isinstance(strategy, Exact)

        def select(place: int) -> None:
            strategy.replicas.use(place)
            if not self._rehearses:
                self.statistics.select_micro_batch(self._pass.first + place)

        return Lockstep(self.unwrapped, self._stats_group, self.world.device, select, lambda: strategy.replicas.use(0))

    def _samples(self, forward_pass: ForwardPass, batch: Sequence[MicroBatch]) -> Sequence[MicroBatch]:
        """A pass's micro-batches of a step's. A filler runs the rank's last one."""
        if forward_pass.is_filler:
            return batch[-1:]
        return batch[forward_pass.first - self.mine.first : forward_pass.last - self.mine.first]

    def backward(self, losses: Losses | Sequence[Losses]) -> None:
        """Adds a forward pass's gradients, each loss divided by its weight over the global batch.

        Args:
            losses: what `losses` returned; or a task's losses, where the caller has called it.
        """
        self._launched("forward")
        heartbeat.beat("backward")
        agreed = self._receive()
        names, all_losses = self._phases.losses[self._phases.number], [losses] if isinstance(losses, Mapping) else losses
        for own in all_losses:
            if tuple(own) != names:
                now, before = list(own), list(names)
                raise ValueError(f"the task returned the losses {now}, but at the start {before}; they must stay the same")
        parts = self._global_loss.parts(all_losses, agreed.weights, self._pass)
        total = torch.stack([share for part in parts for _, share in part.values()]).sum()
        if self._pass.is_filler:
            total = total * 0.0
        else:
            self._add_to_metrics(parts)
        self._strategy.backward(total if self._loss_scale is None else total * self._loss_scale.value)
        self._launched("backward")

    def _add_to_metrics(self, parts: Sequence[Mapping[str, tuple[Tensor, Tensor]]]) -> None:
        """The reported losses of the pass, or of each of its micro-batches."""
        starts = [self._pass.first] if self._lockstep is None else self._pass.numbers
        for part, first in zip(parts, starts, strict=True):
            last = self._pass.last if self._lockstep is None else first + 1
            self._metrics.add({name: reported for name, (reported, _) in part.items()}, first, last)

    def _launched(self, stage: heartbeat.Stage) -> None:
        if self.world.device.type == "cuda":
            device_progress.mark(stage)

    def _receive(self) -> Agreed:
        if self._agreed is None:
            assert self._pending is not None
            self._agreed = self._pending.receive()
            self.stop_agreed, self.save_agreed = self._agreed.stop, self._agreed.save
            self._metrics.received(self._agreed.sums)
        return self._agreed

    def step(self) -> list[StepFigures]:
        """Unscales, clips and steps; returns the figures of earlier steps that have become known, on all ranks.

        Of several phases the last one returns them.

        Raises:
            TrainingFailed: if fp16 overflows with any loss scale.
        """
        heartbeat.beat("update")
        agreed = self._receive()
        gradients = self._strategy.gradients()
        rates, scale, overflowed = self._learning_rate(self._step - self.skipped), None, False
        rates = rates if isinstance(rates, Rates) else Rates(rates)
        if self._loss_scale is not None:
            scale, overflowed = self._loss_scale.value, self._loss_scale.unscale(gradients, self._strategy.sum_of_parts)
        if overflowed:
            self._strategy.discard()
            self.skipped += 1
        else:
            if self.config.train.clip_value is not None:
                for gradient in gradients:
                    gradient.clamp_(-self.config.train.clip_value, self.config.train.clip_value)
            if self.config.train.clip_norm is not None:
                self._norms.append(self._clip(gradients, self.config.train.clip_norm))
            elif (self._step + 1) % self.config.train.log_every == 0:
                self._norms.append(self._strategy.norm(gradients))
            self._strategy.update(rates)
        if not self._phases.is_last:
            return []
        if self._average is not None and not overflowed:
            self._average.update(self._step - self.skipped + 1)
        weights = self._phases.weights(agreed.weights, self._global_loss.groups)
        self._launched("update")
        self._metrics.finish(Figures(self._step, weights, rates.learning_rate, self._norm(), scale, overflowed))
        if self._loss_scale is not None:
            self._adjust(self._loss_scale, overflowed)
        return self._metrics.take_known()

    def _adjust(self, loss_scale: LossScale, overflowed: bool) -> None:
        try:
            loss_scale.adjust(overflowed)
        except TrainingFailed as error:
            raise TrainingFailed(f"step {self._step + 1}: {error}") from None

    def _norm(self) -> Tensor | None:
        """That of the step's gradients, of all phases together."""
        norms, self._norms = self._norms, []
        return torch.linalg.vector_norm(torch.stack(norms)) if len(norms) > 1 else next(iter(norms), None)

    def _clip(self, gradients: Sequence[Tensor], largest: float) -> Tensor:
        """Scales gradients down in place to a norm of at most `largest`; returns the norm they had."""
        norm = self._strategy.norm(gradients)
        if gradients:
            shrink = torch.clamp(largest / (norm + 1e-6), max=1.0)
            torch._foreach_mul_(list(gradients), shrink.to(gradients[0].device))
        return norm

    def settle(self) -> list[StepFigures]:
        """Waits until the figures of all finished steps are known. All ranks call together."""
        return self._metrics.settle()

    # -- at the start ---------------------------------------------------------------------------------------------------

    @property
    def warm_up_share(self) -> Share:
        """The micro-batches that `warm_up` needs: those of the first pass; all of this rank's if passes are shared."""
        if self._synchronizes:
            return self.mine
        return Share(self.passes[0].first, self.passes[0].last, self.mine.total)

    def warm_up(self, losses_of: LossesOf | Sequence[Phase], batch: Sequence[MicroBatch]) -> list[str]:
        """One discarded forward and backward, so that a fresh and a resumed run sum gradients in the same order.

        DDP reorders its gradient buckets after the first backward. What the pass changes (gradients, buffers,
        statistics, random state) is restored. It also determines the names of the losses, and finds later errors.

        Args:
            losses_of: the task's losses, or its phases.
            batch: the micro-batches of `warm_up_share`.

        Returns:
            Warnings for the user.

        Raises:
            UserError: naming a parameter that no loss reaches, or a BatchNorm layer that sees one value per channel.
        """
        self.unwrapped.train()
        self._rehearses = True
        before = {n: b.clone() for n, b in self.unwrapped.named_buffers()}
        warnings, names = list[str](), list[tuple[str, ...]]()
        with undisturbed(self.world.device):
            for number, losses in enumerate([losses_of] if callable(losses_of) else [phase.losses for phase in losses_of]):
                if self._has_phases:
                    self._strategy.select_phase(number)
                names.append(self._look_at(losses, self._trained[number] if self._has_phases else None, batch))
                if self.mine.total > 1:
                    warnings += first_forward.changed_buffers(before, self.unwrapped, self.statistics.layers)
                if self._synchronizes or self.config.dist.compile:
                    for _, own in self._rehearsal(batch, with_backward=True):
                        self._strategy.backward(first_forward.total(self.losses(losses, own)))
                self._strategy.discard()
            if self._has_phases:
                self._strategy.select_phase(None)
        with torch.no_grad():
            for name, buffer in self.unwrapped.named_buffers():
                buffer.copy_(before[name])
        self._rehearses = False
        self._phases.set_losses(names)
        self._message = StepMessage(self.world, self.mine, [name for own in names for name in own])
        return sorted(set(warnings))

    def _look_at(self, losses_of: LossesOf, trained: Collection[str] | None, batch: Sequence[MicroBatch]) -> tuple[str, ...]:
        """Inspects the first forwards; returns the names of the losses.

        Args:
            trained: the parameters that they must reach; None: all that are not frozen.
        """
        # The backward of a shared pass waits for other ranks: all forwards come first, and no backward, so that no rank is
        # left waiting if another one refuses.
        forwards = self._rehearsal(batch, with_backward=not self._synchronizes)
        backward = None if self._synchronizes else self._strategy.backward
        with torch.compiler.set_stance("force_eager"):
            return first_forward.inspect(
                self.world, self.unwrapped, trained, partial(self.losses, losses_of), forwards, backward, self._group_size
            )

    def _rehearsal(self, batch: Sequence[MicroBatch], with_backward: bool) -> Iterator[tuple[ForwardPass, PassInput]]:
        """The forward passes of `warm_up_share` and their inputs, each set up to run, with discarded statistics.

        In lockstep a layer sees one micro-batch, and so the pass that is given for the inspection has one.
        """
        rehearsed = self.passes if self._synchronizes else self.passes[:1]
        for forward_pass in rehearsed:
            with self._strategy.forward_backward(None, last=with_backward and forward_pass is rehearsed[-1]):
                self._select(forward_pass)
                parts = self._samples(forward_pass, batch)
                self.statistics.select_scratch()
                if self._lockstep is None:
                    yield forward_pass, self.to_device(merge(parts))
                else:
                    yield replace(forward_pass, last=forward_pass.first + 1), [self.to_device(part) for part in parts]

    def describe(self) -> list[str]:
        """The table of normalisation layers."""
        return describe_normalisation(self.unwrapped, self._group_size, self.config.train.micro_batch)

    def to_device(self, batch: MicroBatch) -> MicroBatch:
        """The batch on this rank's device, floating point numbers in the dtype of the weights."""
        return to_device(batch, self.world.device, self.dtype, self.config.dist.channels_last)

    def on_device(self, batches: Iterable[MicroBatch]) -> Iterator[MicroBatch]:
        """Batches as `to_device` gives them; on a GPU the next one is copied while one runs."""
        return self._on_device([batch] for batch in batches)

    def _on_device(self, passes: Iterable[Sequence[MicroBatch]]) -> Iterator[MicroBatch]:
        if self._prefetcher is not None:
            return self._prefetcher(passes)
        return (self.to_device(merge(parts)) for parts in passes)

    # -- evaluation -----------------------------------------------------------------------------------------------------

    @contextmanager
    def evaluation(self) -> Iterator[nn.Module]:
        """A plain module with all weights on this rank, and BatchNorm's statistics averaged over micro-batches.

        With `train.ema` or `train.swa_start` its weights are the averaged ones; with `train.ema_ramp` its statistics and
        other buffers are too, and with `train.swa_start` its statistics are those of `recompute_statistics`.
        Its forwards wait for no other rank, so ranks may run different numbers of them. All ranks call together.
        """
        self.statistics.mean(self.world, None if self._average is None else self._average.statistics)
        averaged = nullcontext() if self._average is None else self._average.in_place_of_weights()
        with averaged, self._strategy.full_params() as model:
            model.eval()
            yield model

    def recompute_statistics(self, losses_of: LossesOf, steps: Iterable[Sequence[MicroBatch]]) -> None:
        """Computes BatchNorm's statistics of the averaged weights again. All ranks call together.

        Args:
            losses_of: the task's losses, whose forwards are run.
            steps: this rank's micro-batches of some steps, on the CPU; the same steps on every rank.
        """
        average = self._average
        assert average is not None
        with average.in_place_of_weights(), self._strategy.full_params() as model, undisturbed(self.world.device):
            stats_group = sync_batchnorm.stats_group_of(model)

            def forward(
                chains: MicroBatchStatistics, step: int, forward_pass: ForwardPass, batch: Sequence[MicroBatch]
            ) -> None:
                heartbeat.beat("evaluation")
                seeds = [key(self.config.seed, "averaged", step, number) for number in forward_pass.numbers]
                stats_group.group = self._batchnorm_groups[forward_pass.ranks] if forward_pass.is_shared else None
                stats_group.sizes = forward_pass.sizes
                if self._lockstep is None:
                    chains.select(forward_pass)
                    seed_everything(seeds[0])
                    losses_of(model, self.to_device(merge(batch)))
                    return

                def select(place: int) -> None:
                    chains.select_micro_batch(forward_pass.first + place)

                in_lockstep = Lockstep(model, stats_group, self.world.device, select, release=lambda: None)
                in_lockstep.run([partial(losses_of, model, self.to_device(own)) for own in batch], seeds, check=True)

            average.set_statistics(recomputed(model, self.mine, self.passes, steps, forward))

    # -- checkpoints ----------------------------------------------------------------------------------------------------

    def entries(self) -> list[Entry]:
        """This rank's checkpoint entries of the model and the optimizer."""
        statistics = dict(self.statistics.rows())
        persistent = set(self.unwrapped.state_dict())
        result = [
            replace(full_entry(name, "model", buffer), changes_in_forward=True)
            for name, buffer in self.unwrapped.named_buffers()
            if name in persistent and name not in statistics
        ]
        for name, rows in statistics.items():
            result.append(self.statistics.entry(name + MICRO_BATCHES, "statistics", rows, changes_in_forward=True))
        averages = [] if self._average is None else self._average.entries()
        return [*self._strategy.entries(), *averages, *result]

    def scalars(self) -> dict[str, Any]:
        """A checkpoint's content besides tensors. Random numbers need no state: all are functions of the seed and the step."""
        state = {"optimizer": self._strategy.scalars()}
        if self._loss_scale is None:
            return state
        return state | {"loss_scale": self._loss_scale.to_json(), "skipped": self.skipped}

    def allocate_state(self, stored: "Manifest") -> None:
        """Loads a checkpoint's scalars, and allocates the optimizer's tensors; `entries` then lists all to be read."""
        self._strategy.allocate_state(stored)
        if self._average is not None:
            self._average.allocate_state(stored)
        if self._loss_scale is not None:
            self._loss_scale.from_json(stored.state["loss_scale"])
            self.skipped = int(stored.state["skipped"])

    def after_load(self) -> None:
        """To be called after the tensors of `entries` were loaded. All ranks call together."""
        self._strategy.after_load()
        if self._average is not None:
            self._average.after_load()

    def all_finite(self) -> bool:
        """Whether every parameter is a finite number, on every rank. All ranks call together; waits for the device."""
        held = [e.tensor.detach() for e in self._strategy.entries() if e.kind == "model" and e.tensor.numel()]
        largest = nn.utils.get_total_norm(held, norm_type=float("inf"))
        not_finite = torch.zeros(self.world.ranks.world)
        not_finite[self.world.ranks.rank] = not torch.isfinite(largest)
        return not sum_exactly(self.world, not_finite).any()
