"""What a model does in its first forward: which parameters its losses reach, and what its normalisation layers see.

A parameter without a gradient makes DDP wait for ever, and FSDP's ranks disagree; so it is named before the first step.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.instancenorm import _InstanceNorm

from phalanx.configs.errors import UserError
from phalanx.dist.blocks import blocks
from phalanx.dist.joint_batchnorm import JointBatchNorm, TorchJointBatchNorm
from phalanx.dist.schedule import Turn


@dataclass
class Inspection:
    """What was seen.

    Attributes:
        names: of parameters, by the identity of the tensor that the forward used.
        used: those tensors, kept alive so that identities stay theirs.
    """

    names: dict[int, str] = field(default_factory=dict)
    used: list[Tensor] = field(default_factory=list)

    def note(self, module: nn.Module, prefix: str, recurse: bool) -> None:
        """The parameters of a module as they are now: under FSDP2 others than before its forward."""
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
def watching(model: nn.Module, turn: Turn, joint: int) -> Iterator[Inspection]:
    """Watches the forwards of a model inside.

    Args:
        turn: what runs.
        joint: micro-batches that one statistic sees.

    Raises:
        UserError: in the forward, where a BatchNorm layer sees one value a channel, by its name.
    """
    inspection = Inspection()
    hooks = []
    whole = {"", *blocks(model)}  # a parameter may be used by a module that is not its owner
    for name, module in model.named_modules():
        hooks.append(module.register_forward_pre_hook(lambda m, _, n=name: inspection.note(m, n, recurse=n in whole)))
        if isinstance(module, _BatchNorm):
            hooks.append(
                module.register_forward_pre_hook(lambda m, x, name=name: _refuse_one_value(name, m, x[0], turn, joint))
            )
    try:
        yield inspection
    finally:
        for hook in hooks:
            hook.remove()


def _refuse_one_value(name: str, layer: _BatchNorm, x: Tensor, turn: Turn, joint: int) -> None:
    values = x.numel() // x.shape[1] if x.dim() > 1 else 0
    if not layer.training or turn.is_filler or values * joint != turn.size:
        return
    raise UserError(
        f"the BatchNorm layer {name} sees one value a channel ({list(x.shape)}), from which no variance can be had. "
        "Raise train.micro_batch or data.image_size, or set dist.sync_bn=all (each another experiment)."
    )


def describe_normalisation(model: nn.Module, joint: int, micro_batch: int) -> list[str]:
    """The table of a run's start: which layers share statistics, which are frozen, which are left, and what they see."""
    rows: dict[tuple[str, str], int] = {}
    alone = f"{micro_batch} samples, 1 micro-batch"
    shared = f"{micro_batch * joint} samples, {joint} micro-batches"
    independent = 0
    for module in model.modules():
        if type(module).__name__ == "FrozenBatchNorm2d":  # torchvision's; other libraries call theirs the same
            row = ("BatchNorm, frozen", "nothing: its statistics are constants")
        elif isinstance(module, _BatchNorm):
            how = "converted" if isinstance(module, JointBatchNorm | TorchJointBatchNorm) else "left as it is"
            row = (f"BatchNorm, {'merged' if joint > 1 and how != 'converted' else how}", shared if joint > 1 else alone)
        elif isinstance(module, _InstanceNorm | nn.LayerNorm | nn.GroupNorm | nn.RMSNorm):
            independent += 1
            continue
        else:
            continue
        rows[row] = rows.get(row, 0) + 1
    lines = [f"{name:31} {count:4} layers   each statistic sees {sees}" for (name, sees), count in sorted(rows.items())]
    if independent:
        lines.append(
            f"{'LayerNorm, GroupNorm and others':31} {independent:4} layers   need nothing: they see one sample at a time"
        )
    return lines


def refuse_unreached(reached: list[list[str]], trained: Mapping[str, nn.Parameter]) -> None:
    """Refuses parameters that the losses of no rank, or only of some, depend on.

    Args:
        reached: names, for every rank.

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
    """Buffers that a forward changed and that are no statistics of a known layer: ranks would not keep them equal."""
    after = dict(model.named_buffers())
    statistics = tuple(f"{layer}." for layer in known)
    return [n for n, b in before.items() if not n.startswith(statistics) and not torch.equal(b, after[n])]
