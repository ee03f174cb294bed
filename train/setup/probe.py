"""A first look at a user's own network, before it is wrapped for all ranks: forwards on the CPU, equal on every rank.

It shows what a shipped network states: which parameters a loss reaches, which blocks can be gathered one at a time, and whether
a sample's output depends on anything but the sample, the weights and torch's random numbers.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_leaves

from phalanx.configs.errors import UserError
from phalanx.dist.microbatches.micro_batch import MicroBatch, to_device
from phalanx.dist.microbatches.randomness import seed_everything, undisturbed
from phalanx.dist.step.first_forward import Inspection, total
from phalanx.dist.step.phases import Phase

_SAMPLES = 2  # of the micro-batch: enough to see whether they are mixed
_CPU = torch.device("cpu")


def probe(model: nn.Module, phases: Sequence[Phase], micro_batch: MicroBatch) -> list[str]:
    """Freezes parameters that no loss reaches, and takes blocks out of `block_names` that cannot be gathered on their own.

    BatchNorm normalises with its running statistics here; buffers and random numbers are restored.

    Args:
        model: on the CPU, not wrapped.
        phases: the task's.
        micro_batch: the same on every rank.

    Returns:
        Warnings for the user.

    Raises:
        UserError: if no parameter is left to train.
    """
    batch = to_device(_first(micro_batch), _CPU, torch.get_default_dtype(), channels_last=False)
    seen, inspection = _Seen(model, tuple(getattr(model, "block_names", ()))), Inspection()
    with undisturbed(_CPU), _as_found(model), torch.enable_grad():
        seed_everything(0)
        again = _total(phases, model, _copied(batch)).detach()
    with undisturbed(_CPU), _as_found(model), torch.enable_grad():
        inputs = list[Tensor]()
        batch |= {name: _traced(batch[name], inputs) for name in ("image", "input") if name in batch}
        inspection.note(model, "", recurse=True)
        seed_everything(0)
        with seen.watching():
            loss = _total(phases, model, batch)
        reached = inspection.reached(loss)
        warnings = _mixed(seen.output, inputs)
    model.block_names = tuple(name for name in seen.blocks if name not in seen.apart)  # type: ignore[assignment]
    warnings += _unreached(model, reached)
    if not torch.equal(loss.detach(), again):
        warnings.append(
            "two forwards with the same input and seed gave different losses: the network draws from a generator of its own, "
            "or keeps something between forwards, so that a resumed run differs. Draw by torch, numpy.random or random, which "
            "are seeded"
        )
    return warnings


def _total(phases: Sequence[Phase], model: nn.Module, batch: MicroBatch) -> Tensor:
    """The sum of the losses of all phases."""
    return total([phase.losses(model, batch) for phase in phases])


def _first(batch: MicroBatch) -> MicroBatch:
    """The first samples of a micro-batch."""

    def cut(value: Any) -> Any:
        return {name: cut(item) for name, item in value.items()} if isinstance(value, Mapping) else value[:_SAMPLES]

    return {name: cut(value) for name, value in batch.items()}


def _traced(value: Any, leaves: list[Tensor]) -> Any:
    """An input with gradients, whose leaves are added to a list; copies of them, which a network may change in place."""
    if isinstance(value, Mapping):
        return {name: _traced(item, leaves) for name, item in value.items()}
    if not isinstance(value, Tensor) or not value.is_floating_point():
        return value
    leaves.append(value.detach().requires_grad_())
    return leaves[-1].clone()


def _copied(value: Any) -> Any:
    """An input that may be changed in place."""
    if isinstance(value, Mapping):
        return {name: _copied(item) for name, item in value.items()}
    return value.clone() if isinstance(value, Tensor) else value


@contextmanager
def _as_found(model: nn.Module) -> Iterator[None]:
    """In training mode but for BatchNorm; restores modes, buffers and flags."""
    modes, before = {m: m.training for m in model.modules()}, {n: b.clone() for n, b in model.named_buffers()}
    model.train()
    for module in model.modules():
        if isinstance(module, _BatchNorm):
            module.eval()
    try:
        yield
    finally:
        for module, training in modes.items():
            module.training = training
        with torch.no_grad():
            for name, buffer in model.named_buffers():
                if name in before and before[name].shape == buffer.shape:
                    buffer.copy_(before[name])


class _Seen(TorchFunctionMode):
    """What a forward does with the blocks.

    Attributes:
        output: what the network returned.
        apart: blocks that did not run, or whose parameters something else used.
    """

    def __init__(self, model: nn.Module, blocks: Sequence[str]):
        super().__init__()
        self._model, self.blocks, self.output = model, blocks, None
        self.apart = set(blocks)
        self._misused, self._running = set[str](), list[str]()
        self._owner = {id(p): name for name in blocks for p in model.get_submodule(name).parameters()}

    @contextmanager
    def watching(self) -> Iterator[None]:
        hooks = [self._model.register_forward_hook(self._returned)]
        for name in self.blocks:
            block = self._model.get_submodule(name)
            hooks.append(block.register_forward_pre_hook(lambda *_, n=name: self._running.append(n)))
            hooks.append(block.register_forward_hook(lambda *_, n=name: self._ran(n)))
        try:
            with self:
                yield
        finally:
            for hook in hooks:
                hook.remove()
        self.apart |= self._misused

    def _returned(self, module: nn.Module, given: Any, output: Any) -> None:
        self.output = output

    def _ran(self, name: str) -> None:
        self._running.remove(name)
        self.apart.discard(name)

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        if getattr(func, "__name__", "") != "__get__":  # a shape or a type may be asked for anywhere
            used = {self._owner.get(id(leaf)) for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, nn.Parameter)}
            self._misused |= {name for name in used if name is not None and name not in self._running}
        return func(*args, **(kwargs or {}))


def _mixed(output: Any, inputs: Sequence[Tensor]) -> list[str]:
    """A warning if the first sample's output depends on the second sample."""
    for value in tree_leaves(output):
        if not isinstance(value, Tensor) or not value.dim() or len(value) != _SAMPLES or value.grad_fn is None:
            continue
        if not inputs:
            break
        gradients = torch.autograd.grad(value[0].sum(), inputs, retain_graph=True, allow_unused=True)
        given = [(g, x) for g, x in zip(gradients, inputs, strict=True) if g is not None and len(x) == _SAMPLES]
        if any(g[1:].count_nonzero() for g, _ in given):
            return [
                "a sample's output depends on the other samples of its micro-batch, not only by BatchNorm: results depend on "
                "train.micro_batch, and in evaluation on the batch that a sample is in"
            ]
    return []


def _unreached(model: nn.Module, reached: set[str]) -> list[str]:
    trained = [name for name, parameter in model.named_parameters() if parameter.requires_grad]
    missing = [name for name in trained if name not in reached]
    if not missing:
        return []
    if len(missing) == len(trained):
        raise UserError("no loss depends on any parameter of the network. Let its output depend on them.", shared=True)
    parameters = dict(model.named_parameters())
    for name in missing:
        parameters[name].requires_grad_(False)
    more = f" and {len(missing) - 1} more" if len(missing) > 1 else ""
    return [f"no loss depends on the parameter {missing[0]}{more}: it is not trained (as with model.freeze)"]
