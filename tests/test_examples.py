"""The examples train, the same bits on one rank and on two that were killed; what they reach is in docs/examples.md."""

import math
from pathlib import Path

import pytest

import phalanx as phalanx_package
from phalanx.configs.errors import UserError
from phalanx.dist.checkpoint.directory import steps
from tests.support.running import ROOT, assert_bitwise, forked, lines, phalanx, ranks, run_script

EXACT = ["dist.reduce=exact", "train.log_every=1", "train.eval_every=null", "checkpoint.every_steps=2", "data.workers=0"]
FALLS = ("linear", "logistic", "autoencoder", "rows", "waves", "unet")  # the loss of the others follows what they have learnt
RECIPES = {
    "tables/linear.yaml": [],
    "tables/logistic.yaml": [],
    "autoencoder/autoencoder.yaml": [],
    "rows/rows.yaml": ["data.val_fraction=0.01"],
    "waves/waves.yaml": [],
    "gan/gan.yaml": ["data.val_fraction=0.005", "model.options={width: 4}"],
    "cartpole/cartpole.yaml": [],
    "unet/unet.yaml": ["data.options={target: mask, size: 32, train: 64, val: 4}", "data.image_size=32"],
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from examples.tables.tables import write_tables

    folder = tmp_path_factory.mktemp("examples")
    (folder / "examples").symlink_to(ROOT / "examples")
    write_tables(folder)
    return folder


def test_every_recipe_of_an_example_is_tried() -> None:
    assert {str(path.relative_to(ROOT / "examples")) for path in (ROOT / "examples").rglob("*.yaml")} == set(RECIPES)


@pytest.mark.parametrize("recipe", RECIPES)
def test_an_example_is_the_same_on_two_ranks_that_were_killed(folder: Path, recipe: str) -> None:
    name = Path(recipe).stem
    arguments = [f"examples/{recipe}", *RECIPES[recipe], *EXACT, "train.steps=30"]
    phalanx("train", *arguments, f"name={name}-one", cwd=folder)
    killed = folder / f"runs/{name}-two"
    running = forked(*arguments, f"name={name}-two", count=2, cwd=folder)
    running.until(lambda: len(lines(killed / "metrics.jsonl")) >= 3 and any(steps(killed / "checkpoints")))
    running.kill_all()
    ranks(2, "--resume", killed, cwd=folder)
    assert_bitwise(folder / f"runs/{name}-one", killed)
    losses = [line["train/loss"] for line in lines(folder / f"runs/{name}-one/metrics.jsonl")]
    assert all(map(math.isfinite, losses)) and (losses[-1] < losses[0] or name not in FALLS)
    if name == "gan":
        run_script("examples/gan/draw.py", "runs/gan-one", "made.png", cwd=folder)
        assert (folder / "made.png").stat().st_size > 1000
        with pytest.raises(UserError, match=r"has no methods predict and draw for images\. Give it both"):
            phalanx_package.load(folder / "runs/gan-one").predict(folder / "made.png")  # type: ignore[operator]
