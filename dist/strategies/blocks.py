"""The blocks of a model: the units that FSDP2 gathers and compiles."""

from torch import nn


def blocks(model: nn.Module) -> list[str]:
    """Names of submodules, none within another: the model's `block_names`, else its children with parameters."""
    named = getattr(model, "block_names", None)
    if named is None:
        return [name for name, child in model.named_children() if next(child.parameters(), None) is not None]
    return list(named)
