"""Weights in a folder of torch.distributed.checkpoint (DCP), as torchtitan, accelerate and Lightning write them."""

from pathlib import Path
from typing import TYPE_CHECKING

from phalanx.configs.errors import UserError

if TYPE_CHECKING:
    from phalanx.dist.checkpoint.dcp.tensors import DistributedFolder


def is_one(path: Path) -> bool:
    """Whether DCP wrote this folder: it has DCP's metadata, or one safetensors file per rank."""
    return path.is_dir() and ((path / ".metadata").is_file() or any(path.glob("shard-*-model-*.safetensors")))


def open_folder(path: Path) -> "DistributedFolder":
    """The model's tensors in a folder, put together from all ranks' shards.

    Raises:
        UserError: if its metadata needs more than DCP's own classes, or files are missing.
    """
    from phalanx.dist.checkpoint.dcp.tensors import DistributedFolder

    try:
        return DistributedFolder(path)
    except Exception as error:
        reason = (str(error) or type(error).__name__).splitlines()[0]
        raise UserError(
            f"{path}: this folder of torch.distributed.checkpoint cannot be read without unpickling ({reason}). If you trust "
            f"it, run `python -m torch.distributed.checkpoint.format_utils dcp_to_torch {path} FILE.pth`, which unpickles it, "
            "and set model.weights=FILE.pth."
        ) from None
