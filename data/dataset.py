"""What a dataset is, and which there are by name. No torch at import, so that names can be checked at once."""

import difflib
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol

from phalanx.configs import nearest, places
from phalanx.configs.data import DataConfig
from phalanx.configs.errors import UserError
from phalanx.configs.own_code import check as check_own
from phalanx.configs.own_code import is_own, load_ours, load_own, refuse_half

if TYPE_CHECKING:
    from torch import Tensor

Split = Literal["train", "val"]
Kind = Literal["classification", "multilabel", "segmentation", "detection"]

DATASETS = {
    "digits": "phalanx.data.digits:Digits",
    "mnist": "phalanx.data.mnist:MNIST",
    "fashion_mnist": "phalanx.data.mnist:FashionMNIST",
    "cifar10": "phalanx.data.cifar:CIFAR10",
    "cifar100": "phalanx.data.cifar:CIFAR100",
    "image_folder": "phalanx.data.image_folder:open_split",
    "list": "phalanx.data.image_list:open_split",
    "masks": "phalanx.data.masks:open_split",
    "voc": "phalanx.data.voc:open_split",
    "cityscapes": "phalanx.data.cityscapes:open_split",
    "ade20k": "phalanx.data.ade20k:open_split",
    "coco": "phalanx.data.coco:open_split",
    "yolo": "phalanx.data.yolo:open_split",
    "shapes": "phalanx.data.shapes:Shapes",
}
_WITHOUT_FILES = {"digits", "shapes"}
_READ_IN_ANY_MODE = {"image_folder", "list", "masks", "voc", "cityscapes", "ade20k", "coco", "yolo"}
_WITH_OPTIONS = {"shapes", "coco", "voc"}


class Dataset(Protocol):
    """A split of a dataset. Ours are made by `(config, name of the split)`, a user's own by `(root, name, **options)`.

    Attributes:
        classes: their names, in the order of their numbers.
        channels: of an image.
        mean, std: of each channel over the training split, for pixels between 0 and 1.

    A dataset may have more, which `phalanx.data.facts` reads:
        kind: what a sample holds, "classification" where there is none.
        labels: int64 `[samples]`, the class of each sample (classification).
        class_counts(): samples a class (multilabel), pixels (segmentation) or boxes (detection).
        counts_of(i): of one sample, int64 `[classes]` (segmentation, detection).
        sizes: int32 `[samples, 2]`, height and width of each image, where they are known without reading it (detection).
        path(i): the file of a sample, for messages.
        sample_names(): the name of each sample, in their order, by which a resume knows whether they are still the same.
        has_masks: whether samples have `masks` (detection).
        image_id(i), category_ids: ids of images and classes in files of others, for results in COCO's format (detection).
        ignored: the number, in masks, of pixels that count for nothing, where that is not `data.ignore_index`.
        notes: sentences about what was left out of it.
    """

    classes: tuple[str, ...]
    channels: int
    mean: tuple[float, ...]
    std: tuple[float, ...]

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> "dict[str, Tensor | int]":
        """`image`, `[channels, H, W]`: float32 between 0 and 1, or uint8 or uint16 over their whole range; and one of

        - `target`: the class; or float32 `[classes]` of 0 and 1, several labels;
        - `mask`: uint8 or int64 `[H, W]`, the class of each pixel, or `data.ignore_index`;
        - `boxes`: float32 `[n, 4]`, left, top, right, bottom in pixels, with `labels`, int64 `[n]`, and maybe `masks`,
          bool `[n, H, W]`; `crowd`, bool `[n]`, of those that are not learnt and excuse detections; `area`, float64 `[n]`, as
          it was annotated.
        """
        ...


def check_name(config: DataConfig) -> None:
    """Whether the dataset exists, and takes the options that it is given.

    Raises:
        UserError: saying what to change.
    """
    if is_own(config.name):
        check_own("data.name", config.name)
    elif config.name not in DATASETS:
        refuse_half("data.name", config.name)
        near = difflib.get_close_matches(config.name, DATASETS, n=1, cutoff=0.7)
        hint = f" Did you mean {near[0]}?" if near else f" There are: {', '.join(DATASETS)}; your own is ./file.py:Class."
        raise UserError(f"data.name={config.name}: there is no such dataset.{nearest.value('data.name', config.name) or hint}")
    elif config.options and config.name not in _WITH_OPTIONS:
        takes = ", ".join(sorted(_WITH_OPTIONS))
        raise UserError(f"data.options are for {takes} and for a dataset of your own; {config.name} takes none. Remove them.")


def check(config: DataConfig) -> None:
    """The same, and whether its folder is there and not empty; nothing is read.

    Raises:
        UserError: saying what to change.
    """
    check_name(config)
    if config.root is None:
        if not is_own(config.name) and config.name not in _WITHOUT_FILES:
            raise UserError(f"data.name={config.name} reads files, but data.root is not set. Set data.root=FOLDER.")
        return
    root = Path(config.root)
    if not root.is_dir():
        raise UserError(f"data.root={config.root}: there is no such folder{places.beginning(root)}. Check the path.")
    if not any(root.iterdir()):
        raise UserError(f"data.root={config.root}: the folder is empty. Put the files of {config.name} there, or name another.")


def open_split(config: DataConfig, split: Split, seed: int = 0) -> Dataset:
    """The training or the validation split of the configured dataset.

    Args:
        seed: the recipe's, on which depends what is held out by `data.val_fraction` and `data.fold`.

    Raises:
        UserError: where its files are missing or broken, or it has no samples.
    """
    check(config)
    from phalanx.data import splits
    from phalanx.data.modes import InMode
    from phalanx.data.skipping import Skipping

    divided = config.val_fraction is not None or config.fold is not None
    name = config.train_split if split == "train" or divided else config.val_split
    dataset = _opened(config, name)
    if len(dataset) == 0:
        raise UserError(f"data.name={config.name}: the split {name!r} has no samples. Check data.root={config.root}.")
    if config.mode != "auto" and config.name not in _READ_IN_ANY_MODE:
        dataset = InMode(dataset, config.mode)
    if divided:
        dataset = splits.part(dataset, config, split, seed)
    if split == "train" and config.sampling == "class_balanced":
        dataset = splits.evened(dataset, config, seed)
    if split == "train" and config.on_error == "skip":
        dataset = Skipping(dataset)
    return dataset


def _opened(config: DataConfig, name: str) -> Dataset:
    """A split as it is on the disk."""
    dataset: Dataset
    if is_own(config.name):
        own: Any = load_own("data.name", config.name)
        dataset = own(config.root, name, **config.options)
    else:
        dataset = load_ours(DATASETS[config.name])(config, name)
    return dataset
