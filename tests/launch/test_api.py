"""Phalanx from Python: a run is trained, evaluated, loaded and listed."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy
import pytest
import torch
from PIL import Image

import phalanx
from phalanx.configs.load import load as load_recipe
from phalanx.data.open import open_split
from tests.support.running import DIGITS, FEW_EVALUATED, clean_environment, lines
from tests.support.running import phalanx as command

SMALL = {"train.global_batch": 16, "train.micro_batch": 8, "data.workers": 0, "train.steps": 4, "train.log_every": 1}
SMALL |= {"data.image_size": 8, "checkpoint.every_steps": 2, "checkpoint.keep": 5}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("python")


@pytest.fixture
def here(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(folder)
    for name, value in clean_environment().items():
        monkeypatch.setenv(name, value)
    return folder


def test_the_package_is_light_and_says_what_it_has() -> None:
    program = "import sys, phalanx; assert 'torch' not in sys.modules and 'pydantic' not in sys.modules; print(dir(phalanx))"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=True)
    assert "__all__" in done.stdout
    for name in phalanx.__all__:
        assert getattr(phalanx, name).__doc__
    with pytest.raises(AttributeError, match="has no attribute 'train_it'"):
        _ = phalanx.train_it  # type: ignore[attr-defined]


def test_a_run_is_fitted_evaluated_and_listed(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = phalanx.fit(DIGITS, {"name": "fitted", "data.val_fraction": 0.03, **SMALL}, nproc=2)
    assert run.path == Path("runs/fitted") and run.finished and run.config.train.steps == 4
    assert [row["step"] for row in run.metrics] == [1, 2, 3, 4] and "step 4/4" in capsys.readouterr().out
    found = run.evaluate(nproc=1)
    assert found["loss"] == pytest.approx(run.metrics[-1]["val/loss"], rel=1e-5)
    assert phalanx.evaluate("runs/fitted", step=2, nproc=1)["step"] == 2
    rows = phalanx.runs()
    assert len(rows) == 1 and rows[0]["name"] == "fitted" and rows[0]["state"] == "COMPLETED" and rows[0]["step"] == 4
    table = rows.to_pandas()
    assert list(table["name"]) == ["fitted"] and table["val/loss"][0] == rows[0]["val/loss"]


def test_a_recipe_may_be_a_dictionary_and_what_is_wrong_with_it_is_said(here: Path) -> None:
    recipe: dict[str, Any] = {"name": "made", "data": {"name": "digits", "image_size": 8, "val_fraction": 0.03, "workers": 0}}
    recipe |= {"model": {"name": "./resnet18.py:Narrow"}, "optim": {"lr": 0.1, "no_decay": ["bias"]}}
    recipe |= {"train": {"global_batch": 8, "micro_batch": 4, "steps": 1}}
    assert phalanx.fit(recipe, nproc=1).finished
    with pytest.raises(phalanx.UserError, match="without a name"):
        phalanx.fit({})
    with pytest.raises(phalanx.UserError, match=r"optim\.lr"):
        phalanx.fit(recipe, {"optim.lr": -1})
    with pytest.raises(phalanx.UserError, match="there is no file"):
        phalanx.fit(recipe, {"name": "other", "model.name": "./nowhere.py:Net"}, nproc=1)
    with pytest.raises(phalanx.UserError, match="there is no run here"):
        phalanx.load("runs/nothing")
    with pytest.raises(phalanx.UserError, match="there is no such folder"):
        phalanx.runs("nowhere")


def test_a_loaded_network_predicts_what_the_command_does(here: Path) -> None:
    network: Any = phalanx.load("runs/fitted")
    config = load_recipe([DIGITS], [f"{key}={value}" for key, value in SMALL.items()] + [FEW_EVALUATED])
    validation: Any = open_split(config.data, "val", config.seed)
    image = (validation[0]["image"][0] * 255).round().to(torch.uint8)
    Image.fromarray(image.numpy()).save("digit.png")
    command("predict", "runs/fitted", "digit.png", "-o", "seen", cwd=here)
    (written,) = json.loads((here / "seen/predictions.json").read_text())

    assert network.classes == validation.classes and not network.training
    given = ["digit.png", Image.open("digit.png"), image.numpy(), numpy.stack([image.numpy()] * 3, axis=2), image.unsqueeze(0)]
    for found in network.predict(given):
        assert found["label"] == written["label"] and found["probability"] == pytest.approx(written["probability"], rel=1e-5)
    assert network.predict("digit.png")["label"] == written["label"]
    prepared = network.preprocess(image.numpy())
    assert prepared.shape == (1, 8, 8) and prepared.dtype == torch.float32
    with torch.no_grad():
        logits = network(prepared.unsqueeze(0))
    assert logits.shape == (1, 10) and int(logits.argmax()) == written["class"]
    with pytest.raises(phalanx.UserError, match=r"an image of shape \[2, 3, 4, 5\]"):
        network.predict(torch.zeros(2, 3, 4, 5))


def test_a_file_of_weights_loads_as_its_run_does(here: Path) -> None:
    command("checkpoint", "consolidate", "runs/fitted", "--step", "2", "-o", "net.safetensors", cwd=here)
    one, other = phalanx.load("net.safetensors"), phalanx.load("runs/fitted", step=2)
    images = torch.randn(3, 1, 8, 8)
    with torch.no_grad():
        assert torch.equal(one(images), other(images))
    assert one.classes == other.classes
    (here / "net.json").rename(here / "kept.json")
    with pytest.raises(phalanx.UserError, match=r"net\.json, which describes it, is not beside it"):
        phalanx.load("net.safetensors")


def test_an_interrupt_saves(here: Path) -> None:
    program = (
        "import phalanx, sys\n"
        f"run = phalanx.fit({DIGITS!r}, ['name=interrupted', 'train.steps=100000', 'train.log_every=1', 'data.workers=0',"
        " 'data.image_size=8'], nproc=1)\n"
        "print('finished', run.finished, run.metrics[-1]['step'])\n"
    )
    # The interrupt is ignored in what a shell without job control starts in the background, as these tests may be.
    process = subprocess.Popen(
        [sys.executable, "-c", program],
        cwd=here,
        env=clean_environment(),
        stdout=subprocess.PIPE,
        text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    logged = here / "runs/interrupted/metrics.jsonl"
    deadline = time.monotonic() + 100
    while len(lines(logged)) < 3 and time.monotonic() < deadline:
        time.sleep(0.1)
    os.kill(process.pid, signal.SIGINT)
    said, _ = process.communicate(timeout=60)
    assert "finished False" in said and (here / "runs/interrupted/checkpoints").is_dir() and process.returncode == 0
