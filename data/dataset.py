"""What a dataset is, and which there are by name. No torch at import, so that names can be checked at once."""

import difflib
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol

from phalanx.configs.errors import UserError
from phalanx.configs.own_code import check as check_own
from phalanx.configs.own_code import is_own, load_ours, load_own
from phalanx.configs.schema import DataConfig

if TYPE_CHECKING:
    from torch import Tensor

Split = Literal["train", "val"]

DATASETS = {
    "digits": "phalanx.data.digits:Digits",
    "fashion_mnist": "phalanx.data.fashion_mnist:FashionMNIST",
}
_NEEDS_ROOT = {"fashion_mnist"}


class Dataset(Protocol):
    """A split of a dataset; its constructor takes `(root, split)`.

    Attributes:
        classes: their names, in the order of their numbers.
        channels: of an image.
        mean, std: of each channel over the training split, for pixels between 0 and 1.
    """

    classes: tuple[str, ...]
    channels: int
    mean: tuple[float, ...]
    std: tuple[float, ...]

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> "dict[str, Tensor | int]":
        """`image` is float32 `[channels, H, W]` between 0 and 1; `target` is what the task learns from it."""
        ...


def check(config: DataConfig) -> None:
    """Whether the dataset exists and its folder is there and not empty; nothing is read.

    Raises:
        UserError: saying what to change.
    """
    if is_own(config.name):
        check_own("data.name", config.name)
    elif config.name not in DATASETS:
        near = difflib.get_close_matches(config.name, DATASETS, n=1, cutoff=0.4)
        hint = f"Did you mean {near[0]}?" if near else f"There are: {', '.join(DATASETS)}; your own is ./file.py:Class."
        raise UserError(f"data.name={config.name}: there is no such dataset. {hint}")
    if config.root is None:
        if config.name in _NEEDS_ROOT:
            raise UserError(f"data.name={config.name} reads files, but data.root is not set. Set data.root=FOLDER.")
        return
    root = Path(config.root)
    if not root.is_dir():
        raise UserError(f"data.root={config.root}: there is no such folder. Check the path.")
    if not any(root.iterdir()):
        raise UserError(f"data.root={config.root}: the folder is empty. Put the files of {config.name} there, or name another.")


def open_split(config: DataConfig, split: Split) -> Dataset:
    """The training or the validation split of the configured dataset.

    Raises:
        UserError: where its files are missing or broken, or it has no samples.
    """
    check(config)
    kind: Any = load_own("data.name", config.name) if is_own(config.name) else load_ours(DATASETS[config.name])
    dataset: Dataset = kind(config.root, split)
    if len(dataset) == 0:
        raise UserError(f"data.name={config.name}: the split {split!r} has no samples. Check data.root={config.root}.")
    return dataset
