"""Micro-batches on a GPU, each copied there on a stream of its own while the one before it runs."""

from collections.abc import Callable, Iterable, Iterator, Sequence

import torch

from phalanx.dist.microbatches.micro_batch import MicroBatch, merge, tensors


class Prefetcher:
    """Copies micro-batches one ahead of the one that runs.

    Args:
        device: a GPU.
        move: copies one micro-batch there, without waiting for the copy.
    """

    def __init__(self, device: torch.device, move: Callable[[MicroBatch], MicroBatch]):
        self._device, self._move, self._stream = device, move, torch.cuda.Stream(device)

    def __call__(self, passes: Iterable[Sequence[MicroBatch]]) -> Iterator[MicroBatch]:
        """Each forward pass's micro-batches merged, for the stream that is current when they are asked for."""
        copies = map(self._start, passes)
        copy = next(copies, None)
        while copy is not None:
            following = next(copies, None)
            yield copy.arrived()
            copy = following

    def _start(self, parts: Sequence[MicroBatch]) -> "_Copy":
        if any(tensor.is_cuda for part in parts for tensor in tensors(part)):
            # Transformed on the device (`data.transform_on`), whose current stream may still be at work on them.
            return _Copy(merge([self._move(part) for part in parts]), None)
        with torch.cuda.stream(self._stream):
            batch = merge([self._move(part) for part in parts])
            return _Copy(batch, self._stream.record_event())


class _Copy:
    """A micro-batch on its way to the device, on another stream if there is an event that ends it."""

    def __init__(self, batch: MicroBatch, end: "torch.cuda.Event | None"):
        self._batch, self._end = batch, end

    def arrived(self) -> MicroBatch:
        """The batch, which the current stream uses once it is there; the host does not wait."""
        if self._end is not None:
            stream = torch.cuda.current_stream()
            stream.wait_event(self._end)
            for tensor in tensors(self._batch):
                if tensor.is_cuda:
                    tensor.record_stream(stream)  # else its memory would be free for the next copy as soon as Python drops it
        return self._batch
