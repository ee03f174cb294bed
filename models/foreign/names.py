"""Names of tensors in somebody's file and in our model: the prefixes that wrappers add."""

from collections.abc import Iterable

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
