"""Segmentation by its commands: training, evaluation, predictions, and what bad data says."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy
import pytest
from PIL import Image

from phalanx.data.inspect.drawing import colour
from tests.data.pictures import picture
from tests.support.running import DIGITS, lines, phalanx, ranks

CLASSES = ("ground", "disc", "bar")
DATA = ["task.name=segmentation", "data.name=masks", "data.root=masks", "data.image_size=32", "data.fit=pad", "data.workers=0"]
DATA += ["data.augment.shift=0", "data.augment.flip=0.5", "data.augment.scale=[0.5, 2.0]"]
LENGTH = ["train.global_batch=8", "train.micro_batch=4", "train.steps=40", "train.eval_every=20", "checkpoint.every_steps=40"]
NETWORK = ["model.name=unet", "model.options={width: 8, batch_norm: true}", "optim.name=adamw", "optim.lr=0.01"]
RECIPE = [DIGITS, *DATA, *LENGTH, *NETWORK, "loss.add={dice: 1.0}", "checkpoint.best=val/miou", "schedule.warmup_steps=0"]


def write(root: Path, split: str, count: int) -> None:
    """Images of several sizes with a disc and a bar on a ground, and their masks."""
    random = numpy.random.default_rng(len(split))
    for what in "images", "masks":
        (root / what / split).mkdir(parents=True)
    for i in range(count):
        height, width = 30 + 7 * (i % 3), 40 - 5 * (i % 2)
        rows, columns = numpy.mgrid[:height, :width]
        y, x, bar = random.integers(8, height - 8), random.integers(8, width - 8), random.integers(0, width - 4)
        mask = numpy.zeros((height, width), numpy.uint8)
        mask[:, bar : bar + 4] = 2
        mask[(rows - y) ** 2 + (columns - x) ** 2 < 49] = 1
        colours = numpy.array([(70, 100, 60), (200, 80, 50), (60, 80, 190)])[mask]
        pixels = (colours + random.integers(-25, 25, colours.shape)).clip(0, 255).astype(numpy.uint8)
        Image.fromarray(pixels).save(root / f"images/{split}/{i:02d}.png")
        mask[-2:] = 255
        Image.fromarray(mask).save(root / f"masks/{split}/{i:02d}.png")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Data, and a run on it that two ranks trained under FSDP2."""
    here = tmp_path_factory.mktemp("segmentation")
    (here / "masks").mkdir()
    (here / "masks/classes.txt").write_text("\n".join(CLASSES) + "\n")
    write(here / "masks", "train", 16)
    write(here / "masks", "val", 5)
    ranks(2, *RECIPE, "name=discs", "dist.strategy=fsdp", "dist.sync_bn=all", cwd=here)
    return here


def evaluated(folder: Path, *arguments: str) -> dict[str, Any]:
    shown = phalanx("evaluate", "runs/discs", *arguments, "--json", cwd=folder)
    found: dict[str, Any] = json.loads(shown.output.splitlines()[-1])
    return found


def test_a_run_learns_and_its_evaluation_gives_what_was_logged(folder: Path) -> None:
    logged = [line for line in lines(folder / "runs/discs/metrics.jsonl") if "val/miou" in line]
    assert [line["step"] for line in logged] == [20, 40] and logged[-1]["val/miou"] > 0.7
    trained = [line for line in lines(folder / "runs/discs/metrics.jsonl") if "train/loss/cross_entropy" in line]
    assert trained and all(line["train/loss/dice"] > 0 for line in trained)
    found = evaluated(folder)
    for name in ("loss", "miou", "pixel_accuracy", "dice", "boundary_f"):
        assert found[name] == pytest.approx(logged[-1][f"val/{name}"], rel=1e-5)
    assert [row["class"] for row in found["per_class"]] == list(CLASSES)
    assert found["miou"] == pytest.approx(sum(row["iou"] for row in found["per_class"]) / 3)
    shapes = [numpy.asarray(Image.open(path)).shape for path in (folder / "masks/masks/val").iterdir()]
    assert sum(map(sum, found["confusion"])) == sum((height - 2) * width for height, width in shapes)


def test_an_evaluation_may_ask_in_other_ways_and_several_networks(folder: Path) -> None:
    plain = evaluated(folder)
    twice = evaluated(folder, "--also", "runs/discs")
    assert twice["miou"] == pytest.approx(plain["miou"], rel=1e-4) and len(twice["checkpoints"]) == 2
    keys = ["evaluate.flip=true", "evaluate.scales=[0.75, 1.0]", "evaluate.size=original", "evaluate.window=[24,32]"]
    views = evaluated(folder, *keys, "--also", "runs/discs")
    assert views["miou"] > 0.6 and views["loss"] != pytest.approx(plain["loss"], rel=1e-6)
    assert evaluated(folder, "evaluate.crf=true", "evaluate.crf_iterations=1")["loss"] != pytest.approx(plain["loss"], rel=1e-6)


def test_predictions_are_masks_of_the_images_own_sizes_with_overlays_and_probabilities(folder: Path) -> None:
    given = ["masks/images/val", "evaluate.flip=true", "-o", "seen", "--probabilities"]
    phalanx("predict", "runs/discs", *given, cwd=folder)
    found = json.loads((folder / "seen/predictions.json").read_text())
    assert [Path(entry["file"]).name for entry in found] == [f"{i:02d}.png" for i in range(5)]
    right = total = 0
    for entry in found:
        name = Path(entry["file"]).name
        assert entry["mask"] == f"masks/{name}" and set(entry) == {
            "file",
            "picture",
            "mask",
            "classes",
            "probabilities",
            "width",
            "height",
        }
        truth = numpy.asarray(Image.open(folder / "masks/masks/val" / name))
        with Image.open(folder / "seen" / entry["mask"]) as stored:
            assert stored.mode == "P" and stored.getpalette()[:9] == [v for c in range(3) for v in colour(c)]  # type: ignore[index]
            mask = numpy.asarray(stored)
        assert mask.shape == truth.shape
        right, total = right + (mask == truth)[truth != 255].sum(), total + (truth != 255).sum()
        given_to = numpy.load(folder / "seen" / entry["probabilities"], allow_pickle=False)
        assert given_to.shape == (3, *truth.shape) and abs(given_to.astype(float).sum(0) - 1).max() < 2e-3
        assert (given_to.argmax(0) == mask).mean() > 0.999  # half precision may make two equal
        assert sum(row["pixels"] for row in entry["classes"]) == mask.size
        assert entry["classes"][0] == {"label": "ground", "class": 0, "pixels": int((mask == 0).sum())} | {
            "share": float((mask == 0).mean())
        }
        with Image.open(folder / "seen" / entry["picture"]) as picture:
            assert picture.width >= 240 and picture.height > picture.width * truth.shape[0] / truth.shape[1]
    assert right / total == pytest.approx(evaluated(folder, "evaluate.flip=true")["pixel_accuracy"], abs=1e-6)


# -- bad data


def changed(folder: Path, tmp_path: Path) -> Path:
    """A copy of the data, to be broken."""
    shutil.copytree(folder / "masks", tmp_path / "masks")
    return tmp_path / "masks"


def refused(tmp_path: Path, *keys: str) -> str:
    network = [] if any(key.startswith("model.name") for key in keys) else NETWORK
    shown = phalanx("train", DIGITS, *DATA, *LENGTH, *network, "name=bad", *keys, cwd=tmp_path, expect=2)
    assert "Traceback" not in shown.errors
    said = [line for line in shown.errors.splitlines() if line.startswith("phalanx: ")]
    assert len(said) == 1, shown.errors
    return said[0]


def test_a_mask_of_another_size_is_named(folder: Path, tmp_path: Path) -> None:
    mask = changed(folder, tmp_path) / "masks/train/00.png"
    Image.open(mask).crop((0, 0, 30, 20)).save(mask)
    said = refused(tmp_path, "data.check=full")
    assert "masks/train/00.png: the mask is 30 x 20 pixels, but the image" in said and "images/train/00.png" in said


def test_a_number_that_is_no_class_is_named(folder: Path, tmp_path: Path) -> None:
    mask = changed(folder, tmp_path) / "masks/train/01.png"
    numbers = numpy.array(Image.open(mask))
    numbers[3, 4] = 200
    Image.fromarray(numbers).save(mask)
    said = refused(tmp_path, "data.check=full")
    assert "masks/train/01.png: class 200, but classes.txt names 3 (0 to 2)" in said and "data.ignore_index=200" in said


def test_a_mask_in_colours_is_named(folder: Path, tmp_path: Path) -> None:
    mask = changed(folder, tmp_path) / "masks/train/02.png"
    picture(1, *numpy.array(Image.open(mask)).shape[::-1]).save(mask)
    assert "masks/train/02.png: " in refused(tmp_path, "data.check=full")


def test_an_image_without_a_mask_is_named(folder: Path, tmp_path: Path) -> None:
    (changed(folder, tmp_path) / "masks/train/03.png").unlink()
    assert "images/train/03.png: this image has no mask of the same name" in refused(tmp_path)


@pytest.mark.parametrize(
    ("keys", "said"),
    [
        (["model.name=fcn", "model.backbone=swin_t", "model.output_stride=8"], "model.output_stride=8"),
        (["model.name=resnet18"], "model.name=resnet18: this is a network for classification, but task.name=segmentation"),
        (["loss.name=mse"], "loss.name=mse: segmentation takes"),
        (["task.name=classification", "model.name=resnet18"], "Set task.name=segmentation"),
        (["loss.name=bce", "loss.add={dice: 1}", "loss.dice_per_class=false"], "loss.dice_per_class=false is for two classes"),
    ],
)
def test_what_does_not_go_together_is_a_sentence(folder: Path, tmp_path: Path, keys: list[str], said: str) -> None:
    assert said in refused(tmp_path, f"data.root={folder / 'masks'}", *keys)


def test_a_crop_larger_than_the_images_is_reported_and_trains_all_the_same(folder: Path, tmp_path: Path) -> None:
    keys = [f"data.root={folder / 'masks'}", "data.image_size=96", "train.steps=1", "name=large"]
    said = phalanx("train", *RECIPE, *keys, cwd=tmp_path).output
    assert "data.image_size=96: of 4 images checked none is larger than 44 x 40 (height x width)" in said
    (logged,) = [line for line in lines(tmp_path / "runs/large/metrics.jsonl") if "val/miou" in line]
    assert logged["val/loss"] > 0
