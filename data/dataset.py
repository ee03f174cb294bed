"""The interface of a dataset. No torch at import, so that names are checked fast."""

from typing import TYPE_CHECKING, Literal, Protocol

if TYPE_CHECKING:
    from torch import Tensor

Split = Literal["train", "val"]
Kind = Literal["classification", "multilabel", "segmentation", "detection", "regression"]


class Dataset(Protocol):
    """A split of a dataset. Built-in ones are called with `(config, split)`, a user's own with `(root, split, **options)`.

    A user's own may leave out all attributes: without classes it is for regression, or for a task of theirs.

    Attributes:
        classes: their names, in the order of their numbers.
        channels: number of an image's channels.
        mean, std: of each channel over the training split, for pixels between 0 and 1.

    A dataset may have more, which `phalanx.data.dataset_info` reads:
        kind: what a sample holds, by default "classification".
        labels: int64 `[samples]`, the class of each sample (classification).
        class_counts(): samples per class (multilabel), pixels (segmentation) or boxes (detection).
        counts_of(i): of one sample, int64 `[classes]` (segmentation, detection).
        sizes: int32 `[samples, 2]`, height and width of each image, if known without reading it (detection).
        path(i): the file of a sample, for messages.
        sample_names(): the name of each sample, in their order, by which a resume checks that they are unchanged.
        fingerprints(): uint64 `[samples]`, of the labels or objects of each, by which a resume notices edits.
        has_masks: whether samples have `masks` (detection).
        image_id(i), category_ids: ids of images and classes in the annotation files, for results in COCO's format (detection).
        ignored: the number, in masks, of ignored pixels, if it is not `data.ignore_index`.
        notes: messages about what was left out of it.
    """

    classes: tuple[str, ...]
    channels: int
    mean: tuple[float, ...]
    std: tuple[float, ...]

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> "dict[str, Tensor | int]":
        """`image`, `[channels, H, W]`: float32 between 0 and 1, or uint8 or uint16 over their whole range. Or `input`, which
        the network gets as it is: a tensor, or a dictionary of tensors and dictionaries. And one of

        - `target`: the class; or float32 `[classes]` of 0 and 1, several labels; or, for regression, a tensor of any shape;
        - `mask`: uint8 or int64 `[H, W]`, the class of each pixel, or `data.ignore_index`;
        - `boxes`: float32 `[n, 4]`, left, top, right, bottom in pixels, with `labels`, int64 `[n]`, and optionally `masks`,
          bool `[n, H, W]`; `crowd`, bool `[n]`, of those that are not learnt and excuse detections; `area`, float64 `[n]`, as
          annotated.
        """
        ...
