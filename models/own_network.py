"""A user's own network or backbone: a class of modules, or a function that makes one, called with what it takes of a recipe.

It is registered under its name before it is built, as nothing here loads code by name. It needs nothing of ours.
What it may have, as attributes of the module:
    block_names: names of submodules, none within another, that FSDP2 gathers one at a time. By default the items of its
        lists of layers (`nn.Sequential`, `nn.ModuleList`), as far as the first forward runs them.
    backbone_name: the name of the submodule that `model.backbone_weights` fills.
    auxiliary_weight: the weight of the losses of its auxiliary heads.
    input_weight: the name of the first layer's weight, which pretrained weights of another number of channels are fitted to.

A backbone, for networks that take one, returns a list of maps of features, fine to coarse, and has `channels` and `strides`, as
`phalanx.models.backbones.pyramid.Pyramid` has them.
"""

import difflib
import inspect
from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any

from phalanx.models.options import BadOption, Options
from phalanx.models.timm_networks import block_names

if TYPE_CHECKING:
    from torch import nn

    from phalanx.models.backbones.pyramid import Pyramid

_REGISTERED: dict[str, Any] = {}
_GIVEN = ("num_classes", "in_channels", "image_size")  # where it takes them; they are known from the data
_POSITIONAL_ONLY, _ARGS, _KWARGS = (
    inspect.Parameter.POSITIONAL_ONLY,
    inspect.Parameter.VAR_POSITIONAL,
    inspect.Parameter.VAR_KEYWORD,
)


def is_one(name: str) -> bool:
    """Whether a name is that of a user's own network: `./file.py:Class`, `package.module:Class`."""
    return ":" in name and not name.startswith(("timm:", "torchvision:"))  # which are meant for timm/NAME and NAME


def register(name: str, made: Any) -> None:
    """Makes a class or function known under the name that recipes have for it."""
    _REGISTERED[name] = made


def build(name: str, options: Options) -> "nn.Module":
    """Calls the class or function that is registered. Its own exceptions pass unchanged.

    Args:
        options: as `phalanx.models.options.Options` has them; `options.options` are its own arguments.

    Raises:
        BadOption: if it lacks an argument, does not take one, or makes no module.
    """
    return _module(name, options, "model.name")


def _module(name: str, options: Options, place: str) -> "nn.Module":
    """
    Args:
        place: the key of the recipe that has the name.
    """
    from torch import nn
    from torch.nn.parameter import UninitializedParameter

    made = _REGISTERED[name]
    if not callable(made):
        raise BadOption(f"{place}={name}: this is {_a(made)}, not a class. Name a class of modules (torch.nn.Module).")
    model = made(**_arguments(made, name, options, place))
    if not isinstance(model, nn.Module):
        remedy = "Name a class of modules, or a function that returns one."
        raise BadOption(f"{place}={name}: it made {_a(model)}, not a torch.nn.Module. {remedy}")
    if unsized := [key for key, parameter in model.named_parameters() if isinstance(parameter, UninitializedParameter)]:
        raise BadOption(
            f"{place}={name}: the size of {unsized[0]} is not known before a first forward (a lazy layer). "
            "Give the layer its size."
        )
    if not hasattr(model, "block_names"):
        model.block_names = _blocks(model)  # type: ignore[assignment]
    return model


def pyramid(name: str, options: Options, channels: tuple[int, ...]) -> "Pyramid":
    """A backbone.

    Args:
        channels: unused, since the module has its own.

    Raises:
        BadOption: as `build`; or if the module does not state its maps.
    """
    module: Any = _module(name, options, "model.backbone")
    widths, steps = getattr(module, "channels", None), getattr(module, "strides", None)
    if not isinstance(widths, tuple | list) or not isinstance(steps, tuple | list) or not 0 < len(widths) == len(steps):
        raise BadOption(
            f"model.backbone={name}: a backbone returns a list of maps, and has the attributes channels and strides with a "
            "number for each map, such as channels = (64, 128) and strides = (4, 8). Add them."
        )
    found: Pyramid = module
    return found


def _arguments(made: Callable[..., Any], name: str, options: Options, place: str) -> dict[str, Any]:
    """The arguments of the call."""
    taken = _signature(made, f"{place}={name}")
    takes_any = any(parameter.kind is _KWARGS for parameter in taken.values())
    named = [key for key, parameter in taken.items() if parameter.kind not in (_POSITIONAL_ONLY, _ARGS, _KWARGS)]
    for key, value in options.asked.items():
        if key != "options" and key not in named:
            raise BadOption(f"model.{key}={value}: {name} has no argument {key}. Remove the key, or add the argument.")
    for key in options.options:
        if key not in named and not takes_any:
            near = difflib.get_close_matches(key, named, n=1, cutoff=0.6)
            hint = f"Did you mean {near[0]}?" if near else f"It takes {_listed(named)}."
            raise BadOption(f"model.options.{key}: {name} has no such argument. {hint}")
    known = {key: getattr(options, key) for key in _GIVEN if getattr(options, key) is not None}
    known |= {key: value for key, value in options.asked.items() if key != "options"}
    given = {key: value for key, value in known.items() if key in named} | dict(options.options)
    needed = [key for key, p in taken.items() if p.default is p.empty and p.kind not in (_ARGS, _KWARGS)]
    if missing := [key for key in needed if key not in given]:
        remedy = f"Set model.options.{missing[0]}." if place == "model.name" else "Give it a default."
        raise BadOption(f"{place}={name}: it needs the argument {missing[0]}. {remedy}")
    return given


def _signature(made: Callable[..., Any], given: str) -> Mapping[str, inspect.Parameter]:
    try:
        return inspect.signature(made).parameters
    except (TypeError, ValueError):
        raise BadOption(f"{given}: its arguments are unknown. Name a class written in Python.") from None


def _blocks(model: "nn.Module") -> tuple[str, ...]:
    """The items of its lists of layers, but for those that share a parameter with the rest: none of them is in two places."""
    holders: dict[int, set[str]] = {}
    names = block_names(model)
    for place, module in model.named_modules(remove_duplicate=False):
        for parameter in module.parameters(recurse=False):
            holders.setdefault(id(parameter), set()).add(next((n for n in names if f"{place}.".startswith(f"{n}.")), ""))
    shared = set().union(*(places for places in holders.values() if len(places) > 1))
    return tuple(name for name in names if name not in shared)


def _listed(names: Iterable[str]) -> str:
    return ", ".join(names) or "no arguments"


def _a(value: Any) -> str:
    """`a Tensor`, `an int`, `the class Net`."""
    if isinstance(value, type):
        return f"the class {value.__name__}"
    name = type(value).__name__
    return f"{'an' if name[0] in 'aeiouAEIOU' else 'a'} {name}"
