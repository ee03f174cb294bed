"""Learning rates that fall from the last layers to the first, for fine-tuning.

Clark et al., ELECTRA, ICLR 2020 (arXiv:2003.10555), and Bao et al., BEiT, ICLR 2022 (arXiv:2106.08254), for vision
transformers: the factor of block i of n is decay^(n + 1 - i), with the embedding as block 0 and the head as block n + 1.
"""

from collections.abc import Sequence

from torch import nn

from phalanx.configs.errors import UserError


def depths(model: nn.Module, names: Sequence[str]) -> tuple[dict[str, int], int]:
    """The depth of each parameter, from 0 for what comes before the first block, and that of the head.

    Blocks are the model's `block_names`, of a model with a backbone those of the backbone. What lies between two blocks, such
    as the merging of patches, has the depth of the one before it; what is not of the backbone has the head's.

    Args:
        names: of the parameters, in the order of the model.

    Raises:
        UserError: if the model names no blocks.
    """
    prefix = getattr(model, "backbone_name", "backbone" if hasattr(model, "backbone") else "")
    prefix = f"{prefix}." if prefix else ""
    blocks = [name for name in getattr(model, "block_names", ()) if name.startswith(prefix)]
    if not blocks:
        raise UserError(
            "optim.layer_decay needs to know the model's blocks, and it has none. Give the class the attribute block_names, or "
            "set optim.lr_factors.",
            shared=True,
        )
    head, deepest, found = len(blocks) + 1, 0, dict[str, int]()
    of_block = {name: number for number, name in enumerate(blocks, 1)}
    for name in names:
        own = next((number for block, number in of_block.items() if name.startswith(f"{block}.")), None)
        if own is not None:
            deepest = max(deepest, own)
            found[name] = own
        else:
            found[name] = deepest if name.startswith(prefix) and deepest < len(blocks) else head
    return found, head


def factors(decay: float, model: nn.Module, names: Sequence[str]) -> dict[str, float]:
    """The factor of the learning rate of each parameter."""
    found, head = depths(model, names)
    return {name: decay ** (head - depth) for name, depth in found.items()}
