"""Where the time of steps goes: samples per second, the share of waiting for data, and the memory that they take.

Evaluations and saves are left out, and nothing waits for the device.
"""

import resource
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import TypeVar

import torch

T = TypeVar("T")


class StepClock:
    """Of this rank's steps.

    Args:
        step: number of steps finished before.
        global_batch: samples of a step, over all ranks.
        epoch: samples of an epoch.
    """

    def __init__(self, step: int, global_batch: int, epoch: int, device: torch.device):
        self._global_batch, self._epoch, self._device = global_batch, epoch, device
        self._step, self._begun = step, time.monotonic()
        self._waited = self._besides = 0.0

    def batches(self, source: Iterable[T]) -> Iterator[T]:
        """The same batches; the time until each is there counts as waiting for data."""
        batches = iter(source)
        while True:
            begun = time.monotonic()
            try:
                batch = next(batches)
            except StopIteration:
                return
            self._waited += time.monotonic() - begun
            yield batch

    @contextmanager
    def besides(self) -> Iterator[None]:
        """What is no part of a step: an evaluation, a save."""
        begun = time.monotonic()
        try:
            yield
        finally:
            self._besides += time.monotonic() - begun

    def figures(self, step: int) -> dict[str, float]:
        """Figures of the steps since it was last asked.

        `train/epoch` after the step; `perf/samples_per_s` over all ranks; `perf/data_wait`, the share of the time that waited
        for data; `perf/memory_mb`, the largest memory so far of this rank: of the GPU's allocator, or of the process.

        Args:
            step: number of steps finished after it.
        """
        found = {"train/epoch": step * self._global_batch / self._epoch, "perf/memory_mb": self._memory_mb()}
        now = time.monotonic()
        seconds = now - self._begun - self._besides
        if step > self._step and seconds > 0:
            found["perf/samples_per_s"] = (step - self._step) * self._global_batch / seconds
            found["perf/data_wait"] = min(1.0, self._waited / seconds)
        self._step, self._begun, self._waited, self._besides = step, now, 0.0, 0.0
        return found

    def _memory_mb(self) -> float:
        if self._device.type == "cuda":
            return torch.cuda.max_memory_allocated(self._device) / 2**20
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10
