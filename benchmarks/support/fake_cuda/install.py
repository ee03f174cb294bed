"""Changes torch so that there is a CUDA device. For a process of its own: nothing changes it back."""

from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor

from benchmarks.support.fake_cuda import autocast, rules, streams
from benchmarks.support.fake_cuda.dispatch import PretendedMode
from benchmarks.support.fake_cuda.ledger import LEDGER
from benchmarks.support.fake_cuda.memory import Runtime, is_pinned, pin
from benchmarks.support.fake_cuda.tensor import BACKEND

_installed: list[PretendedMode] = []
_GIB = 2**30
_PROPERTIES = SimpleNamespace(
    name="a pretended device",
    uuid="00000000-0000-0000-0000-000000000000",
    major=9,
    minor=0,
    total_memory=80 * _GIB,
    multi_processor_count=132,
)


def install() -> None:
    """From now on `cuda:0` is there, for the thread that calls, which should be the one that trains."""
    if _installed:
        return
    torch.set_num_threads(1)
    torch.utils.backend_registration._setup_privateuseone_for_python_backend(BACKEND)
    torch._C._ensureCUDADeviceGuardSet()
    torch._C._set_only_lift_cpu_tensors(True)
    _replace(torch.cuda, _device() | _streams() | _generators() | _memory())
    torch.cuda.amp.common.amp_definitely_not_available = lambda: False
    torch.Tensor.pin_memory = _pin_memory  # type: ignore[method-assign, assignment]
    torch.Tensor.is_pinned = lambda self, *_: is_pinned(self)  # type: ignore[method-assign, assignment]
    autocast.register()
    # A backward in the thread that asks for it, whose waits are then counted.
    torch.autograd.set_multithreading_enabled(False)
    torch.autograd.backward = rules.raising(torch.autograd.backward)
    torch.autograd.grad = rules.raising(torch.autograd.grad)
    # A module's parameter cannot take the data of another kind of tensor.
    torch.__future__.set_overwrite_module_params_on_conversion(True)
    torch.backends.cudnn.enabled = False
    torch.backends.cuda.enable_flash_sdp(False)
    torch.backends.cuda.enable_mem_efficient_sdp(False)
    torch.backends.cuda.enable_cudnn_sdp(False)
    torch.backends.cuda.enable_math_sdp(True)
    mode = PretendedMode()
    mode.__enter__()
    _installed.append(mode)


def _replace(module: Any, names: dict[str, Any]) -> None:
    for name, value in names.items():
        setattr(module, name, value)


def _device() -> dict[str, Any]:
    return {
        "is_available": lambda: True,
        "is_initialized": lambda: True,
        "_lazy_init": lambda: None,
        "init": lambda: None,
        "device_count": lambda: 1,
        "set_device": lambda device: None,
        "current_device": lambda: 0,
        "get_device_name": lambda device=None: _PROPERTIES.name,
        "get_device_capability": lambda device=None: (_PROPERTIES.major, _PROPERTIES.minor),
        "get_device_properties": lambda device=None: _PROPERTIES,
        "is_bf16_supported": lambda *_, **__: True,
        "is_current_stream_capturing": lambda: False,
        "synchronize": lambda device=None: streams.wait_for_all(),
    }


def _streams() -> dict[str, Any]:
    return {
        "Event": streams.Event,
        "Stream": streams.Stream,
        "StreamContext": streams.on,
        "stream": streams.on,
        "current_stream": lambda device=None: streams.STREAMS.current,
        "default_stream": lambda device=None: streams.MAIN,
        "set_stream": streams.set_current,
    }


def _generators() -> dict[str, Any]:
    """The device draws from the CPU's own generator."""
    return {
        "manual_seed": lambda seed: None,
        "manual_seed_all": lambda seed: None,
        "get_rng_state": lambda device=None: torch.default_generator.get_state(),
        "set_rng_state": lambda state, device=None: None,
    }


def _memory() -> dict[str, Any]:
    nothing = {name: lambda device=None: 0 for name in ("memory_allocated", "max_memory_allocated", "memory_reserved")}
    return nothing | {
        "cudart": Runtime,
        "mem_get_info": lambda device=None: (64 * _GIB, 80 * _GIB),
        "empty_cache": lambda: None,
        "reset_peak_memory_stats": lambda device=None: None,
    }


def _pin_memory(tensor: Tensor, *_: Any) -> Tensor:
    """In the training process, this takes its time; loader processes should do it."""
    LEDGER.count(LEDGER.pinned, "pin_memory")
    return pin(tensor.detach().clone())
