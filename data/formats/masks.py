"""`masks`: images, and masks of class indices with the same names.

`ROOT/images/SPLIT/*.jpg` and `ROOT/masks/SPLIT/*.png`, or a list `ROOT/SPLIT.csv` of lines `image,mask`; and
`ROOT/classes.txt`, the names of the classes, one per line, from 0. If the split is divided by `data.val_fraction` or
`data.fold`, the folders `ROOT/images` and `ROOT/masks` may hold the files themselves.
"""

import os
from pathlib import Path

from phalanx.configs.errors import UserError
from phalanx.configs.sections.data import DataConfig
from phalanx.data.files.class_names import read_class_names
from phalanx.data.files.ignored_class import Learnt, hint, learnt
from phalanx.data.files.same_name import composed
from phalanx.data.files.split_names import spellings
from phalanx.data.files.string_array import StringArray
from phalanx.data.files.walking import files_below, not_read
from phalanx.data.formats.image_list import list_file, read_list
from phalanx.data.formats.masked import MaskedImages, plain_meaning
from phalanx.data.images.image_formats import is_image_name


def open_split(config: DataConfig, split: str) -> MaskedImages:
    """The pairs of a split: of a list in its order, else sorted by name.

    Raises:
        UserError: if a file or folder is missing.
    """
    root = Path(config.root or "")
    classes = read_class_names(root)
    if classes is None:
        raise UserError(f"{root / 'classes.txt'}: there is no such file. Write the names of the classes, one per line, from 0.")
    if list_file(config, split).is_file():
        images, masks = _listed(list_file(config, split))
    else:
        images, masks = _paired(config, root, split)
    found = learnt(classes, config.ignore_index)
    meaning = plain_meaning(classes, found, config.ignore_index)
    return MaskedImages(
        config, root, images, masks, found.classes, meaning, (*_notes(config, classes, found), *_not_read(root))
    )


def _not_read(root: Path) -> list[str]:
    """A message, if there are images in unsupported formats."""
    folder = root / "images"
    return not_read(folder, files_below(folder)) if folder.is_dir() else []


def _notes(config: DataConfig, classes: tuple[str, ...], found: Learnt) -> list[str]:
    if found.named is None:
        return hint(classes)
    return [
        f"data.ignore_index={config.ignore_index} is the class {found.named}: its pixels are ignored, and the other "
        f"{len(found.classes)} classes are learnt."
    ]


def _listed(path: Path) -> tuple[StringArray, StringArray]:
    lines = read_list(path)
    return lines.names, StringArray.of(lines.words[number] for number in lines.numbers.tolist())


def _paired(config: DataConfig, root: Path, split: str) -> tuple[StringArray, StringArray]:
    arrays = config.mode == "bands"
    images, masks = (_by_stem(_folder(config, root / what, split), arrays and what == "images") for what in ("images", "masks"))
    if not images:
        raise UserError(f"{root / 'images' / split}: there are no images in it. Add some, or name another split.")
    alone = sorted(set(images) ^ set(masks))
    if alone:
        has, lacks = ("image", "mask") if alone[0] in images else ("mask", "image")
        file = images.get(alone[0]) or masks[alone[0]]
        raise UserError(
            f"{file}: this {has} has no {lacks} of the same name. {len(alone)} files are alone. "
            "Add what is missing, or remove them."
        )
    stems = sorted(images)
    image_names, mask_names = (
        StringArray.of(str(found[stem].relative_to(root)) for stem in stems) for found in (images, masks)
    )
    return image_names, mask_names


def _folder(config: DataConfig, folder: Path, split: str) -> Path:
    for name in spellings(split):
        if (folder / name).is_dir():
            return folder / name
    if folder.is_dir() and (config.val_fraction is not None or config.fold is not None):
        return folder
    raise UserError(f"{folder / split}: there is no such folder. Set data.train_split and data.val_split to those in {folder}.")


def _by_stem(folder: Path, arrays: bool = False) -> dict[str, Path]:
    """The images of a folder and its subfolders, by name without suffix."""
    found: dict[str, Path] = {}
    for name in sorted(files_below(folder)):
        if not is_image_name(os.path.basename(name), arrays):
            continue
        stem = composed(os.path.splitext(name)[0])
        if stem in found:
            raise UserError(f"{folder / name}: {found[stem].name} has the same name except for the suffix. Remove one of them.")
        found[stem] = folder / name
    return found
