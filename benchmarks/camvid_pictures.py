"""Pictures of `camvid.py`: what networks see, beside the truth."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.commands import file_name

SHOWN, _COLUMNS = 3, 5
PREDICTIONS, NETWORKS_SEEN = "camvid_predictions.jpg", "camvid_networks.jpg"
VOID = "void"


def draw(best: str, networks: Sequence[str], folder: Path, work: Path, docs: Path) -> None:
    """Predictions beside the truth: of one run in several images, and of every network in one.

    Args:
        best, networks: labels of runs.
        folder: the data.
        work: of the runs.
        docs: where the pictures go.
    """
    from PIL import Image

    from benchmarks import sheets
    from phalanx.data.drawing import with_mask

    names = (folder / "classes.txt").read_text().split()
    every = sorted((folder / "images/val").iterdir())
    images = every[:: -(-len(every) // SHOWN)]
    masks = [folder / f"masks/val/{image.stem}.png" for image in images]
    seen, told = sheets.predicted(work / file_name(best), images)
    known = [*names, VOID]
    rows = [
        [Image.open(image), sheets.with_true_mask(Image.open(image), _numbers(mask), known), Image.open(seen / one["picture"])]
        for image, mask, one in zip(images, masks, told, strict=True)
    ]
    sheets.save(sheets.sheet(rows), docs / PREDICTIONS, 2 / 3)

    def coloured(mask: Path, title: str) -> Image.Image:
        return sheets.titled(with_mask(Image.open(images[0]), _numbers(mask), len(names)), title)

    panels = [coloured(masks[0], "truth")]
    for name in networks:
        seen, told = sheets.predicted(work / file_name(name), images[:1])
        panels.append(coloured(seen / told[0]["mask"], name))
    sheets.save(sheets.sheet([panels[at : at + _COLUMNS] for at in range(0, len(panels), _COLUMNS)]), docs / NETWORKS_SEEN, 0.5)


def _numbers(mask: Path) -> Any:
    import numpy
    import torch
    from PIL import Image

    return torch.from_numpy(numpy.array(Image.open(mask)))
