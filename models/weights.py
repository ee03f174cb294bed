"""Loading pretrained weights. Nothing is unpickled, and every tensor must fit."""

import difflib
import fnmatch
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from phalanx.models import fitting
from phalanx.models.foreign import deepspeed_folder, safetensors_files, torch_file
from phalanx.models.foreign.names import COUNTER, Under, beside, under_new_names, without_prefix
from phalanx.models.foreign.source import BadWeights, Source, unreadable

__all__ = ["BadWeights", "Loaded", "Source", "load", "open_source"]

# Layers that a sentence proposes to start fresh; where more differ, it is another network.
_FEW = 4


@dataclass(frozen=True)
class Loaded:
    """What was read.

    Attributes:
        tensors: their number.
        under: the key under which they lay in the file, if any.
        prefix: what was taken from the front of every name.
        zeroed: BatchNorm's counters that the file lacks.
        fresh: tensors of the model that start fresh, as asked.
        fitted: descriptions of how tensors of another shape were fitted.
        rest: names of tensors in the file that are not the network's.
        averages: the key of averaged weights in the file, which were not taken.
    """

    path: Path
    tensors: int
    under: str
    prefix: str
    zeroed: int
    fresh: int = 0
    fitted: tuple[str, ...] = ()
    rest: tuple[str, ...] = ()
    averages: str = ""

    def __str__(self) -> str:
        parts = [f"{self.tensors} tensors of the model are from {self.path}"]
        if self.under:
            parts.append(f"under {self.under}")
        if self.averages:
            parts.append(f"not those averaged under {self.averages} (model.prefix={self.averages} takes them)")
        if self.prefix:
            parts.append(f"their names without the prefix {self.prefix}")
        if self.zeroed:
            parts.append(f"{self.zeroed} counters {COUNTER} that it lacks are zero")
        if self.fresh:
            parts.append(f"{self.fresh} start fresh")
        parts += self.fitted
        if self.rest:
            more = ", ..." if len(self.rest) > _FEW else ""
            parts.append(f"{len(self.rest)} beside them are left: {', '.join(self.rest[:_FEW])}{more}")
        return ", ".join(parts)


def load(
    model: nn.Module,
    path: Path,
    source: Source | None = None,
    fresh: Sequence[str] = (),
    unused: Sequence[str] = (),
    prefix: str | None = None,
) -> Loaded:
    """Fills a model; besides it only one tensor is in memory at a time, if the format allows it.

    Args:
        model: on the CPU.
        path: what `open_source` takes.
        source: the opened weights, if another reader opened them.
        fresh: shell patterns of names of tensors that stay as they are; the file may lack them, or have them in another shape.
        unused: patterns of names of tensors in the file that the model needs not.
        prefix: what stands before the network's names in the file; None to find it.

    Raises:
        BadWeights: naming the file and the first tensor that does not fit; before anything is changed, but for content that
            turns out to be damaged.
    """
    state = model.state_dict(keep_vars=True)
    kept = _matching(state, fresh)
    own = {name: tensor for name, tensor in state.items() if name not in kept}
    with closing(open_source(path, prefix) if source is None else source) as opened:
        if not opened.shapes:
            raise BadWeights(f"{path}: there is no tensor in it. Check model.weights.")
        found = _without_prefix(path, opened, state, prefix)
        ignored = (*fresh, *unused)
        names = {n: given for n, given in under_new_names(found.names, state).items() if not _matches(n, ignored)}
        # A model with frozen BatchNorm counts nothing.
        names = {name: given for name, given in names.items() if name in own or name.rpartition(".")[2] != COUNTER}
        zeroed = [name for name in own if name not in names and name.rpartition(".")[2] == COUNTER]
        complete = not _missing(own, set(names), set(zeroed))
        others = beside([name for name in names if name not in own], list(state)) if complete else []
        rest = (*found.rest, *(names.pop(name) for name in others))
        _check_names(path, own, set(names), set(zeroed))
        shapes = {name: opened.shapes[given] for name, given in names.items()}
        fits = {
            name: fit
            for name, shape in shapes.items()
            if (fit := fitting.weight_fit(model, name, shape, tuple(own[name].shape)))
        }
        _check_shapes(path, own, {name: shape for name, shape in shapes.items() if name not in fits}, opened.flat)
        with torch.no_grad():
            for name in zeroed:
                own[name].zero_()
            for name, given in names.items():
                change = fits[name].change if name in fits else None
                own[name].copy_(_read(path, opened, given, own[name], change))
        done = _described({name: fit.description for name, fit in fits.items()})
        return Loaded(path, len(names), opened.under, found.prefix, len(zeroed), len(kept), done, rest, opened.averages)


def _described(fits: Mapping[str, str]) -> tuple[str, ...]:
    """What was made to fit, tensors of which the same is said together."""
    found: dict[str, list[str]] = {}
    for name, description in fits.items():
        found.setdefault(description, []).append(name)
    return tuple(
        f"{names[0]} {description}" if len(names) == 1 else f"{names[0]} and {len(names) - 1} more: each {description}"
        for description, names in found.items()
    )


def _without_prefix(path: Path, opened: Source, own: Mapping[str, Tensor], prefix: str | None) -> Under:
    shapes = {name: tuple(tensor.shape) for name, tensor in own.items()}
    if prefix is not None and opened.under and f"{prefix}.".startswith(f"{opened.under}."):
        prefix = prefix.removeprefix(opened.under).removeprefix(".") or None
    try:
        return without_prefix(opened.shapes, shapes, opened.flat, prefix)
    except BadWeights as error:
        raise BadWeights(f"{path}: {error}.") from None


def _matches(name: str, patterns: Sequence[str]) -> bool:
    return any(fnmatch.fnmatchcase(name, pattern) for pattern in patterns)


def _matching(own: Iterable[str], patterns: Sequence[str]) -> set[str]:
    """Names of the model that patterns mean; each must mean one."""
    found = set()
    for pattern in patterns:
        matching = fnmatch.filter(own, pattern)
        if not matching:
            near = difflib.get_close_matches(pattern, own, n=1, cutoff=0.0)
            raise BadWeights(
                f"model.fresh={pattern}: no tensor of the model has such a name. There is, for example, {near[0]}."
            )
        found |= set(matching)
    return found


def open_source(path: Path, prefix: str | None = None) -> Source:
    """Opens weights by what lies at a path.

    Args:
        path: a `.safetensors`; a folder with `model.safetensors`, or with an index of several; a `.pth`, `.pt` or `.bin` with a
            state dict, alone or under a usual key; a folder of DeepSpeed.
        prefix: selects the state dict whose key it begins with.

    Raises:
        BadWeights: if there is nothing, or nothing that can be read without unpickling.
    """
    _refuse_our_own(path)
    if not path.exists():
        where = "" if path.is_absolute() else f" (it is relative to {Path.cwd()})"
        raise BadWeights(f"{path}: there is no such file or folder{where}. Check model.weights.")
    if not path.is_dir() and not path.is_file():
        raise BadWeights(f"{path}: this is a pipe or a device, which can be read but once. Name a file or a folder.")
    try:
        return _open_folder(path) if path.is_dir() else _open_file(path, prefix)
    except BadWeights:
        raise
    except Exception as error:
        raise unreadable(path, error) from None


def _open_file(path: Path, prefix: str | None = None) -> Source:
    if path.name.endswith(".safetensors.index.json"):
        return safetensors_files.open_index(path)
    if path.suffix == ".safetensors":
        return safetensors_files.SafetensorsFiles([path])
    return torch_file.open_file(path, prefix)


def _open_folder(folder: Path) -> Source:
    for name in (safetensors_files.INDEX, safetensors_files.SINGLE, "pytorch_model.bin"):
        if (folder / name).is_file():
            return _open_file(folder / name)
    if deepspeed_folder.is_one(folder):
        return deepspeed_folder.open_folder(folder)
    raise BadWeights(
        f"{folder}: no weights of a known form lie in this folder. Name a file, or a folder with {safetensors_files.SINGLE} or "
        f"{safetensors_files.INDEX}, or one of torch.distributed.checkpoint or DeepSpeed."
    )


def _refuse_our_own(path: Path) -> None:
    for folder in (path, *path.parents[:2]):
        if (folder / "manifest.json").is_file():
            step = re.fullmatch(r"step-(\d+)", folder.name)
            run, which = folder.parent.parent, f" --step {int(step[1])}" if step else ""
            break
    else:
        if not ((path / "run.json").is_file() or (path.parent / "run.json").is_file()) or path.is_file():
            return
        run, which = path if (path / "run.json").is_file() else path.parent, ""
    raise BadWeights(
        f"{path}: this is a checkpoint of Phalanx, in shards. Make one file of it first, by `phalanx checkpoint consolidate "
        f"{run}{which} -o FILE.safetensors`, and set model.weights=FILE.safetensors."
    )


def _check_names(path: Path, own: dict[str, Tensor], given: set[str], zeroed: set[str]) -> None:
    missing = _missing(own, given, zeroed)
    unknown = sorted(given - own.keys())
    faults = []
    if missing:
        faults.append(f"the file lacks the tensor {missing[0]}{_more(missing)}, which the model has")
    if unknown:
        faults.append(f"the file has the tensor {unknown[0]}{_more(unknown)}, which the model lacks")
    if faults:
        # A backbone alone, or a network without its last layer.
        fresh = "" if unknown else _start_fresh(missing).removesuffix("or ").removesuffix(", ")
        remedy = f", {len(own)} tensors" + (f", or {fresh}" if fresh else "")
        raise BadWeights(f"{path}: {'; '.join(faults)}. Give weights of this network{remedy}.")


def _missing(own: dict[str, Tensor], given: set[str], zeroed: set[str]) -> list[str]:
    # Tied weights are stored once by safetensors; any of their names will do.
    there = {id(own[name]) for name in given if name in own}
    return [n for n, tensor in own.items() if n not in given and n not in zeroed and id(tensor) not in there]


def _more(names: list[str]) -> str:
    return f" (and {len(names) - 1} more)" if len(names) > 1 else ""


def _check_shapes(path: Path, own: dict[str, Tensor], given: dict[str, tuple[int, ...]], flat: bool) -> None:
    other = [n for n, s in given.items() if s != own[n].shape and not (flat and s == (own[n].numel(),))]
    if other:
        shown = [f"{n} is {list(given[n])} there and {list(own[n].shape)} in the model" for n in other[:4]]
        if len(other) > len(shown):
            shown.append(f"{len(other) - len(shown)} more")
        have = "has" if len(other) == 1 else "have"
        raise BadWeights(
            f"{path}: {len(other)} of {len(own)} tensors {have} another shape: {', '.join(shown)}. "
            f"Give weights of this very network, {_start_fresh(other)}set the keys model.* as they were there."
        )


def _start_fresh(names: Sequence[str]) -> str:
    """The remedy where a few layers differ, as a head for other classes does."""
    layers = list(dict.fromkeys(f"{name.rpartition('.')[0]}.*" for name in names))
    return f"start these layers fresh with model.fresh=[{','.join(layers)}], or " if len(layers) <= _FEW else "or "


def _read(path: Path, source: Source, name: str, own: Tensor, change: Callable[[Tensor], Tensor] | None) -> Tensor:
    try:
        tensor = source.read(name)
    except Exception as error:
        raise unreadable(path, error) from None
    if tensor.is_floating_point() != own.is_floating_point() and not name.endswith(COUNTER):
        raise BadWeights(f"{path}: {name} is {tensor.dtype} there and {own.dtype} in the model. Give weights of this network.")
    if tensor.is_floating_point() and bool(tensor.isnan().any()):
        raise BadWeights(f"{path}: {name} holds NaN: that training had failed. Give weights of an earlier step of it.")
    return (change(tensor) if change else tensor).reshape(own.shape)
