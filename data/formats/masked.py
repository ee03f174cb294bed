"""Image files with a mask each (the class of every pixel), for `masks`, `voc`, `cityscapes` and `ade20k`."""

from pathlib import Path
from typing import Any

import numpy
import torch
from numpy.typing import NDArray
from torch import Tensor

from phalanx.configs.errors import UserError
from phalanx.configs.sections.data import DataConfig
from phalanx.data.bad_sample import BadSample, bad
from phalanx.data.files.ignored_class import Learnt
from phalanx.data.files.string_array import StringArray
from phalanx.data.formats.labelled import ImageFiles
from phalanx.data.images.image_header import read_header

_OUT_OF_RANGE = -1


class Meaning:
    """The meaning of the numbers in a mask.

    Args:
        classes: the class of each number; unlisted numbers are out of range.
        ignored: ignored numbers.
        ignore_index: the value that replaces them.
        others_are_ignored: whether unlisted numbers are ignored, too.
        names: the source of the classes' names, for messages.
        remedy: what to change if a number is out of range, with `{number}`.
    """

    def __init__(
        self,
        classes: dict[int, int],
        ignored: tuple[int, ...],
        ignore_index: int,
        names: str,
        remedy: str,
        others_are_ignored: bool = False,
    ):
        table = numpy.full(1 << 16, ignore_index if others_are_ignored else _OUT_OF_RANGE, numpy.int64)
        for number, index in classes.items():
            table[number] = index
        table[[number for number in ignored if number < len(table)]] = ignore_index
        self.table, self.names, self.remedy = torch.from_numpy(table), names, remedy
        self.ignore_index, self.fits_a_byte = ignore_index, int(table.max()) < 256


class MaskedImages(ImageFiles):
    """Image files, and a mask of each.

    Args:
        images, masks: names relative to the folder, in pairs.
        notes: warnings.

    Attributes:
        ignored: the number of ignored pixels.

    Raises:
        UserError: if an image has no mask, or there is only one class.
    """

    kind = "segmentation"

    def __init__(
        self,
        config: DataConfig,
        folder: Path,
        images: StringArray,
        masks: StringArray,
        classes: tuple[str, ...],
        meaning: Meaning,
        notes: tuple[str, ...] = (),
    ):
        super().__init__(config, folder, images, classes)
        if len(classes) == 1:
            raise UserError(
                f"{folder}: there is only one class to learn, {classes[0]}. Name the background too, in classes.txt, as one "
                "that data.ignore_index does not exclude."
            )
        if meaning.ignore_index < len(classes):
            name = classes[meaning.ignore_index]
            raise UserError(
                f"data.ignore_index={meaning.ignore_index} is the class {name}. Set a number above {len(classes) - 1}."
            )
        self._masks, self._meaning, self.ignored, self.notes = masks, meaning, meaning.ignore_index, notes

    def __getitem__(self, index: int) -> dict[str, Any]:
        image, mask = self._image(index), self.mask(index)
        if image.shape[1:] != mask.shape:
            raise self._of_another_size(index, tuple(image.shape[1:]), tuple(mask.shape))
        return {"image": image, "mask": mask}

    def _of_another_size(self, index: int, size: tuple[int, ...], own: tuple[int, ...]) -> BadSample:
        problem = f"the mask is {own[1]} x {own[0]} pixels, but the image {self.path(index)} is {size[1]} x {size[0]}"
        remedy, header = "Make them the same size.", read_header(Path(self.path(index)))
        if header is not None and header.on_its_side and own == (header.height, header.width):
            problem += ", rotated by 90 degrees by its EXIF orientation"
            remedy = "If the mask lies on the stored pixels, remove the orientation: exiftool -Orientation= FILE."
        return bad(self.mask_path(index), problem, remedy, "{count} of {total} masks differ in size from their image")

    def mask_path(self, index: int) -> str:
        """The file of a sample's mask."""
        return str(self._folder / self._masks[index])

    def files(self, index: int) -> tuple[str, ...]:
        """The files of an image and of its mask."""
        return self.path(index), self.mask_path(index)

    def mask(self, index: int) -> Tensor:
        """The class of each pixel, or `ignore_index`: uint8 `[H, W]`; int64 if a byte is too small for the classes.

        Raises:
            Unreadable: if the file is not a complete mask.
            BadSample: if it has a number that is not a class.
        """
        stored = self._reader.mask(self.mask_path(index))
        classes = self._meaning.table[stored.long()]
        if int(classes.min()) == _OUT_OF_RANGE:
            number = int(stored[classes == _OUT_OF_RANGE].long().min())
            raise bad(
                self.mask_path(index),
                f"class {number}, but {self._meaning.names}",
                self._meaning.remedy.format(number=number),
                "{count} of {total} masks have such pixels",
            )
        return classes.to(torch.uint8) if self._meaning.fits_a_byte else classes

    def counts_of(self, index: int) -> NDArray[numpy.int64]:
        """Pixels of each class in a sample, `[classes]`."""
        mask = self.mask(index).flatten().numpy()
        return numpy.bincount(mask[mask != self.ignored], minlength=len(self.classes))

    def class_counts(self) -> list[int]:
        """Pixels of each class, from every mask."""
        total = numpy.zeros(len(self.classes), numpy.int64)
        for index in range(len(self)):
            total += self.counts_of(index)
        return total.tolist()


def plain_meaning(classes: tuple[str, ...], found: Learnt, ignore_index: int) -> Meaning:
    """Numbers are classes, named in `classes.txt`, of which one may be ignored."""
    remedy = "Set data.ignore_index={number}, or correct classes.txt."
    return Meaning(
        found.numbers,
        (ignore_index,),
        found.ignored,
        f"classes.txt names {len(classes)} (0 to {len(classes) - 1})",
        remedy if found.named is None else "Correct the mask, or name the class in classes.txt.",
    )


def refuse_missing(pairs: list[tuple[Path, Path]]) -> None:
    """Refuses pairs of image and mask of which one is missing.

    Raises:
        UserError: with their number, and the first.
    """
    missing = [(image, mask) for image, mask in pairs if not mask.is_file() or not image.is_file()]
    if missing:
        image, mask = missing[0]
        there, gone = (image, mask) if not mask.is_file() else (mask, image)
        raise UserError(
            f"{gone}: there is no such file, but {there} needs it. {len(missing)} of {len(pairs)} pairs of image and mask "
            "are incomplete. Add the files, or remove the other one of each pair."
        )
