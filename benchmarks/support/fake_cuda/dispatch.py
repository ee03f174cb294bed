"""Every operation of torch passes here: device rules first, then the CPU's kernel on the numbers, then the ledger."""

import functools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from benchmarks.support.fake_cuda import kernels, rules, waits
from benchmarks.support.fake_cuda.ledger import LEDGER
from benchmarks.support.fake_cuda.memory import is_pinned, pin, record
from benchmarks.support.fake_cuda.streams import CUDA, LOCK, MAIN, STREAMS, Copy, wait_for_device

_CPU = torch.device("cpu")
_HALF = (torch.float16, torch.bfloat16)
_PRODUCTS = {"convolution", "convolution_backward", "mm", "addmm", "bmm", "baddbmm"}


@dataclass(frozen=True)
class _Kind:
    """What an operation's schema says of it.

    Attributes:
        is_view: whether it returns the memory of its operand and touches none.
        writes: positions and names of operands that it changes.
        returns: of these, that which it returns.
    """

    name: str
    is_view: bool
    writes: tuple[tuple[int, str], ...]
    returns: tuple[int, str] | None


@functools.cache
def _kind(op: Any) -> _Kind:
    schema = op._schema
    writes = tuple((i, a.name) for i, a in enumerate(schema.arguments) if a.alias_info is not None and a.alias_info.is_write)
    aliases = [r.alias_info for r in schema.returns if r.alias_info is not None]
    in_place = len(schema.returns) == 1 and bool(aliases) and aliases[0].is_write
    is_view = bool(aliases) and not any(alias.is_write for alias in aliases)
    return _Kind(schema.name.split("::")[1], is_view, writes, writes[0] if in_place and writes else None)


def _operand(place: tuple[int, str], args: Sequence[Any], kwargs: dict[str, Any]) -> Any:
    return args[place[0]] if place[0] < len(args) else kwargs.get(place[1])


def _mapped(change: Callable[[Any], Any], value: Any) -> Any:
    """A value whose parts are changed; torch's own function for this takes several times as long."""
    if isinstance(value, Tensor) or not isinstance(value, list | tuple | dict):
        return change(value)
    if isinstance(value, dict):
        return {name: _mapped(change, part) for name, part in value.items()}
    parts = [_mapped(change, part) for part in value]
    return type(value)(parts) if type(value) in (list, tuple) else tuple(parts)


def _leaves(value: Any) -> Iterator[Any]:
    if isinstance(value, list | tuple):
        for part in value:
            yield from _leaves(part)
    else:
        yield value


def _inner(value: Any) -> Any:
    return value.inner if isinstance(value, Tensor) and value.is_cuda else value


def _wrap(value: Any) -> Any:
    from benchmarks.support.fake_cuda.tensor import on_device

    return on_device(value) if isinstance(value, Tensor) and not value.is_cuda else value


def _history(tensor: Any) -> Any:
    return record(tensor.inner, MAIN)


def run(op: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """What torch calls instead of a kernel."""
    kind = _kind(op)
    name = kind.name
    if op is torch.ops.prim.device.default:
        return torch.device("pretended", 0) if args[0].is_cuda else _CPU
    tensors = [value for value in _leaves((*args, *kwargs.values())) if isinstance(value, Tensor)]
    cuda = [tensor for tensor in tensors if tensor.is_cuda]
    cpu = [tensor for tensor in tensors if not tensor.is_cuda]
    device = _device(kwargs)
    if (device is not None and device.type == "meta") or any(tensor.device.type == "meta" for tensor in cpu):
        return op(*_mapped(_inner, args), **_mapped(_inner, kwargs))
    if name in ("_to_copy", "_copy_from"):
        return _moved(op, args[0], device, kwargs)
    if name == "copy_":
        return _copied(op, args, kwargs)
    if name == "_local_scalar_dense":
        if cuda:
            _touch(kind, args, kwargs, cuda)
            wait_for_device("a number for Python")
        return op(_inner(args[0]))
    if "generator" in kwargs or any(isinstance(value, torch.Generator) for value in args):
        given = kwargs.get("generator") or next((value for value in args if isinstance(value, torch.Generator)), None)
        rules.refuse_generator(given, bool(cuda) or (device is not None and device.type == "cuda"))
    if cuda:
        if cpu and op.namespace not in ("c10d", "_c10d_functional") and rules.refuse_mixed(name, args, cpu):
            wait_for_device("an index from the CPU")
        if name == "is_pinned":
            return False
        rules.refuse_nondeterministic(name, args, kwargs)
        if (reason := waits.reason(name, args, kwargs)) is not None:
            wait_for_device(reason)
        _touch(kind, args, kwargs, cuda)
    if name == "_fused_sdp_choice":
        return 0
    return _computed(
        op, kind, args, kwargs, on_cuda=device.type == "cuda" if device is not None else bool(cuda), with_cuda=bool(cuda)
    )


def _device(kwargs: dict[str, Any]) -> torch.device | None:
    if kwargs.get("device") is None:
        return None
    device = torch.device(kwargs["device"])
    return CUDA if device.type == "pretended" else device


def _touch(kind: _Kind, args: Sequence[Any], kwargs: dict[str, Any], cuda: Sequence[Any]) -> None:
    """The current stream reads and writes an operation's operands."""
    if kind.is_view:
        return
    with LOCK:
        stream = STREAMS.current
        stream.number += 1
        changed = [operand for place in kind.writes for operand in _leaves(_operand(place, args, kwargs))]
        for tensor in cuda:
            _history(tensor).touch(stream, writes=any(tensor is other for other in changed))


def _computed(op: Any, kind: _Kind, args: tuple[Any, ...], kwargs: dict[str, Any], on_cuda: bool, with_cuda: bool) -> Any:
    """The operation on the CPU's kernels."""
    pinned = bool(kwargs.get("pin_memory"))
    if kwargs.get("device") is not None and on_cuda:
        kwargs["device"] = _CPU
    if pinned:
        kwargs["pin_memory"] = False
    if with_cuda and kind.name in kernels.KERNELS:
        return _mapped(_new, kernels.KERNELS[kind.name](*_mapped(_inner, args), **_mapped(_inner, kwargs)))
    result = _on_the_cpu(op, kind.name, _mapped(_inner, args), _mapped(_inner, kwargs))
    if kind.returns is not None:
        changed = _operand(kind.returns, args, kwargs)
        # `resize_` and the like: the shape that torch knows is the old one.
        return _wrap(changed.inner) if changed.is_cuda and changed.inner.size() != changed.size() else changed
    if pinned:
        return pin(result)
    if op.namespace == "c10d":
        return _same(result, args)
    if not on_cuda:
        return result
    return _mapped(_wrap if kind.is_view else _new, result)


def _on_the_cpu(op: Any, name: str, args: Any, kwargs: dict[str, Any]) -> Any:
    """The CPU's kernel. Products in half precision are summed in float32, as on a GPU; the CPU's own take minutes."""
    half = next((a.dtype for a in args if isinstance(a, Tensor) and a.dtype in _HALF), None) if name in _PRODUCTS else None
    if half is None:
        return op(*args, **kwargs)
    result = op(*_mapped(lambda a: a.float() if isinstance(a, Tensor) and a.dtype == half else a, args), **kwargs)
    return _mapped(lambda r: r.to(half) if isinstance(r, Tensor) and r.dtype == torch.float32 else r, result)


def _new(value: Any) -> Any:
    """A result on the device, written by the current stream."""
    if not isinstance(value, Tensor) or value.is_cuda:
        return value
    made = _wrap(value)
    with LOCK:
        _history(made).touch(STREAMS.current, writes=True)
    return made


def _same(result: Any, args: Sequence[Any]) -> Any:
    """A collective returns the tensors that it was given."""
    given = {id(tensor.inner): tensor for tensor in _leaves(args) if isinstance(tensor, Tensor) and tensor.is_cuda}
    return _mapped(lambda value: given.get(id(value), value), result)


# -- copies between host and device


def _moved(op: Any, source: Tensor, device: torch.device | None, kwargs: dict[str, Any]) -> Tensor:
    """`Tensor.to`: a copy in new memory."""
    target = device or (CUDA if source.is_cuda else _CPU)
    waits_for_it = not kwargs.get("non_blocking", False)
    how = {**kwargs, "non_blocking": False}
    how.pop("device", None)
    pinned = how.pop("pin_memory", None)
    if not source.is_cuda:
        if target.type == "cpu":
            moved = op(source, **how)
            return pin(moved) if pinned else moved
        _count_upload(source, waits_for_it)
        STREAMS.current.number += 1
        return _new(op(source, **how))
    with LOCK:
        STREAMS.current.number += 1
        _history(source).touch(STREAMS.current, writes=False)
    moved = op(_inner(source), **how)
    if target.type == "cuda":
        return _new(moved)
    if waits_for_it:
        wait_for_device("a copy to the host")
        return moved.clone()
    # Torch computes another dtype on the device, and takes pinned memory for what does not block.
    host = pin(torch.empty_like(moved))
    with LOCK:
        STREAMS.current.queue.append(Copy(host, moved, record(moved, STREAMS.current), at_once=True))
    return host


def _copied(op: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Tensor:
    """`Tensor.copy_`."""
    target, source = args[0], args[1]
    waits_for_it = not (args[2] if len(args) > 2 else kwargs.get("non_blocking", False))
    stream = STREAMS.current
    with LOCK:
        stream.number += 1
        if source.is_cuda:
            _history(source).touch(stream, writes=False)
        if target.is_cuda:
            _history(target).touch(stream, writes=True)
    if target.is_cuda:
        if not source.is_cuda:
            _count_upload(source, waits_for_it)
        target.inner.copy_(_inner(source))
    elif source.is_cuda and (waits_for_it or not is_pinned(target)):
        wait_for_device("a copy to the host")
        target.copy_(source.inner)
    elif source.is_cuda:
        with LOCK:
            # Memory of the stream itself is not given to anybody before the copy; that of another may be.
            history = _history(source)
            stream.queue.append(Copy(target, source.inner, history, at_once=history.home is stream))
    else:
        op(*args, **kwargs)
    return target


def _count_upload(source: Tensor, waits_for_it: bool) -> None:
    if waits_for_it:
        wait_for_device("a copy to the device")
    elif source.numel() and not is_pinned(source):
        LEDGER.count(LEDGER.pageable, "a copy from pageable memory")


@functools.cache
def _is_composite(name: str) -> bool:
    return bool(torch._C._dispatch_has_kernel_for_dispatch_key(name, "CompositeImplicitAutograd"))


class PretendedMode(TorchDispatchMode):
    """Sees operations without any tensor of the device too: those that make one, and generators."""

    _mode_key = torch._C._TorchDispatchModeKey.FAKE

    def __torch_dispatch__(self, op: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None) -> Any:
        kwargs = dict(kwargs or {})
        # `prim::device` and others of its kind are no operators to ask about.
        if op.namespace == "aten" and _is_composite(op.name()):
            with self:
                result = op.decompose(*args, **kwargs)
            if result is not NotImplemented:
                return result
        return run(op, args, kwargs)
