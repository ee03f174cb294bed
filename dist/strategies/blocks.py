"""The blocks of a model: what FSDP2 gathers at a time, and what is compiled together under it."""

from torch import nn


def blocks(model: nn.Module) -> list[str]:
    """Names of submodules, none within another: the model's own `block_names`, else its children that have parameters."""
    named = getattr(model, "block_names", None)
    if named is None:
        return [name for name, child in model.named_children() if next(child.parameters(), None) is not None]
    return list(named)
