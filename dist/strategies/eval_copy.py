"""A copy of a model without weights, to be filled for an evaluation whose forwards wait for no other rank."""

import copy
from collections.abc import Iterable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn


def make_eval_copy(model: nn.Module) -> nn.Module:
    """A copy of a model that is not wrapped yet; its parameters have shapes but no memory."""
    shapes = {id(p): nn.Parameter(torch.empty_like(p, device="meta"), requires_grad=False) for p in model.parameters()}
    return copy.deepcopy(model, dict(shapes))


@contextmanager
def filled(eval_copy: nn.Module, trained: nn.Module, weights: Iterable[tuple[str, Tensor]]) -> Iterator[nn.Module]:
    """The copy with weights, and with the buffers of the trained model; both are removed afterwards.

    Args:
        weights: every parameter's name and full tensor.
    """
    places = _places(eval_copy)
    empty = dict(eval_copy.named_parameters())
    for name, tensor in weights:
        for owner, key in places[name]:
            owner._parameters[key] = nn.Parameter(tensor, requires_grad=False)
    for name, module in trained.named_modules():
        eval_copy.get_submodule(name)._buffers.update(module._buffers)
    eval_copy.eval()
    try:
        yield eval_copy
    finally:
        for name, parameter in empty.items():
            for owner, key in places[name]:
                owner._parameters[key] = parameter


def _places(model: nn.Module) -> dict[str, list[tuple[nn.Module, str]]]:
    """The modules and attributes of each parameter, by the first of its names: several modules may share one."""
    names = {id(p): name for name, p in model.named_parameters()}
    places: dict[str, list[tuple[nn.Module, str]]] = {name: [] for name in names.values()}
    for module in model.modules():
        for key, parameter in module._parameters.items():
            if parameter is not None:
                places[names[id(parameter)]].append((module, key))
    return places
