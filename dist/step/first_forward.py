"""Inspection of a model's first forward: the names of its losses, the parameters they reach, the buffers it changes.

A parameter without a gradient makes DDP wait for ever, and FSDP's ranks diverge; so it is refused before the first step.
"""

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from phalanx.configs.errors import UserError
from phalanx.dist.batchnorm.report import refuse_one_value
from phalanx.dist.comm.collectives import gather_json
from phalanx.dist.comm.process_group import World
from phalanx.dist.microbatches.forward_passes import ForwardPass
from phalanx.dist.microbatches.micro_batch import MicroBatch
from phalanx.dist.strategies.blocks import blocks

# A loss: its sum over a micro-batch, and the weight to divide by (a number of samples, pixels or boxes); a tensor is only
# copied to the host where needed.
Losses = Mapping[str, tuple[Tensor, float | Tensor]]
LossesOf = Callable[[nn.Module, MicroBatch], Losses]
PassInput = MicroBatch | list[MicroBatch]  # a forward pass's; several, if they run in lockstep


def total(losses: Sequence[Losses]) -> Tensor:
    """The sum of all losses, without their weights: enough for a backward."""
    return torch.stack([value for own in losses for value, _ in own.values()]).sum()


def inspect(
    world: World,
    plain: nn.Module,
    trained: Collection[str] | None,
    losses_of: Callable[[PassInput], Sequence[Losses]],
    forwards: Iterable[tuple[ForwardPass, PassInput]],
    backward: Callable[[Tensor], None] | None,
    group_size: int,
) -> tuple[str, ...]:
    """Runs and inspects forwards, each followed by its backward if one is given. All ranks call together.

    Args:
        plain: the model without its strategy.
        trained: names of the parameters that the losses must reach; None: all that are not frozen.
        group_size: micro-batches that synchronize statistics.

    Returns:
        Names of the losses.

    Raises:
        UserError: naming a parameter that no loss reaches, or a BatchNorm layer that sees one value per channel.
    """
    trained = [n for n, p in plain.named_parameters() if (p.requires_grad if trained is None else n in trained)]
    reached, names = set(trained), tuple[str, ...]()
    for forward_pass, own in forwards:
        with watching(plain, forward_pass, group_size) as seen:
            losses = losses_of(own)
        names, loss = tuple(losses[0]), total(losses)
        reached &= seen.reached(loss)
        if backward is not None:
            _refuse_unreached(gather_json(world, sorted(reached)), trained)
            backward(loss)
    if backward is None:
        _refuse_unreached(gather_json(world, sorted(reached)), trained)
    return names


@dataclass
class Inspection:
    """The findings of an inspection.

    Attributes:
        names: parameters' names, by the id of the tensor that the forward used.
        used: those tensors, kept alive so that ids stay unique.
    """

    names: dict[int, str] = field(default_factory=dict)
    used: list[Tensor] = field(default_factory=list)

    def note(self, module: nn.Module, prefix: str, recurse: bool) -> None:
        """Records the parameters of a module as they are now: under FSDP2 other tensors than before its forward."""
        for name, parameter in module.named_parameters(prefix=prefix, recurse=recurse):
            if id(parameter) not in self.names:
                self.names[id(parameter)] = name
                self.used.append(parameter)

    def reached(self, loss: Tensor) -> set[str]:
        """Names of the parameters that a loss depends on."""
        found, seen, waiting = set(), set(), [loss.grad_fn]
        while waiting:
            node = waiting.pop()
            if node is None or node in seen:
                continue
            seen.add(node)
            leaf: Any = getattr(node, "variable", None)
            if leaf is not None and id(leaf) in self.names:
                found.add(self.names[id(leaf)])
            waiting += [following for following, _ in node.next_functions]
        return found


@contextmanager
def watching(model: nn.Module, forward_pass: ForwardPass, group_size: int) -> Iterator[Inspection]:
    """Inspects the forwards that a model runs within the context.

    Args:
        forward_pass: the pass that runs.
        group_size: micro-batches that synchronize statistics.

    Raises:
        UserError: in the forward, naming a BatchNorm layer that sees one value per channel.
    """
    inspection = Inspection()
    hooks = []
    # A parameter may be used by a module that is not its owner; FSDP2 gathers each group before the forward of its module.
    # Such modules are recognized by a method, since importing FSDP2 takes a second.
    gathered = {name for name, module in model.named_modules() if hasattr(module, "set_requires_gradient_sync")}
    units = {"", *blocks(model), *gathered}
    for name, module in model.named_modules():
        hooks.append(module.register_forward_pre_hook(lambda m, _, n=name: inspection.note(m, n, recurse=n in units)))
        if isinstance(module, _BatchNorm):
            hooks.append(
                module.register_forward_pre_hook(lambda m, x, n=name: refuse_one_value(n, m, x[0], forward_pass, group_size))
            )
    try:
        yield inspection
    finally:
        for hook in hooks:
            hook.remove()


def _refuse_unreached(reached: list[list[str]], trained: list[str]) -> None:
    """Refuses parameters on which the losses of no rank, or only of some ranks, depend.

    Args:
        reached: names, per rank.

    Raises:
        UserError: naming the first.
    """
    everywhere = set.intersection(*map(set, reached))
    missing = [name for name in trained if name not in everywhere]
    if not missing:
        return
    anywhere = set.union(*map(set, reached))
    where = "in the first micro-batches of some ranks only" if missing[0] in anywhere else "in the first micro-batches"
    more = f" and {len(missing) - 1} more" if len(missing) > 1 else ""
    raise UserError(
        f"no loss depends on the parameter {missing[0]}{more} {where}, so it would get no gradient. If it is never used, "
        f"freeze it (model.freeze=[{missing[0]}]) or remove it; if only for some batches, add 0 * p.sum() to a loss.",
        shared=True,
    )


def changed_buffers(before: Mapping[str, Tensor], model: nn.Module, known: Mapping[str, object]) -> list[str]:
    """A warning per buffer that a forward changed and that is not a statistic of a known layer; ranks would differ in it."""
    after = dict(model.named_buffers())
    statistics = tuple(f"{layer}." for layer in known)
    changed = [n for n, b in before.items() if not n.startswith(statistics) and not torch.equal(b, after[n])]
    return [
        f"the buffer {name} changes during training, independently of micro-batches: its value will depend on "
        "the number of ranks"
        for name in changed[:1]
    ]
