"""ZeRO by DeepSpeed: shards the optimizer's state (stage 1), also gradients (2), also weights (3).

Rajbhandari et al., ZeRO: Memory Optimizations Toward Training Trillion Parameter Models, SC 2020 (arXiv:1910.02054).
DeepSpeed is used as a plain float32 optimizer around torch's: precision, clipping and micro-batches are the engine's.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any, cast

import torch
import torch.distributed
from torch import Tensor, nn

from phalanx.configs.errors import TrainingFailed, UserError
from phalanx.configs.schema import RunConfig
from phalanx.configs.strategies import STRATEGIES
from phalanx.dist.checkpoint.entries import FROM_NAME, Entry, full_entry
from phalanx.dist.checkpoint.manifest import Manifest
from phalanx.dist.comm.process_group import World
from phalanx.dist.microbatches.sampler import Share
from phalanx.dist.strategies import optimizer_state
from phalanx.dist.strategies.eval_copy import filled, make_eval_copy
from phalanx.dist.strategies.rates import Rates
from phalanx.dist.strategies.replicated import MakeOptimizer
from phalanx.dist.strategies.zero_engine import start
from phalanx.dist.strategies.zero_parts import HeldRange, in_groups, in_shards


class Zero:
    """A model under DeepSpeed's ZeRO. A step's backwards accumulate; gradients are reduced at its last (stage 1), or at each.

    Raises:
        UserError: if DeepSpeed cannot be used, or ignores its settings; naming a parameter that it cannot shard.
    """

    def __init__(
        self,
        model: nn.Module,
        make_optimizer: MakeOptimizer,
        config: RunConfig,
        world: World,
    ):
        _refuse_scalars(model, config.dist.strategy)
        spec = STRATEGIES[config.dist.strategy]
        self._stage, self._offload = spec.zero_stage, config.dist.offload
        self._rank, self._device = world.ranks.rank, world.device
        self.collective = spec.collective
        self.grad_divisor = world.ranks.world
        _lay_out(model, world.device)
        self._eval_copy = make_eval_copy(model) if self._stage == 3 else None
        self.unwrapped = model
        self.parameters = dict(model.named_parameters())
        self._base = make_optimizer({n: p for n, p in self.parameters.items() if p.requires_grad})
        self.model = self._engine = start(model, self._base, config, world)
        optimizer_state.forget_counters(self._base)
        self._zero: Any = self._engine.optimizer
        self._parts = self._find_parts()

    def _find_parts(self) -> dict[str, HeldRange]:
        """The held ranges by name, in the order of the model; under stages 1 and 2 only of trained parameters."""
        names = {parameter: name for name, parameter in self.parameters.items()}
        find = in_shards if self._stage == 3 else in_groups
        found = dict(find(self._zero, names, self._rank))
        return {name: found[name] for name in self.parameters if name in found}

    # -- a step ---------------------------------------------------------------------------------------------------------

    def select_phase(self, number: int | None) -> None:
        """Does nothing: there is one phase, of all trained parameters."""

    def forward_backward(self, numbers: range | None, last: bool) -> AbstractContextManager[None]:
        self._engine.set_gradient_accumulation_boundary(last)
        return nullcontext()

    def backward(self, loss: Tensor) -> None:
        self._engine.backward(loss, scale_wrt_gas=False)

    def gradients(self) -> list[Tensor]:
        if self._offload:
            return [flat.grad for flat in self._flats() if flat.grad is not None]
        return [piece for group in self._zero.averaged_gradients.values() for piece in group or ()]

    def sum_of_parts(self, value: Tensor) -> Tensor:
        value = value.to(self._device)
        torch.distributed.all_reduce(value)
        return value

    def norm(self, gradients: Sequence[Tensor]) -> Tensor:
        return self.sum_of_parts(nn.utils.get_total_norm(gradients).square()).sqrt()

    def update(self, rates: Rates) -> None:
        rates.set(self._base.param_groups)
        with optimizer_state.one_update(self._base):
            self._engine.step()
        if not self._engine.was_step_applied():
            raise TrainingFailed(
                "the gradient is not finite, and DeepSpeed skipped the step. "
                "Check the loss, lower optim.lr, or set train.clip_norm."
            )
        self._forget_sums()

    def discard(self) -> None:
        """Drops the gradients as DeepSpeed does when it skips a step."""
        zero = self._zero
        zero.zero_grad(set_to_none=True)
        if self._stage < 3:
            zero.micro_step_id = -1  # INITIAL_MICRO_STEP_ID: the next backward starts a step
            for group in zero.averaged_gradients:
                zero.averaged_gradients[group] = None
            zero.all_grad_tensors.clear()
        else:
            zero.averaged_gradients.clear()
        if self._offload:
            zero.reset_cpu_buffers()
        self._forget_sums()

    def _forget_sums(self) -> None:
        """Clears sums, which DeepSpeed overwrites only if a parameter is used in the next step's first backward."""
        if self._stage == 3:
            self._zero.grad_partitions_flat_buffer.zero_()
        if self._offload:
            for flat in self._flats():
                if flat.grad is not None:
                    flat.grad.zero_()

    def _flats(self) -> list[Tensor]:
        """The optimizer's float32 weights, one tensor per group."""
        return self._zero.fp32_partitioned_groups_flat if self._stage == 3 else self._zero.single_partition_of_fp32_groups

    # -- checkpoints ----------------------------------------------------------------------------------------------------

    def entries(self) -> list[Entry]:
        result = [
            self._parts[name].entry(name, "model", self._parts[name].flat)
            if name in self._parts
            else full_entry(name, "model", parameter)
            for name, parameter in self.parameters.items()
        ]
        for name, part in self._parts.items():
            for key, value in self._base.state.get(part.flat, {}).items():
                if isinstance(value, Tensor) and value.dim():
                    result.append(part.entry(f"{name}@{key}", "optimizer", value))
        return result

    def scalars(self) -> dict[str, Any]:
        return optimizer_state.scalars(self._base, cast(Mapping[str, nn.Parameter], self._owners()), self._groups())

    def _groups(self) -> dict[int, dict[str, Any]]:
        """The optimizer's group of each flat tensor, by its `id`; stage 3 takes them out of their groups between steps."""
        if self._stage < 3:
            return optimizer_state.groups_of(self._base)
        places = self._zero.sub_group_to_group_id
        return {id(flat): self._base.param_groups[places[place]] for place, flat in enumerate(self._flats())}

    def _owners(self) -> dict[str, Tensor]:
        """The flat tensor that is the key of the optimizer's state, by the name of each parameter."""
        return {name: part.flat for name, part in self._parts.items()}

    def allocate_state(self, stored: Manifest) -> None:
        scalars: dict[str, dict[str, Any]] = stored.state["optimizer"]
        tensors: dict[str, dict[str, torch.dtype]] = {}
        for full_name, tensor in stored.tensors.items():
            if tensor.kind == "optimizer":
                owner, _, key = full_name.rpartition("@")
                tensors.setdefault(owner, {})[key] = FROM_NAME[tensor.dtype]
        groups = self._groups()
        for flat in self._flats():
            names = [name for name, owner in self._owners().items() if owner is flat]
            shared = _shared(names, scalars)
            if id(flat) in groups:
                optimizer_state.set_counters(groups[id(flat)], shared)
            state = {key: _scalar(value) for key, value in shared.items() if not optimizer_state.is_counter(key)}
            for name in names:
                for key, dtype in tensors.get(name, {}).items():
                    if key not in state:
                        state[key] = torch.zeros_like(flat, dtype=dtype, requires_grad=False)
            if state:
                self._base.state[flat] = state

    def after_load(self) -> None:
        """Copies the loaded optimizer's weights to the model's."""
        zero = self._zero
        if self._stage < 3:
            zero.update_lp_params()
            return
        with torch.no_grad():
            zero._partition_all_parameters()
            for group in range(len(zero.fp16_groups)):
                zero._reassign_or_swap_out_partitioned_parameters(group)
            if zero.persistent_parameters:
                zero.persistent_parameters[0].all_gather(zero.persistent_parameters)

    # -- evaluation -----------------------------------------------------------------------------------------------------

    def full_params(self) -> AbstractContextManager[nn.Module]:
        if self._eval_copy is None:
            return self._itself()
        return filled(self._eval_copy, self.unwrapped, self._gathered())

    @contextmanager
    def _itself(self) -> Iterator[nn.Module]:
        yield self.unwrapped

    def _gathered(self) -> Iterable[tuple[str, Tensor]]:
        """Every full parameter, one after another."""
        for name, parameter in self.parameters.items():
            shard = parameter.ds_tensor.detach().to(self._device)  # type: ignore[attr-defined]
            flat = shard.new_empty(shard.numel() * self.grad_divisor)
            torch.distributed.all_gather_into_tensor(flat, shard)
            shape = parameter.ds_shape  # type: ignore[attr-defined]
            yield name, flat[: shape.numel()].view(shape)


def _refuse_scalars(model: nn.Module, strategy: str) -> None:
    """Refuses tensors without dimensions: DeepSpeed broadcasts weights as bytes, which these cannot be viewed as."""
    for name, parameter in model.named_parameters():
        if parameter.dim() == 0:
            raise UserError(
                f"the parameter {name} has no dimension, which DeepSpeed (dist.strategy={strategy}) cannot shard. "
                "Give it the shape [1], or set dist.strategy=ddp.",
                shared=True,
            )


def _lay_out(model: nn.Module, device: torch.device) -> None:
    """Moves buffers to the device, and makes parameters contiguous in the order of their shape.

    DeepSpeed moves parameters itself: under stage 3 a full model need never fit on a GPU. It also flattens them in that
    order, but first broadcasts their bytes as stored.
    """
    for parameter in model.parameters():
        parameter.data = parameter.data.contiguous()
    for module in model.modules():
        for name, buffer in module._buffers.items():
            if buffer is not None:
                module._buffers[name] = buffer.to(device)


def _shared(names: list[str], scalars: Mapping[str, dict[str, Any]]) -> dict[str, Any]:
    """The scalars of parameters that share a state.

    Raises:
        UserError: if they differ.
    """
    first: dict[str, Any] = scalars.get(names[0], {}) if names else {}
    for name in names:
        if scalars.get(name, {}) != first:
            raise UserError(
                f"the checkpoint has {scalars.get(name, {})} for {name}, but {first} for {names[0]}: ZeRO keeps one for both. "
                "Resume with dist.strategy=ddp or fsdp.",
                shared=True,
            )
    return dict(first)


def _scalar(value: Any) -> Any:
    """A stored scalar in the optimizer's form: a 0-dimensional tensor on the CPU, or a plain value."""
    return torch.tensor(value["value"], dtype=getattr(torch, value["dtype"])) if isinstance(value, dict) else value


def wrap(model: nn.Module, make_optimizer: MakeOptimizer, config: RunConfig, world: World, mine: Share) -> Zero:
    """As `phalanx.dist.strategies.wrap`."""
    return Zero(model, make_optimizer, config, world)
