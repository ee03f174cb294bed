"""Whether a split still holds the same samples: by their number, and digests of names, classes and objects, not of images."""

import hashlib
from dataclasses import dataclass

import numpy

from phalanx.data import dataset_info, fingerprints
from phalanx.data.dataset import Dataset


@dataclass(frozen=True)
class Identity:
    """A split's samples, in their order.

    Attributes:
        samples: their number.
        names: digest of their names; None if the dataset has none.
        labels: digest of the class of each; None if unknown, or if a sample does not have one class.
        annotations: digest of the labels of each, where it may have several, or of its objects; None where the dataset does not
            tell, and in what runs of before have recorded.
    """

    samples: int
    names: str | None = None
    labels: str | None = None
    annotations: str | None = None

    def difference(self, now: "Identity") -> str | None:
        """How the samples have changed; None if they have not, as far as both are known."""
        if now.samples != self.samples:
            return f"{now.samples:,} samples instead of {self.samples:,}"
        if None not in (self.names, now.names) and now.names != self.names:
            return f"as many samples as before, {now.samples:,}, but with other names or in another order"
        if None not in (self.labels, now.labels) and now.labels != self.labels:
            return f"the same {now.samples:,} samples, but some are of another class"
        if None not in (self.annotations, now.annotations) and now.annotations != self.annotations:
            return f"the same {now.samples:,} samples, but some have other labels, boxes or masks"
        return None


def identity(dataset: Dataset) -> Identity:
    """The identity of a split as it is read now."""
    names, labels = dataset_info.sample_names(dataset), dataset_info.labels(dataset)
    annotations = dataset_info.fingerprints(dataset)
    return Identity(
        len(dataset),
        None if names is None else names.digest(),
        None if labels is None else hashlib.blake2b(numpy.asarray(labels).astype("<i8").tobytes(), digest_size=16).hexdigest(),
        None if annotations is None else fingerprints.digest(annotations),
    )
