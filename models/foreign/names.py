"""Names of tensors in a file of pretrained weights and in our model: prefixes, and further tensors."""

import re
from collections.abc import Callable, Container, Iterable, Mapping, Sequence
from dataclasses import dataclass

from phalanx.models.foreign.source import BadWeights

ShapesByName = Mapping[str, tuple[int, ...]]

# BatchNorm's counter of batches, which files from before torch 0.4.1 lack; it counts for nothing with a fixed momentum.
COUNTER = "num_batches_tracked"
# Of DistributedDataParallel, torch.compile, and of modules that hold the network as `model`: taken away where too few names fit
# to tell, so that a sentence about them can be read.
PREFIXES = ("module.", "_orig_mod.", "model.")
# What stands within names where a part of a network was compiled or wrapped.
_WITHIN = re.compile(r"(?<=\.)(_orig_mod|_fsdp_wrapped_module|_checkpoint_wrapped_module)\.")


@dataclass(frozen=True)
class Under:
    """The names of a file under a prefix.

    Attributes:
        names: those in the file, by what follows the prefix.
        rest: of the file, that do not begin with it.
    """

    names: dict[str, str]
    prefix: str = ""
    rest: tuple[str, ...] = ()


def without_prefix(given: ShapesByName, own: ShapesByName, flat: bool, asked: str | None) -> Under:
    """The names without what a wrapper put before them: the prefix under which most of the network's names lie.

    Args:
        given, own: shapes by name, in the file and in the model.
        flat: whether tensors in the file may be without their shape.
        asked: the prefix that is meant; None to look for it.

    Raises:
        BadWeights: if as many names have another prefix, or none has the requested one.
    """
    if asked is not None:
        prefix = asked if asked in ("", ".") or asked.endswith(".") else f"{asked}."
        if not any(name.startswith(prefix) for name in given):
            raise BadWeights(f"model.prefix={asked}: no name in the file begins with {prefix}, as {next(iter(given))} does not")
        return _under(prefix, given)
    found = _fitting(given, own, flat)
    most = max(found.values(), default=(0, 0))
    if 2 * most[1] < sum(not name.endswith(COUNTER) for name in own):
        return _without_usual(given, own)
    prefixes = [prefix for prefix, count in found.items() if count == most]
    if len(prefixes) > 1:
        shown = [prefix or "(nothing)" for prefix in prefixes[:4]]
        raise BadWeights(
            f"the network lies in it {len(prefixes)} times, its names behind {', '.join(shown[:-1])} and {shown[-1]}. "
            f"Set model.prefix={prefixes[-1]} or the other one"
        )
    return _under(prefixes[0], given)


def _fitting(given: ShapesByName, own: ShapesByName, flat: bool) -> dict[str, tuple[int, int]]:
    """Of every prefix, how many of the names behind it the network has with such a shape, and with any."""
    found: dict[str, tuple[int, int]] = {}
    for name, shape in given.items():
        for start in (0, *(dot.end() for dot in re.finditer(r"\.", name))):
            known = _own_name(name[start:], own)
            if known in own and not known.endswith(COUNTER):
                fits = own[known] == shape or (flat and len(shape) == 1)
                count = found.get(name[:start], (0, 0))
                found[name[:start]] = (count[0] + fits, count[1] + 1)
    return found


def _under(prefix: str, given: Iterable[str]) -> Under:
    names = {name.removeprefix(prefix): name for name in given if name.startswith(prefix)}
    return Under(names, prefix, tuple(name for name in given if not name.startswith(prefix)))


def _without_usual(given: Iterable[str], own: Iterable[str]) -> Under:
    """Without the usual prefixes that all names have, and that the model's own have not."""
    found, taken, own = {name: name for name in given}, "", list(own)
    while prefix := next((p for p in PREFIXES if found and all(n.startswith(p) for n in found)), None):
        if all(name.startswith(prefix) for name in own):
            break
        found = {name.removeprefix(prefix): original for name, original in found.items()}
        taken += prefix
    return Under(found, taken)


def beside(names: Iterable[str], own: Sequence[str]) -> list[str]:
    """Of names that the network lacks, those of modules that it has nothing of: a criterion, a counter of an average."""
    modules = {name.partition(".")[0] for name in own}
    return [name for name in names if name.partition(".")[0] not in modules]


def _block_of_swin(found: re.Match[str]) -> str:
    stage, block, rest = int(found[1]), found[2], found[3]
    return f"features.{2 * stage + 1}.{block}." + rest.replace("mlp.fc1.", "mlp.0.").replace("mlp.fc2.", "mlp.3.")


# torchvision's networks that were published when their layers had other names: the MLPs of its Vision Transformers, and the
# convolutions of its detectors, which had no normalisation after them. Then Swin's as its authors published them, and the stem
# of OpenMMLab's ResNet-C.
_OLD: tuple[tuple[re.Pattern[str], Callable[[re.Match[str]], str]], ...] = (
    (re.compile(r"\.mlp\.linear_([12])\."), lambda found: f".mlp.{3 * (int(found[1]) - 1)}."),
    (re.compile(r"\.(inner_blocks|layer_blocks)\.(\d+)\.(?=weight|bias)"), lambda found: f".{found[1]}.{found[2]}.0."),
    (re.compile(r"\.head\.conv\.(?=weight|bias)"), lambda found: ".head.conv.0.0."),
    (re.compile(r"\.mask_fcn(\d)\."), lambda found: f".{int(found[1]) - 1}.0."),
    (re.compile(r"_head\.conv\.([0246])\.(?=weight|bias)"), lambda found: f"_head.conv.{int(found[1]) // 2}.0."),
    (re.compile(r"^patch_embed\.(proj|norm)\."), lambda found: f"features.0.{0 if found[1] == 'proj' else 2}."),
    (re.compile(r"^layers\.(\d)\.blocks\.(\d+)\.(.+)$"), _block_of_swin),
    (re.compile(r"^layers\.(\d)\.downsample\."), lambda found: f"features.{2 * int(found[1]) + 2}."),
    (re.compile(r"^stem\.([01346])\."), lambda found: f"conv1.{found[1]}."),
    (re.compile(r"^stem\.7\."), lambda found: "bn1."),
)


def under_new_names(names: Mapping[str, str], own: Container[str]) -> dict[str, str]:
    """The same, with the names that layers have had since.

    Args:
        own: the model's names; one that it has is left alone.
    """
    return {_own_name(name, own): given for name, given in names.items()}


def _own_name(name: str, own: Container[str]) -> str:
    """The name that the network has for it; the same where it has none."""
    if name in own:
        return name
    plain = _WITHIN.sub("", name)
    return plain if plain in own else _new_name(plain, own)


def _new_name(name: str, own: Container[str]) -> str:
    """The name that a layer has now; the same where it has had none that the model has."""
    for pattern, renamed in _OLD:
        now = pattern.sub(renamed, name)
        if now in own:
            return now
    return name
