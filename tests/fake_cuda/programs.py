"""Small programs with one fault each, and the same without it: what the pretended device must notice, and must not."""

import os
import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmarks.support.fake_cuda import kernels
from benchmarks.support.fake_cuda.ledger import LEDGER

if TYPE_CHECKING:
    from phalanx.dist.checkpoint.entries import Entry
    from phalanx.dist.checkpoint.layout import Range

    Ranges = Sequence[tuple[Entry, Range]]


def _refused(kind: type[Exception], words: str, action: Callable[[], Any]) -> None:
    try:
        action()
    except kind as error:
        assert words in str(error), error
    else:
        raise AssertionError(f"not refused: {words}")


def _faults() -> list[str]:
    found = list(LEDGER.faults)
    LEDGER.clear()
    return found


def _pinned(*shape: int) -> Tensor:
    return torch.zeros(*shape, pin_memory=True)


# -- the device


def it_computes_what_the_cpu_does() -> None:
    weight, x = torch.randn(4, 3, 3, 3), torch.randn(2, 3, 8, 8)
    here = [tensor.clone().requires_grad_() for tensor in (weight, x)]
    there = [tensor.to("cuda").requires_grad_() for tensor in (weight, x)]
    for w, images in (here, there):
        F.conv2d(images, w).relu().square().mean().backward()
    for one, other in zip(here, there, strict=True):
        assert other.grad is not None and other.device == torch.device("cuda", 0) and other.grad.is_cuda
        assert torch.equal(one.grad, other.grad.cpu())  # type: ignore[arg-type]


def tensors_of_two_devices_are_refused() -> None:
    there, here = torch.ones(3, device="cuda"), torch.ones(3)
    for action in (
        lambda: there + here,
        lambda: torch.cat([there, here]),
        lambda: here[there.long()],
        lambda: here.add_(there),
    ):
        _refused(RuntimeError, "cpu", action)
    with LEDGER.counting():
        assert (there + torch.tensor(1.0)).is_cuda  # a number may be the CPU's
    assert LEDGER.mixed.total() == 1 and not LEDGER.syncs


def numpy_is_refused() -> None:
    there = torch.ones(3, device="cuda")
    for action in (there.numpy, lambda: __import__("numpy").asarray(there), lambda: there.detach().numpy()):
        _refused(TypeError, "Tensor.cpu()", action)
    assert there.cpu().numpy().sum() == 3


def a_generator_of_the_other_device_is_refused() -> None:
    generator = torch.Generator().manual_seed(1)
    _refused(RuntimeError, "'cuda' device type", lambda: torch.randn(3, device="cuda", generator=generator))
    _refused(RuntimeError, "'cuda' device type", lambda: torch.zeros(3, device="cuda").uniform_(generator=generator))
    _refused(RuntimeError, "'cuda' device type", lambda: torch.randperm(3, device="cuda", generator=generator))
    assert torch.randn(3, generator=generator).shape == (3,)


def deterministic_mode_refuses_what_it_does_on_cuda() -> None:
    images = torch.randn(1, 2, 8, 8, device="cuda", requires_grad=True)
    labels = torch.zeros(1, 8, 8, dtype=torch.int64, device="cuda")
    forbidden = {
        "_adaptive_avg_pool2d_backward": lambda: F.adaptive_avg_pool2d(images, 3).sum().backward(),
        "nll_loss2d_forward": lambda: F.cross_entropy(images, labels),
        "reflection_pad2d_backward": lambda: F.pad(images, (1, 1, 1, 1), "reflect").sum().backward(),
        "upsample_bicubic2d_backward": lambda: F.interpolate(images, scale_factor=2.0, mode="bicubic").sum().backward(),
        "histc": lambda: torch.histc(images.detach()),
    }
    allowed = [
        lambda: F.max_pool2d(images, 2).sum().backward(),
        lambda: F.adaptive_avg_pool2d(images, 1).sum().backward(),
        lambda: F.cross_entropy(images, labels, reduction="none").sum().backward(),
        lambda: F.interpolate(images, scale_factor=2.0, mode="bilinear").sum().backward(),
    ]
    for action in [*forbidden.values(), *allowed]:
        action()
    torch.use_deterministic_algorithms(True)
    try:
        for name, action in forbidden.items():
            _refused(RuntimeError, f"{name} does not have a deterministic implementation", action)
        for action in allowed:
            action()
    finally:
        torch.use_deterministic_algorithms(False)


def autocast_has_the_lists_of_cuda() -> None:
    x, layer = torch.randn(2, 4, device="cuda"), nn.Linear(4, 4).to("cuda")
    for dtype in (torch.bfloat16, torch.float16):
        with torch.autocast("cuda", dtype):
            half = layer(x)
            assert half.dtype == dtype and half.softmax(1).dtype == torch.float32 and half.sum().dtype == torch.float32
            assert F.layer_norm(half, [4]).dtype == torch.float32 and (half + x).dtype == torch.float32
            _refused(RuntimeError, "unsafe to autocast", lambda: F.binary_cross_entropy(x.sigmoid(), x.sigmoid()))
        assert layer(x).dtype == torch.float32


def kernels_of_sync_batchnorm_follow_its_formulas() -> None:
    x, gradient = torch.randn(6, 3, 4, 4, dtype=torch.float64) * 2 + 1, torch.randn(6, 3, 4, 4, dtype=torch.float64)
    layer = nn.BatchNorm2d(3, dtype=torch.float64)
    nn.init.uniform_(layer.weight)
    images = x.clone().requires_grad_()
    expected = layer(images)
    expected.backward(gradient)
    parts = [kernels.KERNELS["batch_norm_stats"](part, layer.eps) for part in (x[:2], x[2:])]
    means, invstds = (torch.stack(of) for of in zip(*parts, strict=True))
    counts = torch.tensor([2.0 * 16, 4.0 * 16], dtype=torch.float64)
    running = torch.zeros(3, dtype=torch.float64), torch.ones(3, dtype=torch.float64)
    mean, invstd = kernels.KERNELS["batch_norm_gather_stats_with_counts"](x, means, invstds, *running, 0.1, layer.eps, counts)
    torch.testing.assert_close(
        kernels.KERNELS["batch_norm_elemt"](x, layer.weight, layer.bias, mean, invstd, layer.eps), expected
    )
    torch.testing.assert_close(running, (layer.running_mean, layer.running_var))
    total, product, of_weight, of_bias = kernels.KERNELS["batch_norm_backward_reduce"](
        gradient, x, mean, invstd, layer.weight, True, True, True
    )
    found = kernels.KERNELS["batch_norm_backward_elemt"](gradient, x, mean, invstd, layer.weight, total, product, counts)
    torch.testing.assert_close((found, of_weight, of_bias), (images.grad, layer.weight.grad, layer.bias.grad))


# -- waiting for the device


def waits_of_the_host_are_counted_where_they_are() -> None:
    there, mask = torch.arange(4.0, device="cuda"), torch.arange(4, device="cuda") > 1
    waits: dict[str, Callable[[], Any]] = {
        "a number for Python": lambda: float(there.sum()),
        "nonzero": mask.nonzero,
        "index by a mask": lambda: there[mask],
        "a copy to the host": there.cpu,
        "a copy to the device": lambda: torch.ones(2).to("cuda"),
        "tolist": there.tolist,
        "cuda.synchronize": torch.cuda.synchronize,
        "stream.synchronize": torch.cuda.Stream().synchronize,
        "an index from the CPU": lambda: there[torch.tensor([0, 1])],
    }
    for kind, action in waits.items():
        LEDGER.clear()
        with LEDGER.counting():
            action()
        ((what, place),) = LEDGER.syncs
        assert what == kind and place.startswith("tests/fake_cuda/programs.py:"), LEDGER.syncs
    LEDGER.clear()
    with LEDGER.counting():
        there[mask] = 0.0  # written through the mask, without looking for its places
        torch.where(mask, there, 0.0).sum().relu()
        _pinned(4).to("cuda", non_blocking=True)
        there.to("cpu", non_blocking=True)
    assert not LEDGER.syncs and not LEDGER.pageable


def waits_of_another_thread_are_not_counted() -> None:
    import threading

    there = torch.ones(3, device="cuda")
    with LEDGER.counting():
        thread = threading.Thread(target=there.cpu)
        thread.start()
        thread.join()
    assert not LEDGER.syncs


def a_copy_from_memory_that_is_not_pinned_is_noted() -> None:
    with LEDGER.counting():
        torch.ones(3).to("cuda", non_blocking=True)
        torch.ones(3).pin_memory().to("cuda", non_blocking=True)
    assert LEDGER.pageable.total() == 1 and LEDGER.pinned.total() == 1 and not LEDGER.syncs


def host_memory_can_be_registered() -> None:
    memory = torch.zeros(64, dtype=torch.uint8)
    runtime = torch.cuda.cudart()
    assert not memory.is_pinned()
    assert int(runtime.cudaHostRegister(memory.data_ptr(), 64, 0)) == 0 and memory[8:].is_pinned()
    assert int(runtime.cudaHostUnregister(memory.data_ptr())) == 0 and not memory.is_pinned()
    assert int(runtime.cudaHostUnregister(memory.data_ptr())) != 0


# -- streams


def host_memory_read_before_the_wait_is_garbage() -> None:
    there = torch.full((3,), 5.0, device="cuda")
    host = _pinned(3).copy_(there, non_blocking=True)
    event = torch.cuda.Event(blocking=True)
    event.record()
    assert host.isnan().all()
    there.zero_()  # later, on the same stream
    event.synchronize()
    assert host.tolist() == [5.0] * 3
    later = there.to("cpu", torch.float64, non_blocking=True)
    assert later.isnan().all()
    torch.cuda.synchronize()
    assert later.tolist() == [0.0] * 3 and not _faults()


def an_event_can_be_asked() -> None:
    host, event = _pinned(3), torch.cuda.Event()
    assert event.query()  # nothing was recorded
    host.copy_(torch.ones(3, device="cuda"), non_blocking=True)
    event.record()
    assert not event.query() and host.isnan().all()
    assert event.query() and host.tolist() == [1.0] * 3


def a_device_that_waits_tells_the_host_nothing() -> None:
    host, side = _pinned(3), torch.cuda.Stream()
    there = torch.ones(3, device="cuda")
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        host.copy_(there, non_blocking=True)
    torch.cuda.current_stream().wait_stream(side)
    there.zero_()
    assert host.isnan().all()
    torch.cuda.current_stream().synchronize()
    assert host.tolist() == [1.0] * 3 and not _faults()


def _copied_beside(keep: bool) -> Tensor:
    """A copy on a side stream from a temporary, which is kept until the copy is done, or is not."""
    side, host = torch.cuda.Stream(), _pinned(4)
    temporary = torch.arange(4.0, device="cuda") * 2
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        host.copy_(temporary, non_blocking=True)
    if not keep:
        del temporary
    side.synchronize()
    return host


def memory_freed_before_a_stream_has_copied_it_is_noticed() -> None:
    assert _copied_beside(keep=True).tolist() == [0.0, 2.0, 4.0, 6.0] and not _faults()
    assert _copied_beside(keep=False).isnan().all()
    assert any("given back" in fault for fault in _faults())


def recorded_memory_stays() -> None:
    side, host = torch.cuda.Stream(), _pinned(4)
    temporary = torch.arange(4.0, device="cuda") * 2
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        host.copy_(temporary, non_blocking=True)
    temporary.record_stream(side)
    del temporary
    side.synchronize()
    assert host.tolist() == [0.0, 2.0, 4.0, 6.0] and not _faults()


def _prefetched(waits: bool, records: bool) -> float:
    """A batch that a side stream brings to the device, used and forgotten on the main one."""
    side, main = torch.cuda.Stream(), torch.cuda.current_stream()
    with torch.cuda.stream(side):
        batch = _pinned(4).add_(1).to("cuda", non_blocking=True)
    if waits:
        main.wait_stream(side)
    total = batch.sum()
    if records:
        batch.record_stream(main)
    del batch
    return float(total)


def a_batch_used_before_its_copy_was_waited_for_is_noticed() -> None:
    assert _prefetched(waits=True, records=True) == 4 and not _faults()
    _prefetched(waits=False, records=True)
    assert any("without having waited for the stream that wrote it" in fault for fault in _faults())


def a_batch_given_back_to_its_stream_while_another_uses_it_is_noticed() -> None:
    _prefetched(waits=True, records=False)
    assert any("given back" in fault for fault in _faults())


def an_update_that_does_not_wait_for_a_reading_stream_is_noticed() -> None:
    for waits in (True, False):
        weight, host, side = torch.ones(3, device="cuda"), _pinned(3), torch.cuda.Stream()
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            host.copy_(weight, non_blocking=True)
        weight * 2  # reading beside is allowed
        assert not _faults()
        if waits:
            torch.cuda.current_stream().wait_stream(side)
        weight.mul_(2)
        side.synchronize()
        assert host.tolist() == [1.0 if waits else 2.0] * 3
        assert bool(_faults()) is not waits


# -- the staging of checkpoints


def _entries(channels_last: bool) -> "list[Entry]":
    from phalanx.dist.checkpoint.entries import full_entry

    layout = torch.channels_last if channels_last else torch.contiguous_format
    weights = [torch.randn(16, 8, 3, 3).contiguous(memory_format=layout) for _ in range(5)]
    return [full_entry(str(number), "model", weight.to("cuda")) for number, weight in enumerate(weights)]


def _staged(mine: "Ranges") -> list[Tensor]:
    """What the staging copies of one rank's ranges."""
    from phalanx.dist.checkpoint.staging import Staging

    staging = Staging()
    parts = staging.begin(mine)
    staging.wait()
    staging.finish()
    return [torch.frombuffer(bytearray(part.memory), dtype=torch.float32) for part in parts]


def _staged_as_once(mine: "Ranges") -> list[Tensor]:
    """The same as the staging did it up to commit 9896554: it made flat tensors, and kept none while a stream copied them."""
    later = [(_pinned(part.size), entry.tensor.reshape(-1)[part.start : part.stop]) for entry, part in mine]
    side, copied = torch.cuda.Stream(), torch.cuda.Event()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for target, flat in later:
            target.copy_(flat, non_blocking=True)
        copied.record()
    written = [target for target, _ in later]
    del later, flat
    copied.synchronize()
    return written


def _wrong(copied: "Callable[[Ranges], list[Tensor]]", channels_last: bool) -> list[str]:
    """What is wrong with the copies of three ranks, and the faults."""
    from phalanx.dist.checkpoint import plan

    entries, wrong = _entries(channels_last), []
    for rank in range(3):
        mine = plan.own_ranges(entries, rank, 3, 1)
        for (entry, part), found in zip(mine, copied(mine), strict=True):
            if not torch.equal(found, entry.tensor.cpu().reshape(-1)[part.start : part.stop]):
                wrong.append(f"rank {rank}: {entry.name}")
    return wrong + _faults()


def staging_copies_what_the_step_had() -> None:
    for channels_last in (False, True):
        assert not _wrong(_staged, channels_last)


def staging_that_keeps_nothing_is_noticed() -> None:
    """Of a tensor in channels_last that is cut between ranks, what is copied is a temporary."""
    assert not _wrong(_staged_as_once, channels_last=False)
    found = _wrong(_staged_as_once, channels_last=True)
    assert any(fault.startswith("rank") for fault in found) and any("given back" in fault for fault in found)


# -- the process itself, see `test_worker.py`


def it_raises() -> None:
    raise ValueError("as it should")


def it_never_ends() -> None:
    while True:
        time.sleep(0.01)


def it_dies() -> None:
    os._exit(3)


MISBEHAVING = (it_raises, it_never_ends, it_dies)
PROGRAMS = [
    name
    for name, value in list(globals().items())
    if callable(value)
    and getattr(value, "__module__", "") == __name__
    and not name.startswith("_")
    and value not in MISBEHAVING
]


def run(name: str) -> None:
    """Runs a program, on a device that remembers no other."""
    LEDGER.clear()
    globals()[name]()
