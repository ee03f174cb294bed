"""Checking the data before the first step: `data.check=quick` or `full`. Ranks share the work.

Opening a dataset has already checked names, pairs, counts and labels. Quick: whether files exist (up to 10,000 of them,
evenly spread), and whether some samples can be used. Full: whether every sample can.
"""

import os
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy
import torch
from torch.utils.data import DataLoader

from phalanx.configs.errors import UserError
from phalanx.configs.sections.data import DataConfig
from phalanx.data.bad_sample import BadSample, Unreadable, unreadable
from phalanx.data.dataset import Dataset, Split
from phalanx.data.loading.workers import in_processes, started
from phalanx.data.skip_unreadable import SkipUnreadable
from phalanx.data.splits import Indices, Subset

_QUICK_FILES = 10_000
_QUICK_SAMPLES = 16
_TOGETHER = 32  # samples per message of a loader process
_NAMED = 3  # files that a message names


@dataclass(frozen=True)
class SampleProblem:
    """Samples with the same problem.

    Attributes:
        files: the first files.
        problem, remedy: those of the first; `others` as in `BadSample`.
        count: number of samples.
        can_be_skipped: whether it is an unreadable image.
    """

    files: tuple[str, ...]
    problem: str
    remedy: str
    others: str
    count: int
    can_be_skipped: bool

    def sentence(self, total: int) -> str:
        also = f" ({', '.join(self.files[1:])}{', ...' if self.count > len(self.files) else ''})" if len(self.files) > 1 else ""
        others = self.others.format(count=self.count, total=total)
        return f"{self.files[0]}: {self.problem}. {others}{also}. {self.remedy}"


def as_json(problems: Sequence[SampleProblem]) -> list[dict[str, Any]]:
    return [asdict(problem) for problem in problems]


def merged(parts: Sequence[Sequence[dict[str, Any]]]) -> list[SampleProblem]:
    """The problems that several ranks found, in the order of their samples."""
    found: dict[str, SampleProblem] = {}
    for values in (value for part in parts for value in part):
        problem = SampleProblem(**values | {"files": tuple(values["files"])})
        before = found.get(problem.others)
        if before is not None:
            problem = replace(before, files=(before.files + problem.files)[:_NAMED], count=before.count + problem.count)
        found[problem.others] = problem
    return list(found.values())


def check_part(
    dataset: Dataset, config: DataConfig, rank: int, world: int, beat: Callable[[], None], progress: str | None = None
) -> list[SampleProblem]:
    """The problems in this rank's part of a split.

    Args:
        beat: called repeatedly during the work.
        progress: the split's name on the terminal; None to print nothing.
    """
    dataset, numbers = once_each(dataset)
    if config.check == "quick" and not hasattr(dataset, "files"):
        seen = []
    elif config.check == "quick":
        seen = [*_missing_files(dataset, spread(numbers, _QUICK_FILES)[rank::world])]
        if not seen:
            seen = [error for error in map(_Problems(dataset), spread(numbers, _QUICK_SAMPLES)[rank::world].tolist()) if error]
    else:
        mine = numbers[len(numbers) * rank // world : len(numbers) * (rank + 1) // world]
        seen = list(_every_sample(dataset, mine, config.workers, beat, progress))
    problems: dict[str, SampleProblem] = {}
    for error in seen:
        own = SampleProblem((error.file,), error.problem, error.remedy, error.others, 1, isinstance(error, Unreadable))
        before = problems.get(own.others)
        if before is not None:
            own = replace(before, files=(*before.files, error.file)[:_NAMED], count=before.count + 1)
        problems[own.others] = own
    return list(problems.values())


def judge(problems: Sequence[SampleProblem], dataset: Dataset, config: DataConfig, split: Split) -> list[str]:
    """Warnings about problems that training can skip.

    Raises:
        UserError: if it cannot, with one line per kind of problem.
    """
    total = len(once_each(dataset)[1])
    skipped = [p for p in problems if p.can_be_skipped and split == "train" and config.on_error == "skip"]
    fatal = [problem.sentence(total) for problem in problems if problem not in skipped]
    if fatal:
        raise UserError("\n".join(fatal), shared=True)
    return [f"{problem.sentence(total)} The next samples are used instead." for problem in skipped]


def once_each(dataset: Dataset) -> tuple[Dataset, Indices]:
    """The dataset below views that repeat or replace samples, and the samples of it that are used."""
    numbers = numpy.arange(len(dataset))
    while isinstance(dataset, SkipUnreadable | Subset):
        if isinstance(dataset, Subset):
            numbers = numpy.unique(dataset.indices[numbers])
        dataset = dataset.dataset
    return dataset, numbers


def spread(numbers: Indices, most: int) -> Indices:
    """At most `most` of them, evenly spread, including the first and the last."""
    if len(numbers) <= most:
        return numbers
    return numbers[numpy.linspace(0, len(numbers) - 1, most).astype(numpy.int64)]


def _missing_files(dataset: Dataset, numbers: Indices) -> Iterator[BadSample]:
    assert hasattr(dataset, "files")
    for number in numbers.tolist():
        for file in dataset.files(number):
            if not os.path.exists(file):
                yield unreadable(file, "there is no such file")


class _Problems(torch.utils.data.Dataset[BadSample | None]):
    """The problem of each sample, or None."""

    def __init__(self, dataset: Dataset):
        self._dataset = dataset

    def __getitem__(self, number: int) -> BadSample | None:
        try:
            self._dataset[number]
        except BadSample as error:
            return error
        return None

    __call__ = __getitem__


def _every_sample(
    dataset: Dataset, numbers: Indices, workers: int, beat: Callable[[], None], progress: str | None
) -> Iterator[BadSample]:
    batches = [numbers[i : i + _TOGETHER].tolist() for i in range(0, len(numbers), _TOGETHER)]
    loader: DataLoader[Any] = DataLoader(
        _Problems(dataset),
        batch_sampler=batches,
        collate_fn=list,
        **in_processes(workers),
    )
    told, done = 0.0, 0
    for some in started(loader):
        beat()
        done += len(some)
        if progress is not None and sys.stderr.isatty() and (time.monotonic() - told > 0.5 or done == len(numbers)):
            told = time.monotonic()
            end = "\n" if done == len(numbers) else ""
            print(f"\r{progress}: {done} of {len(numbers)} samples checked", end=end, file=sys.stderr, flush=True)
        yield from (error for error in some if error is not None)
