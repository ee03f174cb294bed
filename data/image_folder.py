"""`image_folder`: a folder a class. `ROOT/SPLIT/CLASS/**/*.jpg`; `ROOT/CLASS/**/*.jpg` where the split is divided."""

import os
from pathlib import Path

import numpy

from phalanx.configs.data import DataConfig
from phalanx.configs.errors import UserError
from phalanx.data.image_formats import SUFFIXES, is_image_name
from phalanx.data.labelled import LabelledImages
from phalanx.data.names import Names


def open_split(config: DataConfig, split: str) -> LabelledImages:
    """The images of a split, class after class, in the order of their names.

    Classes are the folders of the training split, sorted.

    Raises:
        UserError: where a folder is missing or has no images, or a split has other classes than the training split.
    """
    assert config.root is not None
    folder, training = (_folder(config, name) for name in (split, config.train_split))
    classes = _class_folders(training)
    if folder != training:
        _check_same_classes(folder, _class_folders(folder), training, classes)
    names: list[str] = []
    targets: list[int] = []
    for number, name in enumerate(classes):
        found = sorted(_images_below(folder / name))
        if not found:
            raise UserError(
                f"{folder / name}: this class has no images ({', '.join(SUFFIXES[:3])}, ...). Add some, or remove the folder."
            )
        names += (os.path.join(name, image) for image in found)
        targets += [number] * len(found)
    return LabelledImages(config, folder, Names.of(names), classes, numpy.array(targets, numpy.int64))


def _folder(config: DataConfig, split: str) -> Path:
    """The folder of a split: `ROOT/SPLIT`; `ROOT` itself where there is none, and what to hold out is said elsewhere."""
    assert config.root is not None
    folder = Path(config.root, split)
    if folder.is_dir():
        return folder
    if config.val_fraction is not None or config.fold is not None:
        return Path(config.root)
    key = "train_split" if split == config.train_split else "val_split"
    raise UserError(
        f"{folder}: there is no such folder. Set data.{key} to the name of one in {config.root}, "
        "or data.val_fraction to hold out a share."
    )


def _class_folders(folder: Path) -> tuple[str, ...]:
    found = tuple(sorted(e.name for e in os.scandir(folder) if e.is_dir() and not e.name.startswith(".")))
    if not found:
        raise UserError(f"{folder}: there are no folders in it. Put the images of each class into a folder of its name.")
    return found


def _check_same_classes(folder: Path, found: tuple[str, ...], training: Path, classes: tuple[str, ...]) -> None:
    for one, its, other, others in ((folder, found, training, classes), (training, classes, folder, found)):
        missing = sorted(set(others) - set(its))
        if missing:
            more = f" and {len(missing) - 1} more" if len(missing) > 1 else ""
            raise UserError(
                f"{one / missing[0]}: there is no such folder{more}, but {other} has it. Both splits need the same classes."
            )


def _images_below(folder: Path) -> list[str]:
    """Names of the images in a folder and the folders in it, relative to it."""
    return [
        os.path.join(os.path.relpath(place, folder), name) if place != str(folder) else name
        for place, _, files in os.walk(folder, followlinks=True)
        for name in files
        if is_image_name(name)
    ]
