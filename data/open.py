"""The table of datasets by name, and opening a split of one. No torch at import, so that names are checked fast."""

import difflib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from phalanx.configs import places
from phalanx.configs.errors import UserError
from phalanx.configs.messages import nearest
from phalanx.configs.own_code import check as check_own
from phalanx.configs.own_code import is_own, load_ours, load_own, refuse_half
from phalanx.configs.sections.data import DataConfig
from phalanx.data.dataset import Dataset, Split


@dataclass(frozen=True)
class DatasetFormat:
    """
    Attributes:
        opener: `module:name` of the function that opens a split, called with `(config, split)`.
        reads_files: whether it needs `data.root`.
        decodes_modes: whether it reads images in any `data.mode` by itself.
        takes_options: whether it has keys in `data.options`.
    """

    opener: str
    reads_files: bool = True
    decodes_modes: bool = False
    takes_options: bool = False


_HERE = "phalanx.data.formats."
DATASETS = {
    "digits": DatasetFormat(_HERE + "digits:Digits", reads_files=False),
    "mnist": DatasetFormat(_HERE + "mnist:MNIST"),
    "fashion_mnist": DatasetFormat(_HERE + "mnist:FashionMNIST"),
    "cifar10": DatasetFormat(_HERE + "cifar:CIFAR10"),
    "cifar100": DatasetFormat(_HERE + "cifar:CIFAR100"),
    "image_folder": DatasetFormat(_HERE + "image_folder:open_split", decodes_modes=True),
    "list": DatasetFormat(_HERE + "image_list:open_split", decodes_modes=True),
    "masks": DatasetFormat(_HERE + "masks:open_split", decodes_modes=True),
    "voc": DatasetFormat(_HERE + "voc:open_split", decodes_modes=True, takes_options=True),
    "cityscapes": DatasetFormat(_HERE + "cityscapes:open_split", decodes_modes=True),
    "ade20k": DatasetFormat(_HERE + "ade20k:open_split", decodes_modes=True),
    "coco": DatasetFormat(_HERE + "coco:open_split", decodes_modes=True, takes_options=True),
    "yolo": DatasetFormat(_HERE + "yolo:open_split", decodes_modes=True),
    "shapes": DatasetFormat(_HERE + "shapes:Shapes", reads_files=False, takes_options=True),
}


def check_name(config: DataConfig) -> None:
    """Checks that the dataset exists, and takes the given options.

    Raises:
        UserError: with what to change.
    """
    if is_own(config.name):
        check_own("data.name", config.name)
    elif config.name not in DATASETS:
        refuse_half("data.name", config.name)
        near = difflib.get_close_matches(config.name.lower(), DATASETS, n=1, cutoff=0.7)
        hint = f" Did you mean {near[0]}?" if near else f" There are: {', '.join(DATASETS)}; your own is ./file.py:Class."
        raise UserError(f"data.name={config.name}: there is no such dataset.{nearest.value('data.name', config.name) or hint}")
    elif config.options and not DATASETS[config.name].takes_options:
        takes = ", ".join(sorted(name for name, known in DATASETS.items() if known.takes_options))
        raise UserError(f"data.options are for {takes} and for your own dataset; {config.name} takes none. Remove them.")


def reads_images(config: DataConfig) -> bool:
    """Whether the dataset reads image files, which may have any size."""
    return not is_own(config.name) and DATASETS[config.name].decodes_modes


def check(config: DataConfig) -> None:
    """The same, and that its folder exists and is not empty; reads nothing.

    Raises:
        UserError: with what to change.
    """
    check_name(config)
    if config.root is None:
        if not is_own(config.name) and DATASETS[config.name].reads_files:
            raise UserError(f"data.name={config.name} reads files, but data.root is not set. Set data.root=FOLDER.")
        return
    root = Path(config.root)
    if is_own(config.name) and root.is_file():
        return
    if not root.is_dir():
        raise UserError(f"data.root={config.root}: there is no such folder{places.beginning(root)}. Check the path.")
    if not any(root.iterdir()):
        raise UserError(f"data.root={config.root}: the folder is empty. Put the files of {config.name} there, or name another.")


def open_split(config: DataConfig, split: Split, seed: int = 0) -> Dataset:
    """The training or the validation split of the configured dataset.

    Args:
        seed: the recipe's, which determines what `data.val_fraction` and `data.fold` hold out.

    Raises:
        UserError: if its files are missing or broken, or it has no samples.
    """
    check(config)
    from phalanx.data import splits
    from phalanx.data.images.modes import InMode
    from phalanx.data.skip_unreadable import SkipUnreadable

    divided = config.val_fraction is not None or config.fold is not None
    name = config.train_split if split == "train" or divided else config.val_split
    dataset = _opened(config, name)
    if len(dataset) == 0:
        raise UserError(f"data.name={config.name}: the split {name!r} has no samples. Check data.root={config.root}.")
    if config.mode != "auto" and config.mode != "bands" and (is_own(config.name) or not DATASETS[config.name].decodes_modes):
        dataset = InMode(dataset, config.mode)
    if divided:
        dataset = splits.part(dataset, config, split, seed)
    if split == "train" and config.without_objects == "leave_out":
        dataset = splits.with_objects(dataset)
    if split == "train" and config.sampling == "class_balanced":
        dataset = splits.resampled(dataset, config, seed)
    if split == "train" and config.on_error == "skip":
        dataset = SkipUnreadable(dataset)
    return dataset


def _opened(config: DataConfig, name: str) -> Dataset:
    """A split as it is on disk."""
    dataset: Dataset
    if is_own(config.name):
        own: Any = load_own("data.name", config.name)
        dataset = _described(own(config.root, name, **config.options))
    else:
        dataset = load_ours(DATASETS[config.name].opener)(config, name)
    return dataset


def _described(dataset: Any) -> Dataset:
    """A user's own dataset, with those attributes that it leaves out."""
    from phalanx.data import dataset_info

    if not hasattr(dataset, "classes"):
        dataset.classes = ()
        if not hasattr(dataset, "kind"):
            dataset.kind = "regression"
    if not hasattr(dataset, "channels"):
        image = dataset[0].get("image") if len(dataset) else None
        dataset.channels = 0 if image is None else len(image)
    if not (hasattr(dataset, "mean") and hasattr(dataset, "std")):
        dataset.mean, dataset.std = dataset_info.default_statistics(dataset.channels)
    described: Dataset = dataset
    return described
