"""Names of tensors in somebody's file and in our model: the prefixes that wrappers add."""

import re
from collections.abc import Callable, Container, Iterable, Mapping

# Of DistributedDataParallel, torch.compile, and of modules that hold the network as `model`.
PREFIXES = ("module.", "_orig_mod.", "model.")


def without_prefixes(names: Iterable[str], own: Iterable[str]) -> tuple[dict[str, str], str]:
    """The names without what a wrapper put before all of them.

    Args:
        own: the model's names; a prefix that they all have too is kept.

    Returns:
        The names in the file by those without prefix, and the prefix that was taken away.
    """
    found = {name: name for name in names}
    taken, own = "", list(own)
    while prefix := next((p for p in PREFIXES if found and all(n.startswith(p) for n in found)), None):
        if all(name.startswith(prefix) for name in own):
            break
        found = {name.removeprefix(prefix): original for name, original in found.items()}
        taken += prefix
    return found, taken


# torchvision's networks that were published when their layers had other names: the MLPs of its Vision Transformers, and the
# convolutions of its detectors, which had no normalisation after them.
_OLD: tuple[tuple[re.Pattern[str], Callable[[re.Match[str]], str]], ...] = (
    (re.compile(r"\.mlp\.linear_([12])\."), lambda found: f".mlp.{3 * (int(found[1]) - 1)}."),
    (re.compile(r"\.(inner_blocks|layer_blocks)\.(\d+)\.(?=weight|bias)"), lambda found: f".{found[1]}.{found[2]}.0."),
    (re.compile(r"\.head\.conv\.(?=weight|bias)"), lambda found: ".head.conv.0.0."),
    (re.compile(r"\.mask_fcn(\d)\."), lambda found: f".{int(found[1]) - 1}.0."),
    (re.compile(r"_head\.conv\.([0246])\.(?=weight|bias)"), lambda found: f"_head.conv.{int(found[1]) // 2}.0."),
)


def under_new_names(names: Mapping[str, str], own: Container[str]) -> dict[str, str]:
    """The same, with the names that layers have had since.

    Args:
        own: the model's names; one that it has is left alone.
    """
    return {name if name in own else _new_name(name, own): given for name, given in names.items()}


def _new_name(name: str, own: Container[str]) -> str:
    """The name that a layer has now; the same where it has had none that the model has."""
    for pattern, renamed in _OLD:
        now = pattern.sub(renamed, name)
        if now in own:
            return now
    return name
