"""Autocast with CUDA's lists: which operations run in half precision, which in float32, which refuse.

The lists are those of torch's documentation, "CUDA Ops that can autocast to float16" and those that follow it.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves, tree_map

_HALF = """conv1d conv2d conv3d convolution conv_transpose2d.input linear matmul mm bmm addmm addbmm baddbmm addmv chain_matmul
prelu scaled_dot_product_attention"""
_FLOAT32 = """acos asin cosh erfinv exp expm1 log log10 log2 log1p reciprocal rsqrt sinh tan pow.Tensor_Scalar pow.Tensor_Tensor
pow.Scalar softplus layer_norm native_layer_norm group_norm frobenius_norm.dim nuclear_norm cosine_similarity poisson_nll_loss
nll_loss nll_loss2d kl_div l1_loss smooth_l1_loss huber_loss mse_loss binary_cross_entropy_with_logits dist cdist logsumexp
upsample_nearest2d upsample_nearest2d.vec upsample_bilinear2d upsample_bilinear2d.vec _upsample_bilinear2d_aa
_upsample_bilinear2d_aa.vec upsample_bicubic2d upsample_bicubic2d.vec"""
# Their result is float32, unless a dtype is given.
_FLOAT32_RESULT = "prod softmax.int log_softmax.int cumprod cumsum linalg_vector_norm sum sum.dim_IntList"
_WIDEST = "addcdiv addcmul atan2 bilinear cross dot grid_sampler index_put tensordot scatter_add"
_BANNED = "binary_cross_entropy"

_KEY = "AutocastPrivateUse1"
_Kernel = Callable[..., Any]
_libraries: list[torch.library.Library] = []  # what they register ends with them


def _below() -> Any:
    """Without autocast: the operation itself."""
    key = torch._C.DispatchKey.AutocastPrivateUse1
    return torch._C._ExcludeDispatchKeyGuard(torch._C.DispatchKeySet(key))


def _is_cast(value: Any) -> bool:
    return isinstance(value, Tensor) and value.is_cuda and value.is_floating_point() and value.dtype != torch.float64


def _to(dtype: torch.dtype) -> Callable[[Any], Any]:
    return lambda value: value.to(dtype) if _is_cast(value) and value.dtype != dtype else value


def _in_half(op: Any) -> _Kernel:
    def kernel(*args: Any, **kwargs: Any) -> Any:
        cast = _to(torch.get_autocast_dtype("pretended"))
        with _below():
            return op(*tree_map(cast, args), **tree_map(cast, kwargs))

    return kernel


def _in_float32(op: Any) -> _Kernel:
    def kernel(*args: Any, **kwargs: Any) -> Any:
        cast = _to(torch.float32)
        with _below():
            return op(*tree_map(cast, args), **tree_map(cast, kwargs))

    return kernel


def _to_float32(op: Any) -> _Kernel:
    def kernel(first: Any, *args: Any, **kwargs: Any) -> Any:
        with _below():
            if _is_cast(first) and kwargs.get("dtype") is None:
                first = first.float()
            return op(first, *args, **kwargs)

    return kernel


def _in_the_widest(op: Any) -> _Kernel:
    def kernel(*args: Any, **kwargs: Any) -> Any:
        with _below():
            if any(_is_cast(value) and value.dtype == torch.float32 for value in tree_leaves((args, kwargs))):
                args, kwargs = tree_map(_to(torch.float32), (args, kwargs))
            return op(*args, **kwargs)

    return kernel


def _refused(*_: Any, **__: Any) -> Any:
    raise RuntimeError(f"torch.nn.functional.{_BANNED} and torch.nn.BCELoss are unsafe to autocast.")


def _library(namespace: str) -> torch.library.Library:
    _libraries.append(torch.library.Library(namespace, "IMPL"))
    return _libraries[-1]


def register() -> None:
    """Registers the lists for the pretended device, and has `torch.autocast("cuda")` use them."""
    _library("_").fallback(torch.library.fallthrough_kernel, _KEY)
    aten = _library("aten")
    for names, made in ((_HALF, _in_half), (_FLOAT32, _in_float32), (_FLOAT32_RESULT, _to_float32), (_WIDEST, _in_the_widest)):
        for name in names.split():
            packet, _, overload = name.partition(".")
            aten.impl(name, made(getattr(getattr(torch.ops.aten, packet), overload or "default")), _KEY)
    aten.impl(_BANNED, _refused, _KEY)
    _register_torchvision()
    _rename()


def _register_torchvision() -> None:
    """Its own kernels for autocast on CUDA compute in float32."""
    import torchvision  # noqa: F401

    def roi_align(features: Tensor, boxes: Tensor, *args: Any) -> Tensor:
        with _below():
            return torch.ops.torchvision.roi_align.default(features.float(), boxes.float(), *args).to(features.dtype)

    def nms(boxes: Tensor, scores: Tensor, threshold: float) -> Tensor:
        with _below():
            return torch.ops.torchvision.nms.default(boxes.float(), scores.float(), threshold)

    library = _library("torchvision")
    library.impl("roi_align", roi_align, _KEY)
    library.impl("nms", nms, _KEY)


def _rename() -> None:
    real = torch.autocast

    class Autocast(real):  # type: ignore[misc, valid-type]
        """Without its cache of cast weights, which torch keeps for leaf tensors of its own alone."""

        def __init__(self, device_type: str, dtype: Any = None, enabled: bool = True, cache_enabled: bool | None = None):
            super().__init__("pretended" if device_type == "cuda" else device_type, dtype, enabled, False)

    torch.autocast = torch.amp.autocast = torch.amp.autocast_mode.autocast = Autocast  # type: ignore[misc]
    torch.pretended.get_amp_supported_dtype = lambda: [torch.float16, torch.bfloat16]  # type: ignore[attr-defined]
