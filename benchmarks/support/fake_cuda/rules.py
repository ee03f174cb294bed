"""What CUDA refuses: operands on two devices, a generator of another device, and, in deterministic mode, some operations."""

import functools
import warnings
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from benchmarks.support.fake_cuda.ledger import LEDGER

# Operations that take no number of the CPU beside tensors of the device, dimensions or not.
_STRICT = {
    "cat",
    "stack",
    "mm",
    "bmm",
    "addmm",
    "gather",
    "scatter_",
    "index_select",
    "embedding",
    "convolution",
    "nms",
    "roi_align",
}
_INDEX = {"index", "_unsafe_index"}
_INDEX_PUT = {"index_put_", "index_put", "_index_put_impl_", "_unsafe_index_put"}

# What deterministic mode refuses on CUDA, of the list in `torch.use_deterministic_algorithms`.
_FORBIDDEN = {
    "avg_pool3d_backward",
    "_adaptive_avg_pool2d_backward",
    "_adaptive_avg_pool3d_backward",
    "adaptive_max_pool2d_backward",
    "fractional_max_pool2d_backward",
    "fractional_max_pool3d_backward",
    "max_unpool2d",
    "max_unpool3d",
    "upsample_linear1d_backward",
    "upsample_bilinear2d_backward",
    "_upsample_bilinear2d_aa_backward",
    "upsample_bicubic2d_backward",
    "_upsample_bicubic2d_aa_backward",
    "upsample_trilinear3d_backward",
    "reflection_pad1d_backward",
    "reflection_pad2d_backward",
    "reflection_pad3d_backward",
    "replication_pad1d_backward",
    "replication_pad2d_backward",
    "replication_pad3d_backward",
    "_ctc_loss_backward",
    "put_",
    "histc",
    "grid_sampler_2d_backward",
    "grid_sampler_3d_backward",
    "_roi_align_backward",
}


class OtherDevice(RuntimeError):
    """As torch says it."""


def _mixed(name: str, cpu: Sequence[Tensor]) -> OtherDevice:
    shapes = [tuple(tensor.shape) for tensor in cpu]
    return OtherDevice(
        f"Expected all tensors to be on the same device, but found at least two devices, cuda:0 and cpu! ({name}; those on "
        f"the CPU have shapes {shapes})"
    )


def refuse_mixed(name: str, args: Sequence[Any], cpu: Sequence[Tensor]) -> bool:
    """Whether an operation with operands on both devices copies an index to the device, for which it waits.

    Raises:
        OtherDevice: if CUDA would refuse it.
    """
    if name in _INDEX or name in _INDEX_PUT:
        if not args[0].is_cuda:
            raise OtherDevice("indices should be either on cpu or on the same device as the indexed tensor (cpu)")
        if name in _INDEX_PUT and not args[2].is_cuda:
            if args[2].dim():
                raise _mixed(name, [args[2]])
            LEDGER.count(LEDGER.mixed, name)
        return any(isinstance(index, Tensor) and not index.is_cuda for index in args[1])
    if name in _STRICT or any(tensor.dim() for tensor in cpu):
        raise _mixed(name, cpu)
    if name.endswith("_") and not args[0].is_cuda:
        raise OtherDevice(f"{name}: a tensor of the CPU cannot be changed in place with one on cuda:0")
    LEDGER.count(LEDGER.mixed, name)
    return False


def refuse_generator(generator: "torch.Generator | None", on_cuda: bool) -> None:
    """
    Raises:
        RuntimeError: if an operation draws from the generator of another device.
    """
    wanted = "cuda" if on_cuda else "cpu"
    if generator is not None and generator.device.type != wanted:
        raise RuntimeError(f"Expected a '{wanted}' device type for generator but found '{generator.device.type}'")


def refuse_nondeterministic(name: str, args: Sequence[Any], kwargs: dict[str, Any]) -> None:
    """
    Raises:
        RuntimeError: if deterministic mode forbids an operation on CUDA.
    """
    if not torch.are_deterministic_algorithms_enabled() or not _is_forbidden(name, args, kwargs):
        return
    said = f"{name} does not have a deterministic implementation, but you set 'torch.use_deterministic_algorithms(True)'."
    if torch.is_deterministic_algorithms_warn_only_enabled():
        warnings.warn(said, UserWarning, stacklevel=2)
    elif torch._C._current_graph_task_id() == -1:
        raise RuntimeError(said)
    else:
        _of_backward.append(RuntimeError(said))


# An error of Python in the middle of a backward would end the process: torch's guards for its spare backend are in Python too.
_of_backward: list[RuntimeError] = []


def raising(backward: Callable[..., Any]) -> Callable[..., Any]:
    """The backward, which raises at its end what was refused on the way."""

    @functools.wraps(backward)
    def wrapped(*args: Any, **kwargs: Any) -> Any:
        _of_backward.clear()
        result = backward(*args, **kwargs)
        if _of_backward:
            raise _of_backward[0]
        return result

    return wrapped


def _is_forbidden(name: str, args: Sequence[Any], kwargs: dict[str, Any]) -> bool:
    if name == "nll_loss2d_forward":
        return args[3] != 0  # a reduction
    if name == "median" or name == "nanmedian":
        return len(args) > 1 or "dim" in kwargs
    if name == "bincount":
        return len(args) > 1 or kwargs.get("weights") is not None
    if name.startswith("scatter_reduce"):
        return args[4] == "prod"
    return name in _FORBIDDEN
