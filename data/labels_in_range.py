"""Labels of a user's own dataset, held against the network's classes while samples are loaded.

The built-in formats check theirs as they read them. On a GPU a label out of range is an assertion of a kernel, which ends the
process later and names neither sample nor label. Here the check costs a pass over stored masks, in the loader processes.
"""

from typing import Any, NoReturn

import numpy
from numpy.typing import NDArray

from phalanx.data import dataset_info
from phalanx.data.bad_sample import bad
from phalanx.data.dataset import Dataset


class LabelsInRange(dataset_info.DatasetView):
    """A dataset that refuses samples with labels that the network does not have.

    Args:
        classes: number of the network's classes.
        ignored: the number of ignored pixels in masks.
    """

    def __init__(self, dataset: Dataset, classes: int, ignored: int):
        super().__init__(dataset)
        self._classes, self._ignored = classes, ignored

    def __getitem__(self, index: int) -> dict[str, Any]:
        """
        Raises:
            BadSample: naming the sample, a label out of range, and the range.
        """
        sample: dict[str, Any] = self.dataset[index]
        if "mask" in sample and (found := self._in_mask(numpy.asarray(sample["mask"]))) is not None:
            self._refuse(index, f"a pixel of its mask has the class {found}", f", {self._ignored} and below 0 to be ignored")
        if "labels" in sample and (found := self._of_objects(sample)) is not None:
            self._refuse(index, f"an object has the class {found}", "")
        if "target" in sample and (found := self._of_image(numpy.asarray(sample["target"]))) is not None:
            self._refuse(index, f"its target is the class {found}", ", below 0 to be ignored")
        return sample

    def _in_mask(self, mask: NDArray[Any]) -> int | None:
        """A class of a pixel that is out of range, if any. Negative numbers are ignored, like `ignored`."""
        if mask.size == 0 or (largest := int(mask.max())) < self._classes:
            return None
        if largest != self._ignored:
            return largest
        wrong = mask[(mask >= self._classes) & (mask != self._ignored)]
        return int(wrong[0]) if wrong.size else None

    def _of_objects(self, sample: dict[str, Any]) -> int | None:
        labels = numpy.asarray(sample["labels"])
        learnt = ~numpy.asarray(sample["crowd"]) if "crowd" in sample else numpy.ones(labels.shape, bool)
        wrong = labels[learnt & ((labels < 0) | (labels >= self._classes))]
        return int(wrong[0]) if wrong.size else None

    def _of_image(self, target: NDArray[Any]) -> int | None:
        """Several labels are floating point numbers, each in its own place."""
        return int(target) if target.ndim == 0 and target.dtype.kind in "iu" and target >= self._classes else None

    def _refuse(self, index: int, problem: str, ignored: str) -> NoReturn:
        file = self.path(index)
        name = f"sample {index}" if file == f"sample {index}" else f"sample {index} ({file})"
        raise bad(
            name,
            f"{problem}, but the network has {self._classes} classes (0 to {self._classes - 1}{ignored})",
            "Correct the dataset, name the class in its `classes`, or set data.ignore_index.",
            "{count} of {total} samples have labels out of range",
        )
