"""FSDP2 and HSDP: weights, gradients and optimizer state are sharded, and gathered block by block.

FSDP: Zhao et al., PyTorch FSDP, VLDB 2023 (arXiv:2304.11277); torch's second version, `fully_shard`, whose shards are
contiguous ranges of each parameter. HSDP shards within groups of ranks and replicates across.
"""

from collections.abc import Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from typing import TYPE_CHECKING, Any

import torch
import torch.distributed
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.fsdp import CPUOffloadPolicy, FSDPModule, MixedPrecisionPolicy, OffloadPolicy, fully_shard
from torch.distributed.tensor import DTensor

from phalanx.configs.errors import UserError
from phalanx.configs.strategies import STRATEGIES
from phalanx.dist import precision
from phalanx.dist.comm.process_group import World
from phalanx.dist.microbatches.sampler import Share
from phalanx.dist.strategies.blocks import blocks
from phalanx.dist.strategies.eval_copy import filled, make_eval_copy
from phalanx.dist.strategies.replicated import MakeOptimizer, Replicated, TrainedNames

if TYPE_CHECKING:
    from phalanx.configs.schema import RunConfig
    from phalanx.configs.sections.dist import DistConfig

# Under dist.gather=half only the weights of these are gathered in half precision.
_MULTIPLIES = (nn.modules.conv._ConvNd, nn.Linear)


class Fsdp(Replicated):
    """A model under FSDP2. Parameters without dimensions, which FSDP2 does not shard, are replicated.

    Raises:
        UserError: naming the possible numbers of ranks.
    """

    collective = True

    def __init__(
        self,
        model: nn.Module,
        make_optimizer: MakeOptimizer,
        config: "DistConfig",
        world: World,
        phases: Sequence[TrainedNames] = (),
    ):
        self._config, self._device = config, world.device
        self._mesh = _mesh(config, world)
        self._eval_copy = make_eval_copy(model)
        self._scalars = [parameter for parameter in model.parameters() if parameter.dim() == 0]
        _shard(model, config, self._mesh, self._device, set(self._scalars))
        super().__init__(model, make_optimizer, phases)
        self.grad_divisor = world.ranks.world

    def select_phase(self, number: int | None) -> None:
        """FSDP2 sees once which parameters are trained: all get gradients, and `gradients` drops those of other phases."""
        self.phase = number

    @contextmanager
    def forward_backward(self, numbers: range | None, last: bool) -> Iterator[None]:
        self._begin(numbers, last)
        yield

    def _begin(self, numbers: range | None, last: bool) -> None:
        assert isinstance(self.unwrapped, FSDPModule)
        self.unwrapped.set_requires_gradient_sync(last or self._config.exchange == "micro_batch")

    def gradients(self) -> list[Tensor]:
        self._drop_other_phases()
        with torch.no_grad():  # so that to_local returns the shard itself
            shards = [p.grad.to_local() for p in self.parameters.values() if isinstance(p.grad, DTensor)]
            return [*shards, *self._of_scalars()]

    def _drop_other_phases(self) -> None:
        if self.phase is not None:
            for name in self._trained - self._phases[self.phase]:
                self.parameters[name].grad = None

    def _of_scalars(self) -> list[Tensor]:
        """The gradients of replicated parameters, averaged over all ranks as FSDP2 averages the others."""
        found = [p.grad for p in self._scalars if p.grad is not None]
        if found:
            mean = torch.stack(found)
            torch.distributed.all_reduce(mean)
            torch._foreach_copy_(found, list((mean / self.grad_divisor).unbind()))
        return found

    def sum_of_parts(self, value: Tensor) -> Tensor:
        value = value.to(self._device)
        torch.distributed.all_reduce(value, group=self._mesh.get_group("shard"))
        return value

    def norm(self, gradients: Sequence[Tensor]) -> Tensor:
        replicated = [p.grad for p in self._scalars if p.grad is not None]  # the last ones, see `gradients`
        shards = gradients[: len(gradients) - len(replicated)]
        squares = self.sum_of_parts(nn.utils.get_total_norm(shards).square())
        return (squares + nn.utils.get_total_norm(replicated).square().to(squares)).sqrt() if replicated else squares.sqrt()

    def full_params(self) -> AbstractContextManager[nn.Module]:
        return filled(self._eval_copy, self.unwrapped, self._gathered())

    def _gathered(self) -> Iterable[tuple[str, Tensor]]:
        """Every full parameter, one after another."""
        with torch.no_grad():
            for name, parameter in self.parameters.items():
                yield name, self._full(parameter)

    def _full(self, shards: Tensor) -> Tensor:
        """The full tensor, on this rank's device, which offloaded shards are not on."""
        moved = shards.to(self._device)
        return moved.full_tensor() if isinstance(moved, DTensor) else moved.detach().clone()


def _mesh(config: "DistConfig", world: World) -> DeviceMesh:
    """All ranks in one shard group; or, for hsdp, replicas times shards, with neighbours in a shard group."""
    ranks = world.ranks
    if not STRATEGIES[config.strategy].replicates:
        return init_device_mesh(world.device.type, (ranks.world,), mesh_dim_names=("shard",))
    together = config.shard_ranks or ranks.local_world
    if ranks.world % together:
        fits = ", ".join(str(n) for n in range(1, ranks.world + 1) if ranks.world % n == 0)
        raise UserError(
            f"dist.strategy=hsdp: {ranks.world} ranks are not a multiple of the {together} that share a copy of the weights. "
            f"Set dist.shard_ranks to one of {fits}.",
            shared=True,
        )
    shape = (ranks.world // together, together)
    return init_device_mesh(world.device.type, shape, mesh_dim_names=("replicate", "shard"))


def _shard(
    model: nn.Module, config: "DistConfig", mesh: DeviceMesh, device: torch.device, replicated: set[nn.Parameter]
) -> None:
    """Shards the model's blocks, then the rest, but for `replicated` parameters, which are moved to the device."""
    for parameter in replicated:
        parameter.data = parameter.data.to(device)
    half = precision.HALF.get(config.precision) if config.gather == "half" else None
    # Inputs keep autocast's dtypes; gradients are accumulated in float32.
    gathered = MixedPrecisionPolicy(param_dtype=half, reduce_dtype=torch.float32 if half else None, cast_forward_inputs=False)
    offload = CPUOffloadPolicy(pin_memory=device.type == "cuda") if config.offload else OffloadPolicy()
    units = [model.get_submodule(name) for name in blocks(model)]
    ignored: dict[str, Any] = {"ignored_params": replicated} if replicated else {}
    if half is not None:
        in_float32 = MixedPrecisionPolicy(cast_forward_inputs=False)
        units = [unit for unit in units if any(isinstance(part, _MULTIPLIES) for part in unit.modules())]
        large, small = _kept_in_float32(model, units)
        # The small layers are one unit: a network has dozens, and each unit is an exchange of its own.
        for unit in [*([layer] for layer in large), *([small] if small else [])]:
            fully_shard(unit, mesh=mesh, mp_policy=in_float32, offload_policy=offload, reshard_after_forward=False, **ignored)
    for module in [*units, model]:
        fully_shard(
            module,
            mesh=mesh,
            mp_policy=gathered,
            offload_policy=offload,
            reshard_after_forward=config.reshard_after_forward and module is not model,
            **ignored,
        )


def _kept_in_float32(model: nn.Module, units: Sequence[nn.Module]) -> tuple[list[nn.Module], list[nn.Module]]:
    """Submodules whose own parameters autocast does not cast: those that contain layers that multiply, such as the attention
    of Swin; and all others, such as BatchNorm.

    Args:
        units: modules that are sharded for themselves; neither they nor what contains them is returned.
    """
    large: list[nn.Module] = []
    small: list[nn.Module] = []
    taken: set[nn.Module] = set()
    for module in model.modules():  # outer modules first
        parts = set(module.modules())
        if (
            module in taken
            or isinstance(module, _MULTIPLIES)
            or next(module.parameters(recurse=False), None) is None
            or module is model
            or not parts.isdisjoint(units)
        ):
            continue
        taken |= parts
        (large if any(isinstance(part, _MULTIPLIES) for part in parts) else small).append(module)
    return large, small


def wrap(
    model: nn.Module,
    make_optimizer: MakeOptimizer,
    config: "RunConfig",
    world: World,
    mine: Share,
    phases: Sequence[TrainedNames] = (),
) -> Fsdp:
    """As `phalanx.dist.strategies.wrap`."""
    return Fsdp(model, make_optimizer, config.dist, world, phases)
