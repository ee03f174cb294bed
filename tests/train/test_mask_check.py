"""Masks in which there is nothing to learn are told before the first step, with counts, the same on any number of ranks."""

from pathlib import Path

import numpy
import pytest
from PIL import Image

from benchmarks.support.rank_pool import Pool
from phalanx.configs.errors import UserError
from phalanx.configs.load import load
from phalanx.data.dataset import Split
from phalanx.data.open import open_split
from phalanx.dist.comm.process_group import World
from phalanx.train.setup.mask_check import check_masks
from tests.data.pictures import masks
from tests.support.running import DIGITS

ALL_IGNORED: list[int] = []


def folder(root: Path, values: dict[int, list[int]], count: int = 20, split: str = "train") -> Path:
    """Masks of the number 0, but for some, by their own number, of a few others."""
    masks(root, train=count, val=2, classes=("background", "cell"))
    for number in range(count):
        pixels = numpy.zeros((16, 20), numpy.uint8)
        given = values.get(number, values.get(-1, [0]))
        if given == ALL_IGNORED:
            pixels[:] = 255
        else:
            pixels[0, : len(given)] = given
        Image.fromarray(pixels).save(root / f"masks/{split}/{number}.png")
    return root


def said(world: World, root: str, split: Split, keys: list[str]) -> list[str]:
    config = load([DIGITS], [f"data.root={root}", "data.name=masks", "task.name=segmentation", *keys])
    try:
        return ["told", *check_masks(config, open_split(config.data, split), split, world)]
    except UserError as error:
        return ["refused", str(error)]


def found(pool: Pool, root: Path, split: Split = "train", world: int = 2, keys: tuple[str, ...] = ()) -> list[str]:
    answers: list[list[str]] = pool.run(world, said, str(root), split, list(keys))
    assert all(answer == answers[0] for answer in answers)
    return answers[0]


@pytest.mark.parametrize("world", [1, 3])
def test_masks_of_0_and_255_are_refused_with_counts(world: int, pool: Pool, tmp_path: Path) -> None:
    assert found(pool, folder(tmp_path, {-1: [255, 255, 255]}), world=world) == [
        "refused",
        "20 masks of the training split: of 6,400 pixels all that are not ignored have the class background, and 60 are 255, "
        "which is data.ignore_index and ignored. Nothing can be learnt. If 255 stands for an object, store the number of its "
        "class instead.",
    ]


def test_masks_that_are_all_ignored_or_of_one_class_are_refused(pool: Pool, tmp_path: Path) -> None:
    ignored, single = found(pool, folder(tmp_path / "a", {-1: ALL_IGNORED})), found(pool, folder(tmp_path / "b", {}))
    assert ignored[0] == single[0] == "refused"
    assert ignored[1].startswith("20 masks of the training split: each of 6,400 pixels is 255, which is data.ignore_index")
    assert single[1].startswith(
        "20 masks of the training split: of 6,400 pixels all that are not ignored have the class background. Nothing"
    )


def test_one_pixel_of_another_class_in_one_mask_is_enough(pool: Pool, tmp_path: Path) -> None:
    assert found(pool, folder(tmp_path, {17: [1]})) == ["told"]


def test_a_validation_split_of_one_class_is_reported(pool: Pool, tmp_path: Path) -> None:
    folder(tmp_path, {3: [1]})
    kind, sentence = found(pool, folder(tmp_path, {}, count=2, split="val"), "val")
    assert kind == "told" and sentence.startswith(
        "2 masks of the validation split: of 640 pixels all that are not ignored have the class"
    )
    assert "Metrics of this split are meaningless." in sentence


def test_what_an_ignored_class_leaves_is_what_counts(pool: Pool, tmp_path: Path) -> None:
    root = folder(tmp_path, {-1: [1]})
    (root / "classes.txt").write_text("background\nvoid\ncell\n")
    kind, sentence = found(pool, root, keys=("data.ignore_index=1",))
    assert (
        kind == "refused"
        and "all that are not ignored have the class background, and 20 are 1, which is data.ignore_index" in sentence
    )
