"""Image files with boxes, and optionally masks, of the objects in them, for `coco`, `voc` and `yolo`."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy
import torch
from numpy.typing import NDArray
from torch import Tensor

from phalanx.configs.errors import UserError
from phalanx.configs.sections.data import DataConfig
from phalanx.data import fingerprints
from phalanx.data.bad_sample import BadSample, bad
from phalanx.data.files.objects import ObjectTable
from phalanx.data.files.string_array import StringArray
from phalanx.data.formats.labelled import ImageFiles
from phalanx.data.images.image_header import read_header

_MOST_MASKS = 8 << 30  # bytes of an image's masks


class DetectedImages(ImageFiles):
    """Image files, and the objects in each.

    Args:
        names: the images' names, relative to the folder.
        sizes: int32 [images, 2], height and width in the annotations, 0 if missing.
        notes: messages about objects that were left out.
        ids: the annotations' ids of the images and of the classes.
        looked: where objects were searched, for messages.

    Attributes:
        has_masks: whether samples have `masks`.
    """

    kind = "detection"

    def __init__(
        self,
        config: DataConfig,
        folder: Path,
        names: StringArray,
        classes: tuple[str, ...],
        objects: ObjectTable,
        sizes: NDArray[numpy.int32] | None = None,
        notes: tuple[str, ...] = (),
        ids: tuple[Sequence[int | str], list[int | str]] | None = None,
        looked: str = "",
    ):
        super().__init__(config, folder, names, classes)
        if not classes:
            raise UserError(f"{folder}: there are no classes. Write their names into classes.txt, one per line.")
        self._objects, self._sizes = objects, sizes
        self.has_masks = objects.outlines is not None
        self.notes, self.looked = notes, looked
        self._image_ids, self.category_ids = ids or (range(len(names)), list(range(len(classes))))

    def __getitem__(self, index: int) -> dict[str, Any]:
        image = self._image(index)
        height, width = image.shape[1:]
        self._check_size(index, height, width)
        own, objects = self._own(index), self._objects
        boxes = torch.from_numpy(objects.boxes[own].copy())
        limits = torch.tensor([width, height] * 2, dtype=torch.float32)
        boxes = boxes * limits if objects.relative else boxes
        sample = {
            "image": image,
            "boxes": torch.minimum(boxes.clamp(min=0), limits),
            "labels": torch.from_numpy(objects.labels[own].astype(numpy.int64)),
            "crowd": torch.from_numpy(objects.crowd[own].copy()),
        }
        if objects.outlines is not None:
            sample["masks"] = self._masks(index, own, height, width)
        if objects.areas is not None:
            sample["area"] = _areas(torch.from_numpy(objects.areas[own]), sample)
        return sample

    @property
    def sizes(self) -> NDArray[numpy.int32] | None:
        """Height and width of each image in the annotations, `[samples, 2]`; None if some are missing."""
        return None if self._sizes is None or not self._sizes.all() else self._sizes

    def image_id(self, index: int) -> int | str:
        """The annotations' id of an image, or its number."""
        return self._image_ids[index]

    def _own(self, index: int) -> slice:
        return slice(int(self._objects.ends[index]), int(self._objects.ends[index + 1]))

    def _masks(self, index: int, own: slice, height: int, width: int) -> Tensor:
        """Bool [n, H, W]."""
        from phalanx.data.files.coco_masks import fault_of, mask

        assert self._objects.outlines is not None
        if (own.stop - own.start) * height * width > _MOST_MASKS:
            raise bad(
                self.path(index),
                f"the masks of its {own.stop - own.start} objects, {width} x {height} pixels each, would take more than 8 GB",
                "Cut the image into several, or make it smaller.",
                "{count} of {total} images have that many",
            )
        known = self._sizes is not None and bool(self._sizes[index].all())
        masks = numpy.zeros((own.stop - own.start, height, width), bool)
        for place, number in enumerate(range(own.start, own.stop)):
            outline = self._objects.outlines[number]
            if not known and (fault := fault_of(json.loads(outline), height, width)):
                others = "{count} of {total} images have masks that cannot be used"
                raise bad(self.path(index), f"of its object {place + 1} {fault}", "Correct its annotation.", others)
            masks[place] = mask(outline, height, width)
        return torch.from_numpy(masks)

    def _check_size(self, index: int, height: int, width: int) -> None:
        if self._sizes is None:
            return
        height_told, width_told = self._sizes[index].tolist()
        if (height_told, width_told) not in ((height, width), (0, 0)):
            raise self._of_another_size(index, height, width, height_told, width_told)

    def _of_another_size(self, index: int, height: int, width: int, height_told: int, width_told: int) -> BadSample:
        problem = f"the image is {width} x {height} pixels, but its annotations are for {width_told} x {height_told}"
        header = read_header(Path(self.path(index)))
        if header is not None and header.on_its_side and (height_told, width_told) == (header.height, header.width):
            return bad(
                self.path(index),
                f"{problem}, its stored pixels: its EXIF orientation rotates it by 90 degrees",
                "If the boxes lie on the stored pixels, remove the orientation: exiftool -Orientation= FILE; if they lie on "
                "the upright image, exchange width and height in the annotations.",
                "{count} of {total} images are rotated by EXIF, but have annotations for the stored pixels",
            )
        return bad(
            self.path(index),
            problem,
            "Correct one of them.",
            "{count} of {total} images differ in size from their annotations",
        )

    def counts_of(self, index: int) -> NDArray[numpy.int64]:
        """Boxes of each class in a sample, `[classes]`; objects that are not learnt do not count."""
        return self._counts(self._own(index))

    def has_objects(self, index: int) -> bool:
        """Whether an object is wider and higher than a pixel, crowds too: torchvision's reference trains on such images."""
        boxes = self._objects.boxes[self._own(index)]
        sides = boxes[:, 2:] - boxes[:, :2]
        if self._objects.relative:
            known = self._sizes is not None and self._sizes[index].all()
            sides = sides * (self._sizes[index][::-1] if known and self._sizes is not None else 1e9)
        return bool((sides > 1).all(axis=1).any())

    def class_counts(self) -> list[int]:
        """Boxes of each class."""
        return self._counts(slice(None)).tolist()

    def fingerprints(self) -> NDArray[numpy.uint64]:
        """A number for the objects of each image."""
        own = self._objects
        numbers = [*own.boxes.T, own.crowd, *([] if own.areas is None else [own.areas])]
        return fingerprints.of_objects(self.classes, own.labels, own.ends, numbers, own.outlines)

    @property
    def never_learnt(self) -> int:
        """The number of crowds and difficult objects."""
        return int(self._objects.crowd.sum())

    def _counts(self, some: slice) -> NDArray[numpy.int64]:
        learnt = self._objects.labels[some][~self._objects.crowd[some]]
        return numpy.bincount(learnt, minlength=len(self.classes))


def _areas(told: Tensor, sample: Mapping[str, Any]) -> Tensor:
    """Areas of objects as annotated; those of the mask, or else the box, if missing."""
    sides = sample["boxes"][:, 2:] - sample["boxes"][:, :2]
    own = sample["masks"].flatten(1).sum(dim=1) if "masks" in sample else sides.prod(dim=1)
    return torch.where(told.isnan(), own.double(), told)
