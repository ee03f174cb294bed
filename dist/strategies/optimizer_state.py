"""An optimizer's state by the parameters' names: tensors as checkpoint entries, scalars as JSON."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from phalanx.configs.errors import UserError
from phalanx.dist.checkpoint.entries import DTYPES, FROM_NAME, Entry, entry

if TYPE_CHECKING:
    from phalanx.dist.checkpoint.manifest import StoredTensor

Scalars = dict[str, dict[str, Any]]

_COUNTER = "group."  # before the name of a number that an optimizer keeps in a group of parameters
_MADE = "numbers_when_made"
_SET_BY_THE_ENGINE = frozenset({"lr", "momentum"})


def note_numbers(optimizer: torch.optim.Optimizer) -> None:
    """Notes the numbers of each group, so that those that the optimizer changes later, such as LAMB's step, are told apart."""
    for group in optimizer.param_groups:
        group[_MADE] = _numbers(group)


def _numbers(group: Mapping[str, Any]) -> dict[str, Any]:
    """The numbers of a group, as JSON: as they are, or of tensors without dimensions their value and type."""
    found = dict[str, Any]()
    for key, value in group.items():
        if key in _SET_BY_THE_ENGINE or isinstance(value, bool):
            continue
        if isinstance(value, int | float):
            found[key] = value
        elif isinstance(value, Tensor) and not value.dim():
            found[key] = {"value": value.item(), "dtype": DTYPES[value.dtype]}
    return found


def _as_held(number: Any) -> Any:
    """A number as the group holds it."""
    return torch.tensor(number["value"], dtype=FROM_NAME[number["dtype"]]) if isinstance(number, dict) else number


@contextmanager
def one_update(optimizer: torch.optim.Optimizer) -> Iterator[None]:
    """Within it, `step` may be called for some of the parameters at a time, as ZeRO-3 does: numbers of groups count once."""
    before = {id(group): _numbers(group) for group in optimizer.param_groups}

    def reset(*_: object) -> None:
        for group in optimizer.param_groups:  # ZeRO 1 and 2 show the optimizer one group at a time
            _reset(group, before[id(group)])

    handle = optimizer.register_step_pre_hook(reset)
    try:
        yield
    finally:
        handle.remove()


def forget_counters(optimizer: torch.optim.Optimizer) -> None:
    """Resets what an optimizer has counted since it was made: ZeRO-3 lets it step once, to allocate its state."""
    for group in optimizer.param_groups:
        if _MADE in group:
            _reset(group, group[_MADE])


def _reset(group: dict[str, Any], numbers: Mapping[str, Any]) -> None:
    for key in _numbers(group):
        if key in numbers:
            group[key] = _as_held(numbers[key])
        else:
            del group[key]


def counters(group: Mapping[str, Any]) -> dict[str, Any]:
    """What the optimizer has changed in a group since it was made."""
    made = group.get(_MADE)
    if made is None:
        return {}
    return {f"{_COUNTER}{key}": value for key, value in _numbers(group).items() if key not in made or made[key] != value}


def set_counters(group: dict[str, Any], scalars: Mapping[str, Any]) -> None:
    """Sets what `counters` had told."""
    for key, value in scalars.items():
        if is_counter(key):
            group[key.removeprefix(_COUNTER)] = _as_held(value)


def is_counter(key: str) -> bool:
    return key.startswith(_COUNTER)


def groups_of(optimizer: torch.optim.Optimizer) -> dict[int, dict[str, Any]]:
    """The group of each parameter, by its `id`."""
    return {id(parameter): group for group in optimizer.param_groups for parameter in group["params"]}


def entries(optimizer: torch.optim.Optimizer, parameters: Mapping[str, nn.Parameter]) -> list[Entry]:
    """The tensors with dimensions: `conv1.weight@exp_avg`."""
    return [
        entry(f"{name}@{key}", "optimizer", value)
        for name, parameter in parameters.items()
        for key, value in optimizer.state.get(parameter, {}).items()
        if isinstance(value, Tensor) and value.dim()
    ]


def check(optimizer: torch.optim.Optimizer, parameters: Mapping[str, nn.Parameter]) -> None:
    """Refuses state that a checkpoint could not keep by name and shard.

    Raises:
        UserError: naming the tensor.
    """
    for name, parameter in parameters.items():
        for key, value in optimizer.state.get(parameter, {}).items():
            if isinstance(value, Tensor) and value.dim() and value.shape != parameter.shape and _is_sharded(parameter):
                raise UserError(
                    f"the optimizer's state {key!r} of {name} has the shape {list(value.shape)}, and the parameter "
                    f"{list(parameter.shape)}: where parameters are sharded, checkpoints keep tensors in the shape of the "
                    "parameter, and numbers. Change it, or set dist.strategy=ddp.",
                    shared=True,
                )
            if not isinstance(value, Tensor | int | float | str | None):
                raise UserError(
                    f"the optimizer's state {key!r} of {name} is a {type(value).__name__}: checkpoints keep tensors and "
                    "numbers. Change it.",
                    shared=True,
                )


def _is_sharded(tensor: Tensor) -> bool:
    return hasattr(tensor, "device_mesh")


def scalars(
    optimizer: torch.optim.Optimizer, parameters: Mapping[str, nn.Parameter], groups: Mapping[int, dict[str, Any]] | None = None
) -> Scalars:
    """Everything else: `{"conv1.weight": {"step": {"value": 100.0, "dtype": "float32"}}}`.

    Args:
        groups: the group of each parameter, by its `id`, where the optimizer does not have them.
    """
    result: Scalars = {}
    groups = groups_of(optimizer) if groups is None else groups
    for name, parameter in parameters.items():
        if of_group := counters(groups.get(id(parameter), {})):
            result[name] = of_group
        for key, value in optimizer.state.get(parameter, {}).items():
            if isinstance(value, Tensor) and value.dim():
                continue
            if isinstance(value, Tensor):
                value = {"value": value.item(), "dtype": str(value.dtype).removeprefix("torch.")}
            result.setdefault(name, {})[key] = value
    return result


def allocate_state(
    optimizer: torch.optim.Optimizer,
    parameters: Mapping[str, nn.Parameter],
    stored: "Mapping[str, StoredTensor]",
    stored_scalars: Scalars,
) -> None:
    """Allocates a checkpoint's state in a fresh optimizer: with its scalars, and empty tensors to be read."""
    groups = groups_of(optimizer)
    for name, parameter in parameters.items():
        state = {}
        numbers = stored_scalars.get(name, {})
        if id(parameter) in groups:
            set_counters(groups[id(parameter)], numbers)
        for key, value in numbers.items():
            if is_counter(key):
                continue
            if isinstance(value, dict):
                # Step counts stay on the CPU unless the optimizer is capturable or fused; torch moves them if needed.
                device = parameter.device if parameter.dim() == 0 and key != "step" else None
                value = torch.tensor(value["value"], dtype=getattr(torch, value["dtype"]), device=device)
            state[key] = value
        for full_name, tensor in stored.items():
            owner, _, key = full_name.rpartition("@")
            if tensor.kind == "optimizer" and owner == name:
                state[key] = _empty(full_name, parameter, tensor)
        if state:
            optimizer.state[parameter] = state


def _empty(name: str, parameter: nn.Parameter, stored: "StoredTensor") -> Tensor:
    """Room for a stored tensor of the parameter's shape; where every rank has the full parameter, of any shape.

    Raises:
        UserError: if the parameter is sharded, and the stored tensor has another shape.
    """
    dtype = FROM_NAME[stored.dtype]
    if stored.shape == tuple(parameter.shape):
        return torch.zeros_like(parameter, dtype=dtype)
    if _is_sharded(parameter):
        raise UserError(
            f"the checkpoint's {name} has the shape {list(stored.shape)}, and the parameter {list(parameter.shape)}: such a "
            "state cannot be sharded. Resume with dist.strategy=ddp.",
            shared=True,
        )
    return torch.zeros(stored.shape, dtype=dtype, device=parameter.device)
