"""Pictures of `camvid.py`: what networks see, beside the truth."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.commands import Phalanx, file_name

SHOWN, _COLUMNS = 3, 5
PREDICTIONS, NETWORKS_SEEN = "camvid_predictions.jpg", "camvid_networks.jpg"
VOID = "void"


def draw_predictions(phalanx: Phalanx, run: str, folder: Path, work: Path, shown: Path) -> None:
    """Photographs, truth and predictions of a run.

    Args:
        run: its label.
        folder: the data.
        work: the folder of the runs.
        shown: where the picture goes.
    """
    from PIL import Image

    from benchmarks import sheets

    images = _images(folder)
    known = [*_classes(folder), VOID]
    seen, told = sheets.predicted(phalanx, work / file_name(run), images)
    rows = [
        [
            Image.open(image),
            sheets.with_true_mask(Image.open(image), _truth(image, folder), known),
            Image.open(seen / one["picture"]),
        ]
        for image, one in zip(images, told, strict=True)
    ]
    sheets.save(sheets.sheet(rows), shown / PREDICTIONS, 2 / 3)


def draw_networks(phalanx: Phalanx, networks: Sequence[str], folder: Path, work: Path, shown: Path) -> None:
    """One image as every network sees it, beside the truth; see `draw_predictions`."""
    from PIL import Image

    from benchmarks import sheets
    from phalanx.data.inspect.drawing import with_mask

    image, classes = _images(folder)[0], len(_classes(folder))
    panels = [sheets.titled(with_mask(Image.open(image), _truth(image, folder), classes), "truth")]
    for name in networks:
        seen, told = sheets.predicted(phalanx, work / file_name(name), [image])
        panels.append(sheets.titled(with_mask(Image.open(image), _numbers(seen / told[0]["mask"]), classes), name))
    rows = [panels[at : at + _COLUMNS] for at in range(0, len(panels), _COLUMNS)]
    sheets.save(sheets.sheet(rows), shown / NETWORKS_SEEN, 0.5)


def _images(folder: Path) -> list[Path]:
    every = sorted((folder / "images/val").iterdir())
    return every[:: -(-len(every) // SHOWN)]


def _classes(folder: Path) -> list[str]:
    return (folder / "classes.txt").read_text().split()


def _truth(image: Path, folder: Path) -> Any:
    return _numbers(folder / f"masks/val/{image.stem}.png")


def _numbers(mask: Path) -> Any:
    import numpy
    import torch
    from PIL import Image

    return torch.from_numpy(numpy.array(Image.open(mask)))
