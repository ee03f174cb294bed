"""In which of the formats a folder's data lies, and which splits it has: by names of files and folders alone.

`phalanx init` opens the data as it is guessed here, so that a wrong guess becomes the format's own sentence. No torch here.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from phalanx.configs.errors import UserError
from phalanx.data.images.image_formats import is_image_name

# Usual names of splits, the most usual first.
_TRAINING = ("train", "training", "train2017", "train2014", "trainval", "trn")
_VALIDATION = ("val", "valid", "validation", "val2017", "val2014", "dev", "test", "testing")
_HELD_OUT = 0.2  # of the training split, where there is no other


@dataclass(frozen=True)
class Layout:
    """How `data.*` describes a folder.

    Attributes:
        format: `data.name`.
        root: `data.root`.
        task: `task.name`.
        train, val: names of the splits; `val` is None if a share of the training split is held out.
        options: `data.options`.
        because: what was found there.
    """

    format: str
    root: Path
    task: str
    train: str
    val: str | None
    because: str
    options: dict[str, Any] = field(default_factory=dict)

    def keys(self) -> dict[str, Any]:
        """The keys of the section `data`; default values are left out."""
        found: dict[str, Any] = {"name": self.format, "root": str(self.root)}
        if self.options:
            found["options"] = self.options
        if self.train != "train":
            found["train_split"] = self.train
        if self.val is None:
            found["val_fraction"] = _HELD_OUT
        elif self.val != "val":
            found["val_split"] = self.val
        return found


def layouts(folder: Path) -> Iterator[Layout]:
    """Those that fit, the most telling first.

    Raises:
        UserError: if none does.
    """
    if not folder.is_dir():
        raise UserError(f"{folder}: there is no such folder. Give the folder of the data.")
    root, found = folder.resolve(), False
    for guess in _GUESSES:
        layout = guess(root)
        if layout is not None:
            found = True
            yield layout
    if not found:
        raise UserError(
            f"{folder}: none of the known layouts is there: folders of classes, COCO's or VOC's annotations, YOLO's labels, "
            "images and masks, a CSV list. docs/datasets.md shows each; your own dataset is data.name=./file.py:Class."
        )


def _splits(names: Sequence[str]) -> tuple[str, str | None]:
    """Which split to train on, and which to validate on."""
    train = next((name for name in _TRAINING if name in names), names[0])
    return train, next((name for name in _VALIDATION if name in names and name != train), None)


def _folders(path: Path) -> list[str]:
    if not path.is_dir():
        return []
    return sorted(entry.name for entry in path.iterdir() if entry.is_dir() and not entry.name.startswith((".", "_")))


def _cityscapes(root: Path) -> Layout | None:
    if not ((root / "leftImg8bit").is_dir() and (root / "gtFine").is_dir()):
        return None
    return Layout("cityscapes", root, "segmentation", "train", "val", "leftImg8bit/ and gtFine/")


def _ade20k(root: Path) -> Layout | None:
    for inside in (root, root / "ADEChallengeData2016"):
        if (inside / "annotations" / "training").is_dir() and (inside / "images" / "training").is_dir():
            return Layout("ade20k", inside, "segmentation", "train", "val", "images/training/ and annotations/training/")
    return None


def _coco(root: Path) -> Layout | None:
    patterns = {"annotations/instances_*.json": "instances_", "instances_*.json": "instances_", "*/_annotations.coco.json": ""}
    for pattern, prefix in patterns.items():
        files = sorted(root.glob(pattern))
        names = [file.stem.removeprefix(prefix) if prefix else file.parent.name for file in files]
        if names:
            return Layout("coco", root, "detection", *_splits(names), because=str(files[0].relative_to(root)))
    return None


def _voc(root: Path) -> Layout | None:
    inside = next(
        (path for path in (root, root / "VOC2012", root / "VOCdevkit/VOC2012") if (path / "JPEGImages").is_dir()), None
    )
    if inside is None:
        return None
    kinds = (("Main", "Annotations", "detection", "boxes"), ("Segmentation", "SegmentationClass", "segmentation", "mask"))
    for lists, labels, task, target in kinds:
        names = sorted(path.stem for path in (inside / "ImageSets" / lists).glob("*.txt") if "_" not in path.stem)
        if names and (inside / labels).is_dir():
            because = f"JPEGImages/, {labels}/ and ImageSets/{lists}/"
            return Layout("voc", inside, task, *_splits(names), because=because, options={"target": target})
    return None


def _yolo(root: Path) -> Layout | None:
    named = next((path for path in (root / "data.yaml", root / "data.yml") if path.is_file()), None)
    beside = [name for name in _folders(root) if (root / name / "labels").is_dir() and (root / name / "images").is_dir()]
    below = _folders(root / "labels") if (root / "images").is_dir() else []
    names = beside or below
    if not names and named is None:
        return None
    because = named.name if named else f"{names[0]}/labels/" if beside else f"images/ and labels/{names[0]}/"
    return Layout("yolo", root, "detection", *(_splits(names) if names else ("train", "val")), because=because)


def _masks(root: Path) -> Layout | None:
    if not ((root / "images").is_dir() and (root / "masks").is_dir()):
        return None
    names = [name for name in _folders(root / "images") if name in _folders(root / "masks")]
    splits = _splits(names) if names else ("train", None)
    return Layout("masks", root, "segmentation", *splits, because="images/ and masks/")


def _list(root: Path) -> Layout | None:
    names = sorted(path.stem for path in root.glob("*.csv"))
    if not names:
        return None
    return Layout("list", root, "classification", *_splits(names), because=f"{_splits(names)[0]}.csv")


def _image_folder(root: Path) -> Layout | None:
    names = _folders(root)
    usual = [name for name in names if name in _TRAINING + _VALIDATION]
    training = _splits(usual)[0] if any(name in _TRAINING for name in usual) else None
    classes = root / training if training else root
    having = [name for name in _folders(classes) if _has_image(classes / name)]
    if not having:
        return None
    splits = _splits(usual) if training else ("train", None)
    return Layout("image_folder", root, "classification", *splits, because=f"folders of images, such as {having[0]}/")


def _has_image(folder: Path) -> bool:
    return any(is_image_name(path.name, True) for path in folder.rglob("*"))


_GUESSES: tuple[Callable[[Path], Layout | None], ...] = (
    *(_cityscapes, _ade20k, _coco, _voc, _yolo, _masks, _list, _image_folder),
)
