"""`cityscapes`: street scenes, the 19 classes of its benchmark; other labels are ignored.

Cordts et al., The Cityscapes Dataset for Semantic Urban Scene Understanding, CVPR 2016 (arXiv:1604.01685).
`ROOT/leftImg8bit/SPLIT/CITY/*_leftImg8bit.png` and `ROOT/gtFine/SPLIT/CITY/*_gtFine_labelIds.png`. The classes' labels are
the table `labels.py` of its authors' scripts (github.com/mcordts/cityscapesScripts).
"""

from pathlib import Path

from phalanx.configs.errors import UserError
from phalanx.configs.sections.data import DataConfig
from phalanx.data.files.string_array import StringArray
from phalanx.data.formats.masked import MaskedImages, Meaning, refuse_missing

CLASSES = (
    *("road", "sidewalk", "building", "wall", "fence", "pole", "traffic light", "traffic sign", "vegetation", "terrain"),
    *("sky", "person", "rider", "car", "truck", "bus", "train", "motorcycle", "bicycle"),
)
_LABEL_IDS = (7, 8, 11, 12, 13, 17, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28, 31, 32, 33)  # of these classes, in their order
_IMAGE, _MASK = "_leftImg8bit.png", "_gtFine_labelIds.png"


def open_split(config: DataConfig, split: str) -> MaskedImages:
    """The images of a split, by city, sorted by name.

    Raises:
        UserError: if a file is missing.
    """
    root = Path(config.root or "")
    images = sorted((root / "leftImg8bit" / split).glob(f"[!.]*/[!.]*{_IMAGE}"))
    if not images:
        raise UserError(f"{root / 'leftImg8bit' / split}: there are no images CITY/*{_IMAGE}. Check data.root and the split.")
    names = [str(path.relative_to(root)) for path in images]
    masks = [f"gtFine/{name.removeprefix('leftImg8bit/').removesuffix(_IMAGE)}{_MASK}" for name in names]
    refuse_missing([(root / image, root / mask) for image, mask in zip(names, masks, strict=True)])
    meaning = Meaning(
        {label: index for index, label in enumerate(_LABEL_IDS)}, (), config.ignore_index, "", "", others_are_ignored=True
    )
    return MaskedImages(config, root, StringArray.of(names), StringArray.of(masks), CLASSES, meaning)
