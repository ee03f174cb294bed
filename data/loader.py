"""Brings each rank its micro-batches, the same samples and the same augmentation on any number of ranks and workers."""

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, default_collate

from phalanx.data.dataset import Dataset
from phalanx.dist.processes import die_with_parent
from phalanx.dist.randomness import key, seed_loading, seeded_loading
from phalanx.dist.sampler import Draw, MicroBatches, Share, Stream
from phalanx.dist.stop import forget_in_child, held_back

MicroBatch = dict[str, Any]


@dataclass(frozen=True)
class Batch:
    """This rank's part of a step.

    Attributes:
        step: number of steps finished before.
        samples: of the whole step, over all ranks.
        micro_batches: dictionaries of stacked tensors: `image` [m, C, H, W], `target`, `id` [m], `epoch` [m].
    """

    step: int
    samples: int
    micro_batches: list[MicroBatch]

    @property
    def ids(self) -> list[int]:
        """The sample ids of this rank's part, in order."""
        return [i for micro_batch in self.micro_batches for i in micro_batch["id"].tolist()]


class Samples(torch.utils.data.Dataset[dict[str, Any]]):
    """A dataset by draws: each sample is loaded and transformed with random numbers of its own (seed, epoch, id)."""

    def __init__(self, dataset: Dataset, transform: nn.Module, seed: int):
        self.dataset, self.transform, self.seed = dataset, transform, seed

    def __getitem__(self, draw: Draw) -> dict[str, Any]:
        seed = key(self.seed, "sample", draw.epoch, draw.sample)
        if torch.utils.data.get_worker_info() is not None:
            seed_loading(seed)  # a loader process has no other use for its generators
            return self._load(draw)
        with seeded_loading(seed):
            return self._load(draw)

    def _load(self, draw: Draw) -> dict[str, Any]:
        sample = dict(self.dataset[draw.sample])
        return sample | {"image": self.transform(sample["image"]), "id": draw.sample, "epoch": draw.epoch}


class _EvaluationBatches:
    """The batches `first` to `last` (exclusive) of a validation split in its own order; the last may be smaller."""

    def __init__(self, samples: int, size: int, first: int, last: int):
        self._samples, self._size, self._first, self._last = samples, size, first, last

    def __iter__(self) -> Iterator[Sequence[Draw]]:
        for number in range(self._first, self._last):
            start = number * self._size
            yield [Draw(0, i) for i in range(start, min(start + self._size, self._samples))]

    def __len__(self) -> int:
        return self._last - self._first


# A tensor travels from a loader process as an open file, about a millisecond each; small ones are faster by value.
_BY_VALUE_BYTES = 64 << 10


def _collate(samples: list[dict[str, Any]]) -> MicroBatch:
    """Stacks samples; small tensors become arrays for the way."""
    stacked: MicroBatch = default_collate(samples)
    return {k: v.numpy() if isinstance(v, Tensor) and v.nbytes <= _BY_VALUE_BYTES else v for k, v in stacked.items()}


def _arrived(batch: MicroBatch) -> MicroBatch:
    """Arrays back to tensors."""
    return {k: torch.from_numpy(v) if isinstance(v, numpy.ndarray) else v for k, v in batch.items()}


class _InWorker:
    """Sets up a loader process: it dies with its rank, and leaves signals to it."""

    def __init__(self, rank_process: int):
        self._rank_process = rank_process

    def __call__(self, worker: int) -> None:
        forget_in_child()
        die_with_parent(self._rank_process)


def _fork_loader(samples: Samples, batches: Any, workers: int, pin: bool, ahead: int = 2) -> Iterator[MicroBatch]:
    """An iterator over collated batches, `ahead` of them loaded before they are asked for."""
    loader: DataLoader[Any] = DataLoader(
        samples,
        batch_sampler=batches,
        num_workers=workers,
        collate_fn=_collate,
        pin_memory=pin,
        prefetch_factor=max(2, -(-ahead // workers)) if workers else None,
        multiprocessing_context="fork" if workers else None,
        worker_init_fn=_InWorker(os.getpid()) if workers else None,
    )
    with held_back():
        batches_as_sent = iter(loader)
    return map(_arrived, batches_as_sent)


class Loader:
    """The training stream of one rank."""

    def __init__(self, samples: Samples, stream: Stream, mine: Share, workers: int, pin: bool):
        self._samples, self._stream, self._mine, self._workers, self._pin = samples, stream, mine, workers, pin

    def from_step(self, step: int, last_step: int) -> Iterator[Batch]:
        """This rank's parts of the steps after `step` finished ones, up to `last_step`."""
        batches = MicroBatches(self._stream, self._mine, step, last_step)
        # A step takes all its micro-batches at once: the next step's must be there by then.
        micro_batches = _fork_loader(self._samples, batches, self._workers, self._pin, ahead=2 * self._mine.size)
        for current in range(step, last_step):
            part = [next(micro_batches) for _ in range(self._mine.size)]
            yield Batch(current, self._stream.global_batch, part)

    def examples(self, step: int, some: Share) -> list[MicroBatch]:
        """Some of the micro-batches of a step, loaded here and now."""
        draws = self._stream.micro_batches(step, some.first, some.last)
        return [_arrived(_collate([self._samples[draw] for draw in micro_batch])) for micro_batch in draws]


class EvaluationLoader:
    """A validation split, cut into numbered batches; a rank takes a contiguous run of them, each sample once."""

    def __init__(self, samples: Samples, count: int, batch: int, rank: int, world: int, workers: int):
        self._samples, self._count, self._batch, self._workers = samples, count, batch, workers
        self.batches = -(-count // batch)
        self._first, self._last = rank * self.batches // world, (rank + 1) * self.batches // world

    def __iter__(self) -> Iterator[tuple[int, MicroBatch]]:
        """Number and content of this rank's batches."""
        numbered = _EvaluationBatches(self._count, self._batch, self._first, self._last)
        workers = min(self._workers, len(numbered))
        yield from enumerate(_fork_loader(self._samples, numbered, workers, False), self._first)
