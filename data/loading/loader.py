"""Brings each rank its micro-batches, the same samples and the same augmentation on any number of ranks and workers."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.utils.data import DataLoader, default_collate, get_worker_info

from phalanx.configs.errors import UserError
from phalanx.data.dataset import Dataset
from phalanx.data.loading import worker_memory
from phalanx.data.loading.packing import Load, load_of, pack, shared, unpack
from phalanx.data.loading.resource_errors import LoaderFailed, explained
from phalanx.data.loading.workers import in_processes, started, without_advice
from phalanx.dist.microbatches.randomness import key, seed_loading, undisturbed
from phalanx.dist.microbatches.sampler import Draw, MicroBatches, Share, Stream

MicroBatch = dict[str, Any]
Transform = Callable[[dict[str, Any]], dict[str, Any]]
# From the number of steps finished before, and a micro-batch of that step: see `phalanx.data.transforms.batchwise`.
Batchwise = Callable[[int, MicroBatch], MicroBatch]


@dataclass(frozen=True)
class Batch:
    """This rank's part of a step.

    Attributes:
        step: number of steps finished before.
        samples: number of the full step's, over all ranks.
        micro_batches: dictionaries of stacked tensors: `image` [m, C, H, W], `target` [m] or [m, classes], `mask` [m, H, W],
            `id` [m], `epoch` [m]; and of lists of tensors: `boxes`, `labels`, `masks`.
    """

    step: int
    samples: int
    micro_batches: list[MicroBatch]

    @property
    def ids(self) -> list[int]:
        """The sample ids of this rank's part, in order."""
        return [i for micro_batch in self.micro_batches for i in micro_batch["id"].tolist()]

    @property
    def others(self) -> list[list[int]] | None:
        """The ids of the other samples in each of them, as in mosaics; None without any."""
        if "others" not in self.micro_batches[0]:
            return None
        rows = [row for micro_batch in self.micro_batches for row in micro_batch["others"].tolist()]
        return [[number for number in row if number >= 0] for row in rows]


class Samples:
    """A dataset by draws: each sample is loaded and transformed with its own random numbers, by (seed, epoch, id).

    Args:
        transform: of a sample, with torch's global generator; its optional attribute `ragged` names the entries that differ
            in size from sample to sample.
        load: loads the sample of a draw if not directly from the dataset, see `phalanx.data.transforms.mosaic`.
        repeated: whether a step has several copies of a sample, each with random numbers of its own.
    """

    def __init__(
        self,
        dataset: Dataset,
        transform: Transform,
        seed: int,
        load: Callable[[Draw], dict[str, Any]] | None = None,
        repeated: bool = False,
    ):
        self.dataset, self.transform, self.seed, self._load, self._repeated = dataset, transform, seed, load, repeated
        self.ragged: frozenset[str] = getattr(transform, "ragged", frozenset())

    def __getitem__(self, draw: Draw) -> dict[str, Any]:
        with loading():
            return self.transformed(self.stored(draw))

    def stored(self, draw: Draw) -> dict[str, Any]:
        """A sample as the dataset returns it, with `id` and `epoch`; and `copy`, where there are several."""
        numbers = {"id": draw.sample, "epoch": draw.epoch} | ({"copy": draw.copy} if self._repeated else {})
        seed_loading(key(self.seed, "load", *_draw_of(numbers)))
        loaded = self.dataset[draw.sample] if self._load is None else self._load(draw)
        return {**loaded, **numbers}

    def transformed(self, sample: dict[str, Any]) -> dict[str, Any]:
        """A stored sample, transformed. Seeded again, as another process may have loaded it."""
        torch.default_generator.manual_seed(key(self.seed, "sample", *_draw_of(sample)))
        return self.transform(sample)


def _draw_of(sample: Mapping[str, Any]) -> tuple[int, ...]:
    """What the random numbers of a sample depend on."""
    copy = (sample["copy"],) if sample.get("copy") else ()  # the first copy has those of a sample that has no others
    return (sample["epoch"], sample["id"], *copy)


@contextmanager
def loading() -> Iterator[None]:
    """In the training process: restores generators, and uses one thread, as in a loader process.

    Vectorised kernels may round differently at the end of a thread's part.
    """
    if get_worker_info() is not None:
        yield  # a loader process does not use its generators otherwise, and has one thread
        return
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with undisturbed():
            yield
    finally:
        torch.set_num_threads(threads)


class _Request(NamedTuple):
    """A micro-batch to make, or a batch of an evaluation."""

    step: int
    draws: Sequence[Draw]


class _Maker(torch.utils.data.Dataset[Any]):
    """Makes micro-batches: completely in a loader process, or loading there and transforming on the rank's device."""

    def __init__(self, samples: Samples, batchwise: Batchwise | None, device: torch.device | None):
        self._samples, self._batchwise, self._device = samples, batchwise, device

    def __getitem__(self, asked: _Request) -> Any:
        """In a loader process: the input of `arrived`. Bad input is sent as a value: torch would wrap it into a traceback."""
        try:
            with loading():
                stored = [self._samples.stored(draw) for draw in asked.draws]
                if self._device is not None:
                    return self._sent(
                        (asked.step, {name: pack([sample[name] for sample in stored]) for name in _names(stored)})
                    )
                made = self._together(asked.step, [self._samples.transformed(sample) for sample in stored])
                return self._sent({name: pack(value) for name, value in made.items()})
        except UserError as error:
            return error
        except RuntimeError as error:
            if get_worker_info() is None or (reason := explained(error)) is None:
                raise
            return LoaderFailed(reason)

    def _sent(self, value: Any) -> Any:
        return value if get_worker_info() is None else shared(value)

    def arrived(self, sent: Any) -> MicroBatch:
        """In the training process: the micro-batch."""
        if isinstance(sent, UserError | LoaderFailed):
            raise sent
        if self._device is None:
            return {name: unpack(value) for name, value in sent.items()}
        step, packed = sent
        columns = {name: unpack(values) for name, values in packed.items()}
        stored = [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]
        with loading():
            for sample in stored:
                if "image" in sample:
                    sample["image"] = sample["image"].to(self._device, non_blocking=True)
            return self._together(step, [self._samples.transformed(sample) for sample in stored])

    def _together(self, step: int, samples: list[dict[str, Any]]) -> MicroBatch:
        batch = collate(samples, self._samples.ragged)
        return batch if self._batchwise is None else self._batchwise(step, batch)


def _names(samples: list[dict[str, Any]]) -> list[str]:
    """The names of the samples' entries.

    Raises:
        UserError: if the samples differ in them.
    """
    return _keys("", samples, [sample["id"] for sample in samples])


def _keys(name: str, values: Sequence[dict[str, Any]], ids: Sequence[int]) -> list[str]:
    for value, number in zip(values, ids, strict=True):
        if value.keys() != values[0].keys():
            within = f" in {name!r}" if name else ""
            raise UserError(
                f"sample {ids[0]} of the dataset has the entries {', '.join(values[0])}{within}, but sample {number} "
                f"has {', '.join(value)}. Let its __getitem__ return the same for all."
            )
    return list(values[0])


def collate(samples: list[dict[str, Any]], ragged: frozenset[str] = frozenset()) -> MicroBatch:
    """Samples as one batch: each entry stacked, or a list if it is ragged, even if sizes agree.

    Raises:
        UserError: if an entry that is not ragged has several sizes.
    """
    ids = [sample["id"] for sample in samples]
    return {name: _stacked(name, [s[name] for s in samples], ids, name in ragged) for name in _names(samples)}


def _stacked(name: str, values: list[Any], ids: Sequence[int], ragged: bool) -> Any:
    """An entry of a batch; a dictionary's entries each for themselves."""
    if ragged:
        return values
    if all(isinstance(value, dict) for value in values):
        return {
            key: _stacked(f"{name}.{key}", [value[key] for value in values], ids, ragged) for key in _keys(name, values, ids)
        }
    shapes = {tuple(value.shape): i for value, i in zip(values, ids, strict=True) if isinstance(value, Tensor)}
    if len(shapes) > 1:
        listed = ", ".join(f"{list(shape)} in sample {i}" for shape, i in shapes.items())
        raise UserError(f"the dataset's {name!r} is {listed}: it must have one shape. Correct the dataset.")
    return default_collate(values)


class _TrainingBatches:
    """A sampler for torch's loader: a rank's micro-batches, step by step, from any step."""

    def __init__(self, stream: Stream, mine: Share, start_step: int, stop_step: int):
        self._draws = MicroBatches(stream, mine, start_step, stop_step)

    def __iter__(self) -> Iterator[_Request]:
        for number, draws in enumerate(self._draws):
            yield _Request(self._draws.start_step + number // self._draws.mine.size, draws)

    def __len__(self) -> int:
        return len(self._draws)


class _EvaluationBatches:
    """The batches `first` to `last` (exclusive) of a validation split in its own order; the last may be smaller."""

    def __init__(self, samples: int, size: int, first: int, last: int):
        self._samples, self._size, self._first, self._last = samples, size, first, last

    def __iter__(self) -> Iterator[_Request]:
        for number in range(self._first, self._last):
            start = number * self._size
            yield _Request(0, [Draw(0, i) for i in range(start, min(start + self._size, self._samples))])

    def __len__(self) -> int:
        return self._last - self._first


def _as_made(batch: Any) -> Any:
    """For torch's loader, which would otherwise convert to tensors."""
    return batch


def _fork_loader(maker: _Maker, batches: Any, workers: int, pin: bool, ahead: int = 2) -> Iterator[MicroBatch]:
    """An iterator over micro-batches, `ahead` of them loaded in advance."""
    with without_advice():
        loader: DataLoader[Any] = DataLoader(
            maker,
            batch_size=None,
            sampler=batches,
            collate_fn=_as_made,
            pin_memory=pin,
            prefetch_factor=worker_memory.prefetch(workers, ahead) if workers else None,
            **in_processes(workers),
        )
    return map(maker.arrived, started(loader))


class Loader:
    """The training stream of one rank.

    Args:
        batchwise: the transform of each micro-batch, if any.
        device: where samples are transformed; in the loader processes if None.
    """

    def __init__(
        self,
        samples: Samples,
        stream: Stream,
        mine: Share,
        workers: int,
        pin: bool,
        batchwise: Batchwise | None = None,
        device: torch.device | None = None,
    ):
        self._maker = _Maker(samples, batchwise, device)
        self._stream, self._mine, self._workers, self._pin = stream, mine, workers, pin
        self._load: Load | None = None

    def from_step(self, step: int, last_step: int) -> Iterator[Batch]:
        """This rank's parts of the steps after `step` finished ones, up to `last_step`."""
        batches = _TrainingBatches(self._stream, self._mine, step, last_step)
        micro_batches = _fork_loader(self._maker, batches, self._workers, self._pin, self._ahead)
        for current in range(step, last_step):
            part = [next(micro_batches) for _ in range(self._mine.size)]
            yield Batch(current, self._stream.global_batch, part)

    def examples(self, step: int, some: Share) -> list[MicroBatch]:
        """Some of the micro-batches of a step, loaded in this process."""
        draws = self._stream.micro_batches(step, some.first, some.last)
        made = [self._maker[_Request(step, micro_batch)] for micro_batch in draws]
        self._load = max((load_of(sent) for sent in made), default=None)
        return [self._maker.arrived(sent) for sent in made]

    def check_memory(self, local_ranks: int) -> None:
        """Refuses if loader processes lack the shared memory for micro-batches like the examples.

        Raises:
            UserError: with a remedy.
        """
        if self._load is not None:
            worker_memory.check(self._load, self._workers, self._ahead, local_ranks)

    @property
    def _ahead(self) -> int:
        """A step takes all its micro-batches at once: the next step's must be loaded by then."""
        return 2 * self._mine.size


class EvaluationLoader:
    """A validation split, cut into numbered batches; a rank takes a contiguous range of them, each sample once.

    Args:
        device: where samples are transformed; in the loader processes if None.
    """

    def __init__(
        self,
        samples: Samples,
        count: int,
        batch: int,
        rank: int,
        world: int,
        workers: int,
        pin: bool = False,
        device: torch.device | None = None,
    ):
        self._maker, self._count, self._batch = _Maker(samples, None, device), count, batch
        self._samples, self._workers, self._pin = samples, workers, pin
        self.batches = -(-count // batch)
        self._first, self._last = rank * self.batches // world, (rank + 1) * self.batches // world

    def __iter__(self) -> Iterator[tuple[int, MicroBatch]]:
        """Number and content of this rank's batches."""
        numbered = _EvaluationBatches(self._count, self._batch, self._first, self._last)
        workers = min(self._workers, len(numbered))
        yield from enumerate(_fork_loader(self._maker, numbered, workers, self._pin), self._first)

    @property
    def numbers(self) -> range:
        """Those of this rank's batches."""
        return range(self._first, self._last)

    def example(self) -> MicroBatch:
        """A batch of samples from all over the split, loaded in this process."""
        return self.batch_of(self.spread(min(self._batch, self._count)))

    def spread(self, count: int) -> list[int]:
        """Numbers of so many samples from all over the split, or of all of them."""
        size = min(count, self._count)
        return [place * self._count // size for place in range(size)]

    def batch_of(self, numbers: Sequence[int]) -> MicroBatch:
        """A batch of some samples, loaded in this process."""
        return self._maker.arrived(self._maker[_Request(0, [Draw(0, number) for number in numbers])])

    def stored(self, number: int) -> dict[str, Any]:
        """A sample as the dataset returns it."""
        with loading():
            return self._samples.stored(Draw(0, number))
