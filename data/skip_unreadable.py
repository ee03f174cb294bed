"""`data.on_error=skip`: training continues without unreadable images, the same on any number of ranks."""

import mmap
import sys
from typing import Any

from phalanx.data import dataset_info
from phalanx.data.bad_sample import Unreadable
from phalanx.data.dataset import Dataset


class SkipUnreadable(dataset_info.DatasetView):
    """A dataset in which the next readable sample replaces an unreadable one.

    The place keeps its id: the ledger records the sample that was drawn, and augmentation is drawn for it. Which sample
    replaces it depends only on the files, so it is the same on every rank, in every epoch and after a resume.
    """

    def __init__(self, dataset: Dataset):
        super().__init__(dataset)
        # One byte per sample, shared with the forked loader processes: a sample found by any of them is known to all.
        self._met = mmap.mmap(-1, len(dataset))

    def __getitem__(self, index: int) -> dict[str, Any]:
        for place in range(index, index + len(self)):
            number = place % len(self)
            try:
                return self.dataset[number]
            except Unreadable as error:
                self._say(number, error)
                last = error
        raise last

    def _say(self, number: int, error: Unreadable) -> None:
        if not self._met[number]:
            self._met[number] = 1
            print(f"phalanx: {error.file}: {error.problem}; the next sample is used instead", file=sys.stderr, flush=True)

    def met(self) -> list[int]:
        """Numbers of the samples that this process and its loader processes could not read so far."""
        content, found, start = self._met[:], [], -1
        while (start := content.find(1, start + 1)) >= 0:
            found.append(start)
        return found
