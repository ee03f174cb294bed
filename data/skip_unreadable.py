"""`data.on_error=skip`: training goes on without the images that cannot be read, the same on any number of ranks."""

import mmap
import sys
from typing import Any

from phalanx.data import dataset_info
from phalanx.data.bad_sample import Unreadable
from phalanx.data.dataset import Dataset


class SkipUnreadable(dataset_info.DatasetView):
    """A dataset in which the next sample that can be read stands for one that cannot.

    The place keeps its id: the ledger tells the sample that was drawn, and augmentation is drawn for it. Which sample takes its
    place follows from the files alone, so it is the same on every rank, in every epoch and after a resume.
    """

    def __init__(self, dataset: Dataset):
        super().__init__(dataset)
        # A byte a sample, shared with the loader processes, which are forked: what was met by any of them is known to all.
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
        """Numbers of the samples that could not be read, so far, by this process and its loader processes."""
        content, found, start = self._met[:], [], -1
        while (start := content.find(1, start + 1)) >= 0:
            found.append(start)
        return found
