"""`phalanx init`: what is in a folder is found, and the recipe that it writes trains on it as it is."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy
import pytest
from PIL import Image

from benchmarks.support.small_data import bccd, camvid
from phalanx.configs.load import load
from phalanx.data.inspect.found_data import find, run_name
from phalanx.launch.main import main
from phalanx.launch.proposal import Machine, proposal
from phalanx.train.setup.build import build_local
from tests.data import coco_shapes
from tests.support.running import phalanx

RANDOM = numpy.random.default_rng(0)


def _pictures(folder: Path, names: list[str], channels: int = 3, size: tuple[int, int] = (40, 60)) -> None:
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        pixels = RANDOM.integers(0, 255, (*size, channels)).astype(numpy.uint8)
        Image.fromarray(pixels if channels == 3 else pixels[..., 0]).save(path)


def _classes(root: Path) -> None:
    """Folders of classes, no splits, grey."""
    _pictures(root, [f"{name}/{number}.png" for name in ("cat", "dog") for number in range(10)], channels=1)


def _splits(root: Path) -> None:
    _pictures(root, [f"{s}/{name}/{i}.jpg" for s in ("training", "test") for name in ("a", "b", "c") for i in range(6)])


def _coco(root: Path) -> None:
    coco_shapes.write(root, {"train": 12, "val": 4})


def _yolo(root: Path) -> None:
    _pictures(root, [f"{split}/images/{number}.jpg" for split in ("train", "valid") for number in range(6)])
    for split in ("train", "valid"):
        (root / split / "labels").mkdir()
        for number in range(5):  # the last image has no objects
            (root / split / f"labels/{number}.txt").write_text(f"{number % 2} 0.5 0.5 0.4 0.4\n")
    (root / "data.yaml").write_text("names: [cat, dog]\n")


def _labels(root: Path) -> None:
    """A list with several labels of each image."""
    names = [f"photos/{number}.jpg" for number in range(20)]
    _pictures(root, names)
    lines = [f"{name},{'sun;sea' if place % 2 else 'sea'}\n" for place, name in enumerate(names)]
    (root / "list.csv").write_text("path,labels\n" + "".join(lines))


def _camvid(root: Path) -> None:
    camvid(root)


def _bccd(root: Path) -> None:
    bccd(root, train=8)


Layout = tuple[Callable[[Path], None], str, str, dict[str, object]]
LAYOUTS: dict[str, Layout] = {
    "folders of classes": (_classes, "image_folder", "classification", {"mode": "grey", "val_fraction": 0.2}),
    "folders of splits": (_splits, "image_folder", "classification", {"train_split": "training", "val_split": "test"}),
    "coco": (_coco, "coco", "detection", {}),
    "voc": (_bccd, "voc", "detection", {"options": {"target": "boxes"}}),
    "yolo": (_yolo, "yolo", "detection", {"val_split": "valid"}),
    "masks": (_camvid, "masks", "segmentation", {"ignore_index": 11}),
    "several labels": (_labels, "list", "classification", {"train_split": "list", "val_fraction": 0.2}),
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_layout_is_found_and_its_recipe_builds(layout: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    make, format, task, keys = LAYOUTS[layout]
    root, recipe = tmp_path / "data", tmp_path / "recipe.yaml"
    root.mkdir()
    make(root)
    assert main(["init", str(root), "-o", str(recipe), "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert (told["format"], told["task"], told["recipe"]) == (format, task, str(recipe))
    config = load([str(recipe)])
    assert {key: getattr(config.data, key) for key in keys} == keys
    made = build_local(config)
    assert len(made.training) == told["train"] > 0 and len(made.validation) == told["val"] > 0
    assert tuple(made.training.classes) == tuple(told["classes"])
    assert config.train.global_batch <= len(made.training)
    if layout == "masks":
        assert any("void" in sentence and "ignore_index=11" in sentence for sentence in told["remarks"])
    if layout == "yolo":
        assert any("no objects" in sentence for sentence in told["remarks"])
    for gpus in (1, 8):
        text = proposal(find(root), Machine(gpus, 64))
        recipe.write_text(text)
        assert load([str(recipe)]).train.global_batch <= len(made.training)


def test_the_recipe_trains_evaluates_and_predicts_as_it_is(tmp_path: Path) -> None:
    _splits(tmp_path / "photographs")
    said = phalanx("init", "photographs", cwd=tmp_path).output
    assert "18 samples to train on (training), 18 to validate on (test)" in said and "images of 60 x 40 pixels" in said
    assert "next: phalanx train photographs.yaml" in said and "3 classes: a 33.3 %" in said
    trained = phalanx("train", "photographs.yaml", "train.steps=2", "data.workers=0", cwd=tmp_path).output
    assert "18 samples to train on, 18 to validate on; 3 classes: a, b, c" in trained
    assert "top1" in phalanx("evaluate", "runs/photographs", cwd=tmp_path).output
    phalanx("predict", "runs/photographs", "photographs/test/a", "-o", "seen", cwd=tmp_path)
    assert (tmp_path / "seen/predictions.json").is_file()


@pytest.mark.parametrize(
    ("make", "arguments", "sentence"),
    [
        (lambda root: None, ["nowhere"], "nowhere: there is no such folder"),
        (lambda root: None, ["data"], "none of the known layouts is there"),
        (lambda root: (root / "words.csv").write_text("a,b,c\n"), ["data"], "looks like data.name=list (words.csv), but: "),
        (_classes, ["data", "-o", "there.yaml"], "there.yaml: this file exists"),
        (_classes, ["data", "-o", "no/recipe.yaml"], "no: there is no such folder"),
    ],
)
def test_what_cannot_be_begun_is_refused_in_a_sentence(
    make: Callable[[Path], None],
    arguments: list[str],
    sentence: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "data").mkdir()
    (tmp_path / "there.yaml").write_text("mine\n")
    make(tmp_path / "data")
    assert main(["init", *arguments]) == 2
    assert sentence in capsys.readouterr().err
    assert (tmp_path / "there.yaml").read_text() == "mine\n" and not (tmp_path / "data.yaml").exists()


def test_a_run_s_name_comes_from_the_folder_s() -> None:
    assert [run_name(Path(name)) for name in ("/x/My photos (2)", "/x/ümlaut", "/x/..a")] == ["My_photos__2", "mlaut", "a"]
