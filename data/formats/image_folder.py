"""`image_folder`: one folder per class. `ROOT/SPLIT/CLASS/**/*.jpg`; `ROOT/CLASS/**/*.jpg` if the split is divided."""

import os
from collections.abc import Sequence
from pathlib import Path

import numpy

from phalanx.configs.errors import UserError
from phalanx.configs.sections.data import DataConfig
from phalanx.data.files.same_name import composed
from phalanx.data.files.split_names import spellings
from phalanx.data.files.string_array import StringArray
from phalanx.data.files.text_file import shown
from phalanx.data.files.values import has_control
from phalanx.data.files.walking import files_below, is_left_by_programs, not_read
from phalanx.data.formats.labelled import LabelledImages
from phalanx.data.images.image_formats import SUFFIXES, is_image_name

_TRAINING = {"train", "training", "trn"}
_OTHER_SPLITS = {"val", "valid", "validation", "test", "testing", "tst", "dev", "eval", "holdout"}
_NAMED = 10  # class folders that a message names


def open_split(config: DataConfig, split: str) -> LabelledImages:
    """The images of a split, by class, in the order of their names.

    Classes are the folders of the training split, sorted. Another split may lack some of them, which its notes report.

    Raises:
        UserError: if a folder is missing, a class of the training split has no images, or another split has further classes.
    """
    assert config.root is not None
    folder, training = (_folder(config, name) for name in (split, config.train_split))
    classes = _class_folders(training)
    _refuse_nested(training, classes)
    found_here = _class_folders(folder) if folder != training else classes
    alike = {composed(name): name for name in found_here}
    own = {name: alike[composed(name)] for name in classes if composed(name) in alike}
    _refuse_further_classes(folder, [name for name in found_here if name not in own.values()], training)
    arrays = config.mode == "bands"
    names: list[str] = []
    targets: list[int] = []
    others: list[str] = []
    empty: list[str] = []
    for number, name in enumerate(classes):
        found: list[str] = []
        for file in files_below(folder / own[name]) if name in own else ():
            (found if is_image_name(os.path.basename(file), arrays) else others).append(file)
        if not found and name in own:
            empty.append(name)
        names += (os.path.join(own[name], image) for image in sorted(found))
        targets += [number] * len(found)
    if empty and folder == training:
        why = " ".join(not_read(folder / empty[0], files_below(folder / empty[0])))
        raise UserError(
            f"{folder / empty[0]}: this class has no images ({', '.join(SUFFIXES[:3])}, ...). Add some, or remove the folder."
            f"{f' {why}' if why else ''}"
        )
    notes = [*_lacking(folder, [name for name in classes if name not in own], training), *_without_images(folder, empty)]
    notes += [*_of_no_class(folder), *not_read(folder, others)]
    return LabelledImages(config, folder, StringArray.of(names), classes, numpy.array(targets, numpy.int64), tuple(notes))


def _folder(config: DataConfig, split: str) -> Path:
    """The folder of a split: `ROOT/SPLIT`; `ROOT` itself if there is none, and a split of it is configured."""
    assert config.root is not None
    for name in spellings(split):
        if Path(config.root, name).is_dir():
            return Path(config.root, name)
    folder = Path(config.root, split)
    if config.val_fraction is not None or config.fold is not None:
        return Path(config.root)
    below = next((entry for entry in _folders(config.root) if Path(config.root, entry, split).is_dir()), None)
    if below is not None:
        nearer = Path(config.root, below)
        raise UserError(f"{folder}: there is no such folder, but there is {nearer / split}. Set data.root={nearer}.")
    key = "train_split" if split == config.train_split else "val_split"
    there = _folders(config.root)
    raise UserError(
        f"{folder}: there is no such folder. Set data.{key} to the name of one in {config.root} "
        f"({_listed(there) or 'there is none'}), or data.val_fraction to hold out a share."
    )


def _may_be_a_class(entry: "os.DirEntry[str]") -> bool:
    """Whether it is a folder that is neither a program's own nor a link to a parent folder."""
    if not os.path.isdir(entry) or is_left_by_programs(entry.name):  # entry.is_dir() raises for a link to itself
        return False
    above = os.path.join(os.path.realpath(os.path.dirname(entry.path)), "")
    return not (entry.is_symlink() and above.startswith(os.path.join(os.path.realpath(entry.path), "")))


def _folders(folder: str | Path) -> list[str]:
    return sorted(entry.name for entry in os.scandir(folder) if _may_be_a_class(entry))


def _class_folders(folder: Path) -> tuple[str, ...]:
    found = tuple(_folders(folder))
    if not found:
        raise UserError(f"{folder}: there are no folders in it. Put the images of each class into a folder of its name.")
    if odd := next((name for name in found if has_control(name)), None):
        raise UserError(f"{folder}: the name of its folder {shown(odd)} has a control character. Rename it.")
    if len({composed(name) for name in found}) < len(found):
        raise UserError(f"{folder}: two of its folders have the same name, except for how accents are stored. Merge them.")
    spelt = {name.casefold() for name in found}
    if spelt & _TRAINING and spelt & _OTHER_SPLITS and spelt <= _TRAINING | _OTHER_SPLITS:
        training = next(name for name in found if name.casefold() in _TRAINING)
        raise UserError(
            f"{folder}: its folders {_listed(found)} have the names of splits, not of classes. "
            f"Set data.root={folder} and data.train_split={training}, and data.val_split to another or data.val_fraction."
        )
    return found


def _refuse_nested(folder: Path, classes: Sequence[str]) -> None:
    """Refuses a split whose only folder holds folders instead of images, as after unpacking some archives."""
    if len(classes) > 1:
        return
    inside = folder / classes[0]
    below = _folders(inside)
    if len(below) > 1 and not _images_in(inside):
        raise UserError(
            f"{folder}: its only folder is {classes[0]}, and the folders {_listed(below)} are in that one. "
            f"Move them to {folder}."
        )


def _images_in(folder: Path) -> int:
    return sum(is_image_name(entry.name) and os.path.isfile(entry.path) for entry in os.scandir(folder))


def _of_no_class(folder: Path) -> list[str]:
    count = _images_in(folder)
    return [f"{folder}/ has {count} images beside its class folders, which have no class and are left out."] if count else []


def _refuse_further_classes(folder: Path, further: Sequence[str], training: Path) -> None:
    further = [name for name in further if any(is_image_name(os.path.basename(file)) for file in files_below(folder / name))]
    if further:
        raise UserError(
            f"{folder}/ has {_counted(further)} that {training}/ lacks: {_listed(further)}. "
            "Classes are those of the training split: add images of these to it, or remove them here."
        )


def _lacking(folder: Path, missing: Sequence[str], training: Path) -> list[str]:
    if not missing:
        return []
    return [f"{folder}/ lacks {_counted(missing)} that {training.name}/ has: {_listed(missing)}."]


def _without_images(folder: Path, empty: Sequence[str]) -> list[str]:
    return [f"{folder}/ has {_counted(empty)} without images: {_listed(empty)}."] if empty else []


def _counted(names: Sequence[str]) -> str:
    return f"{len(names)} class folder{'' if len(names) == 1 else 's'}"


def _listed(names: Sequence[str]) -> str:
    return ", ".join(names[:_NAMED]) + (", ..." if len(names) > _NAMED else "")
