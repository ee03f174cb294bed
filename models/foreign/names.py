"""Names of tensors in somebody's file and in our model: the prefixes that wrappers add."""

import re
from collections.abc import Container, Iterable, Mapping

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


# torchvision's Vision Transformers were published when their MLPs had other names.
_OLD_MLP = re.compile(r"\.mlp\.linear_([12])\.")


def under_new_names(names: Mapping[str, str], own: Container[str]) -> dict[str, str]:
    """The same, with the names that layers have had since.

    Args:
        own: the model's names; one that it has is left alone.
    """
    renamed = {name: _OLD_MLP.sub(lambda found: f".mlp.{3 * (int(found[1]) - 1)}.", name) for name in names}
    return {renamed[name] if name not in own and renamed[name] in own else name: given for name, given in names.items()}
