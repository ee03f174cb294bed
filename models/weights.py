"""Starting from somebody's weights: safetensors, or a `.pth` read without unpickling."""

from pathlib import Path

import torch
from torch import nn


class BadWeights(ValueError):
    """The file of weights cannot be used; the message says why."""


def load(model: nn.Module, path: Path) -> None:
    """Fills a model from a file; every tensor must fit.

    Args:
        path: `.safetensors`, or `.pth` / `.pt` with a state dict of tensors, loaded with `weights_only=True`.

    Raises:
        BadWeights: naming the file and the first tensor that does not fit.
    """
    if not path.is_file():
        raise BadWeights(f"{path}: there is no such file. Check model.weights.")
    try:
        if path.suffix == ".safetensors":
            from safetensors.torch import load_file

            state = load_file(path)
        else:
            state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        reason = str(error).splitlines()[0]
        raise BadWeights(f"{path}: this is no file of weights that can be read safely ({reason}).") from None
    if not isinstance(state, dict) or not all(isinstance(value, torch.Tensor) for value in state.values()):
        raise BadWeights(f"{path}: this file holds more than named tensors. Save the model's state_dict alone.")
    own = model.state_dict()
    for name in [*own, *state]:
        if name not in state or name not in own:
            there, here = ("lacks", "has") if name in own else ("has", "lacks")
            raise BadWeights(f"{path}: the file {there} the tensor {name}, which the model {here}.")
        if own[name].shape != state[name].shape:
            raise BadWeights(f"{path}: {name} is {list(state[name].shape)} there and {list(own[name].shape)} in the model.")
    model.load_state_dict(state)
