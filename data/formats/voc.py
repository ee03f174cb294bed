"""`voc`: PASCAL VOC 2012, or data in its layout.

Everingham, Van Gool, Williams, Winn and Zisserman, The PASCAL Visual Object Classes (VOC) Challenge, IJCV 2010.
`ROOT` is `VOC2012` or `VOC2007`, or a folder above it. Masks, 20 classes and the background, borders are ignored:
`JPEGImages/`, `SegmentationClass/`, `ImageSets/Segmentation/SPLIT.txt`. Boxes: `phalanx.data.formats.voc_boxes`. Selected by
`data.options.target`, `mask` or `boxes`; if it is not set, masks if the split has a list for them.
"""

from pathlib import Path

from phalanx.configs.errors import UserError
from phalanx.configs.sections.data import DataConfig
from phalanx.data.files.by_stem import ByStem
from phalanx.data.files.ignored_class import learnt
from phalanx.data.files.string_array import StringArray
from phalanx.data.files.voc_files import listed_again, read_stems
from phalanx.data.formats import voc_boxes
from phalanx.data.formats.detected import DetectedImages
from phalanx.data.formats.masked import MaskedImages, Meaning, refuse_missing
from phalanx.data.images.image_formats import SUFFIXES

CLASSES = (
    *("background", "aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow"),
    *("diningtable", "dog", "horse", "motorbike", "person", "pottedplant", "sheep", "sofa", "train", "tvmonitor"),
)
_BORDER = 255
_INSIDE = ("VOC2012", "VOCdevkit/VOC2012", "VOC2007", "VOCdevkit/VOC2007")


def open_split(config: DataConfig, split: str) -> MaskedImages | DetectedImages:
    """The images in the split's list, in its order.

    Raises:
        UserError: if a file is missing, or an object cannot be used.
    """
    root = Path(config.root or "")
    root = next((root / inside for inside in _INSIDE if (root / inside).is_dir()), root)
    listed = root / "ImageSets" / "Segmentation" / f"{split}.txt"
    target = _target(config)
    if target == "boxes" or (target is None and not listed.is_file() and voc_boxes.lists(root, split).is_file()):
        return voc_boxes.open_boxes(config, root, split)
    if not listed.is_file():
        raise UserError(f"{listed}: there is no such file. Set data.root to the folder VOC2012, and the split to a list in it.")
    pictures, masks = ByStem(root / "JPEGImages", SUFFIXES), ByStem(root / "SegmentationClass", [".png"])
    stems = read_stems(listed, pictures)
    pairs = [
        (f"JPEGImages/{pictures(stem) or f'{stem}.jpg'}", f"SegmentationClass/{masks(stem) or f'{stem}.png'}") for stem in stems
    ]
    refuse_missing([(root / image, root / mask) for image, mask in pairs])
    found = learnt(CLASSES, config.ignore_index)
    meaning = Meaning(
        found.numbers,
        (_BORDER, config.ignore_index),
        found.ignored,
        f"VOC has {len(CLASSES)} (0 to {len(CLASSES) - 1}, and {_BORDER} for borders)",
        "Download the file again, or use data.name=masks for your own classes.",
    )
    images, drawn = StringArray.of(image for image, _ in pairs), StringArray.of(mask for _, mask in pairs)
    return MaskedImages(config, root, images, drawn, found.classes, meaning, listed_again(listed, stems))


def _target(config: DataConfig) -> str | None:
    for name, value in config.options.items():
        if name != "target":
            raise UserError(f"data.options.{name}: voc takes target. Remove it.")
        if value not in ("mask", "boxes"):
            raise UserError(f"data.options.target={value}: voc has mask and boxes. Set one of them.")
    target: str | None = config.options.get("target")
    return target
