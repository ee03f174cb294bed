"""`phalanx predict` and `phalanx evaluate` of chosen checkpoints, on runs that were trained for it."""

import json
from pathlib import Path
from typing import Any

import numpy
import pytest
from PIL import Image
from torchvision.transforms.v2.functional import to_pil_image

from phalanx.configs.load import load
from phalanx.data.open import open_split
from tests.support.running import DIGITS, Command, lines, phalanx, ranks

RECIPE = [DIGITS, "train.global_batch=32", "train.micro_batch=16", "data.workers=0", "train.eval_every=2", "train.steps=4"]
RECIPE += ["checkpoint.every_steps=2", "checkpoint.best=val/loss", "train.ema=0.5", "data.image_size=8"]


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with two runs of two checkpoints, one written by two ranks under FSDP2; and twelve images."""
    folder = tmp_path_factory.mktemp("runs")
    phalanx("train", *RECIPE, "name=one", cwd=folder)
    ranks(2, *RECIPE, "name=two", "seed=1", "dist.strategy=fsdp", cwd=folder)
    validation = open_split(load([DIGITS], []).data, "val", 0)
    (folder / "images/more").mkdir(parents=True)
    for i in range(12):
        place = "images/more" if i > 8 else "images"
        to_pil_image(validation[i]["image"]).save(folder / place / f"digit-{i:02d}.png")  # type: ignore[arg-type]
    return folder


def evaluated(runs: Path, *arguments: str, expect: int = 0) -> dict[str, Any]:
    shown = phalanx("evaluate", *arguments, "--json", cwd=runs, expect=expect)
    if expect:
        assert "Traceback" not in shown.errors
        return {}
    found: dict[str, Any] = json.loads(shown.output.splitlines()[-1])
    return found


def logged(runs: Path, name: str) -> dict[int, dict[str, float]]:
    return {line["step"]: line for line in lines(runs / "runs" / name / "metrics.jsonl") if "val/loss" in line}


def test_every_checkpoint_of_a_run_gives_the_metrics_that_were_logged(runs: Path) -> None:
    there = logged(runs, "two")
    best = min(there, key=lambda step: there[step]["val/loss"])
    for asked, step in (["--step", "2"], 2), (["--best"], best):
        found = evaluated(runs, "runs/two", *asked)
        assert found["step"] == step
        for name in ("loss", "top1", "top1_mean_class", "calibration_error"):
            assert found[name] == pytest.approx(there[step][f"val/{name}"], rel=1e-5)
    written = json.loads((runs / "runs/two/evaluation.json").read_text())
    assert written.pop("time") > 0 and written == found
    assert sum(map(sum, found["confusion"])) == 360
    refused = phalanx("evaluate", "runs/two", "--step", "5", cwd=runs, expect=2)
    assert "has no checkpoint of step 5. It has: 2, 4" in refused.errors and "Traceback" not in refused.errors


def test_another_split_is_measured_and_results_are_for_detection(runs: Path) -> None:
    found = evaluated(runs, "runs/one", "--split", "train", "--results", "found.json", expect=2)
    assert found == {} and not (runs / "found.json").exists()
    found = evaluated(runs, "runs/one", "--split", "train")
    assert found["split"] == "train" and sum(map(sum, found["confusion"])) == 1437


def test_a_network_beside_itself_is_itself_and_others_change_it(runs: Path) -> None:
    alone, twice = logged(runs, "one"), evaluated(runs, "runs/one", "--also", "runs/one")
    assert len(twice["checkpoints"]) == 2
    for name in ("loss", "top1", "calibration_error"):
        assert twice[name] == pytest.approx(alone[4][f"val/{name}"], rel=1e-4)
    together = evaluated(runs, "runs/one", "--also", "runs/one@2", "runs/two")
    assert len(together["checkpoints"]) == 3 and together["loss"] != pytest.approx(twice["loss"], rel=1e-6)
    # The loss of a mean of probabilities is at most the mean of the losses (Jensen's inequality).
    losses = [alone[2]["val/loss"], alone[4]["val/loss"], logged(runs, "two")[4]["val/loss"]]
    assert together["loss"] <= sum(losses) / 3 + 1e-6


def predicted(runs: Path, *arguments: str, expect: int = 0) -> tuple[Command, list[dict[str, Any]]]:
    shown = phalanx("predict", *arguments, cwd=runs, expect=expect)
    return shown, json.loads((runs / "out/predictions.json").read_text())


def test_predictions_are_those_that_evaluation_counts(runs: Path) -> None:
    _, found = predicted(runs, "runs/two", "images", "-o", "out")
    assert [Path(entry["file"]).name for entry in found] == [f"digit-{i:02d}.png" for i in (*range(9), 9, 10, 11)]
    for entry in found:
        assert entry["label"] == str(entry["class"]) and entry == entry | entry["top"][0]
        assert len(entry["top"]) == 5 and 1 >= entry["probability"] >= entry["top"][1]["probability"] >= 0
        with Image.open(runs / "out" / entry["picture"]) as picture:
            assert picture.width == 240 and picture.height > 240  # 8 x 8 pixels, enlarged, and the band
    assert found[9]["picture"] == "more/digit-09.jpg"


def test_predictions_need_no_data_as_the_run_knows_its_classes(runs: Path) -> None:
    recorded = runs / "runs/two/data.json"
    facts = json.loads(recorded.read_text())
    assert facts["facts"]["classes"] == list("0123456789") and facts["mean"] == [0.305]
    facts["facts"]["classes"] = [f"digit {i}" for i in range(10)]  # which no data here has
    recorded.write_text(json.dumps(facts))
    _, found = predicted(runs, "runs/two", "images/digit-00.png", "-o", "out")
    assert found[0]["label"] == f"digit {found[0]['class']}"


def test_an_image_that_cannot_be_read_is_named_and_the_others_go_on(runs: Path) -> None:
    (runs / "broken.png").write_bytes((runs / "images/digit-00.png").read_bytes()[:60])
    shown, found = predicted(runs, "runs/one", "broken.png", "images/*-0[12].png", "-o", "out", "--json", expect=2)
    assert [Path(entry["file"]).name for entry in found] == ["broken.png", "digit-01.png", "digit-02.png"]
    assert "error" in found[0] and "label" not in found[0] and all("label" in entry for entry in found[1:])
    assert "phalanx: broken.png: " in shown.errors and "2 of 3 images predicted" in shown.errors
    assert json.loads(shown.output) == found and "Traceback" not in shown.errors


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["images/none-*.png", "-o", "out"], "images/none-*.png: there is no such file, folder or match"),
        (["runs/one/checkpoints", "-o", "out"], "runs/one/checkpoints: there is no image in this folder"),
        (["images"], "predict needs -o DIR"),
        (["images", "-o", "broken.txt"], "-o broken.txt: cannot be written"),
    ],
)
def test_bad_input_is_one_sentence(runs: Path, arguments: list[str], said: str) -> None:
    (runs / "broken.txt").write_text("")
    refused = phalanx("predict", "runs/one", *arguments, cwd=runs, expect=2)
    assert said in refused.errors and len(refused.errors.splitlines()) == 1


def test_a_long_label_is_cut_and_pictures_of_any_shape_have_room_for_text() -> None:
    from phalanx.train.pictures.caption import with_caption

    for size in (1, 1), (3, 900), (4000, 30), (640, 480):
        picture = with_caption(
            Image.new("RGB", size, "white"), [("a very long label " * 20, 0.5), ("short", 1.0), ("none", None)]
        )
        assert 240 <= picture.width <= 1024 and picture.height <= 1024 + 150
        band = numpy.asarray(picture)[-100:]
        assert band.std() > 10  # something is written there
