"""A user's own network: under every strategy, through a kill, and in all verbs."""

import json
import shutil
from pathlib import Path

import numpy
import pytest
from safetensors.numpy import load_file

from benchmarks.grid import EXACT, Cell, measure
from benchmarks.support.rank_pool import Pool
from tests.support.running import FEW_EVALUATED, RESNET18, ROOT, assert_bitwise, forked, is_saved, lines, phalanx, ranks

FILE = ROOT / "benchmarks/support/own_networks.py"
OWN = "benchmarks.support.own_networks:"
RECIPE = [RESNET18, "model.name=./net.py:ConvNet", "model.options.width=4", "train.global_batch=16", "train.micro_batch=4"]
RECIPE += ["data.workers=0", "train.log_every=1", "dist.reduce=exact", FEW_EVALUATED]
CELLS = [
    (Cell(f"{OWN}ConvNet", "DDP, SyncBN", "bf16"), []),
    (Cell(f"{OWN}ConvNet", EXACT, "fp32"), []),
    (Cell(f"{OWN}Transformer", "FSDP2", "fp32"), []),
    (Cell(f"{OWN}Transformer", EXACT, "fp32"), ["dist.strategy=fsdp"]),
    (Cell(f"{OWN}ReturnsDictionary", "ZeRO-2", "fp32"), []),
    (Cell(f"{OWN}ReturnsDictionary", "FSDP2", "bf16"), ["dist.gather=half"]),
    (Cell(f"{OWN}UnusedHead", "ZeRO-2", "bf16"), ["dist.strategy=zero3"]),
    (Cell(f"{OWN}UnusedHead", "FSDP2", "fp32"), []),
    (Cell(f"{OWN}Temperature", "FSDP2", "fp32"), ["train.clip_norm=0.5", "dist.offload=true"]),
    (Cell(f"{OWN}Temperature", EXACT, "fp32"), ["dist.strategy=fsdp", "train.clip_norm=0.5", "optim.name=adamw"]),
    (Cell(f"{OWN}Tied", "ZeRO-2", "fp32"), ["dist.strategy=zero1"]),
    (Cell(f"{OWN}Tied", "FSDP2", "fp32"), []),
]


@pytest.mark.parametrize(
    ("cell", "changes"), CELLS, ids=[f"{c.network.partition(':')[2]}-{c.way}-{c.precision}" for c, _ in CELLS]
)
def test_an_own_network_trains_agrees_and_resumes(pool: Pool, cell: Cell, changes: list[str]) -> None:
    figures = measure(pool, cell, changes)
    assert figures["ok"], figures


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    shutil.copy(FILE, tmp_path / "net.py")
    return tmp_path


def test_a_run_is_killed_resized_evaluated_predicts_and_is_consolidated(folder: Path) -> None:
    length = ["train.steps=30", "checkpoint.every_steps=2"]
    ranks(2, *RECIPE, *length, "name=unbroken", cwd=folder)
    killed = folder / "runs/killed"
    running = forked(*RECIPE, *length, "name=killed", count=2, cwd=folder)
    running.until(lambda: len(lines(killed / "metrics.jsonl")) >= 3 and is_saved(killed))
    running.kill_all()
    (folder / "net.py").write_text((folder / "net.py").read_text() + "\n# edited\n")
    resumed = ranks(3, "--resume", killed, cwd=folder)
    assert "./net.py:ConvNet was edited since the run was last started" in resumed.output
    assert_bitwise(killed, folder / "runs/unbroken")

    logged = lines(killed / "metrics.jsonl")[-1]
    found = json.loads(phalanx("evaluate", killed, "--json", cwd=folder).output.splitlines()[-1])
    assert found["loss"] == pytest.approx(logged["val/loss"], rel=1e-5)
    phalanx("checkpoint", "consolidate", killed, "-o", "net.safetensors", cwd=folder)
    weights = load_file(folder / "net.safetensors")
    assert weights["features.0.weight"].shape == (4, 1, 3, 3) and numpy.isfinite(weights["head.bias"]).all()
    started = phalanx("train", *RECIPE, "model.weights=net.safetensors", "train.steps=1", "name=from_weights", cwd=folder)
    assert "net.safetensors" in started.output


def test_a_network_that_no_longer_fits_its_checkpoint_is_refused(folder: Path) -> None:
    phalanx("train", *RECIPE, "train.steps=2", "name=a", cwd=folder)
    text = (folder / "net.py").read_text()
    (folder / "net.py").write_text(
        text.replace("nn.Linear(2 * width, num_classes)", "nn.Linear(2 * width, num_classes, False)")
    )
    refused = phalanx("resume", "runs/a", "train.steps=4", cwd=folder, expect=2)
    assert "head.bias" in refused.errors and "Traceback" not in refused.errors


def test_an_output_that_does_not_fit_is_refused_before_the_first_step(folder: Path) -> None:
    (folder / "bad.py").write_text(
        "from torch import nn\n"
        "class Net(nn.Module):\n"
        "    def __init__(self, in_channels):\n"
        "        super().__init__()\n"
        "        self.conv = nn.Conv2d(in_channels, 7, 3)\n"
        "    def forward(self, x):\n"
        "        return {'features': self.conv(x).mean((2, 3))}\n"
    )
    refused = ranks(2, *RECIPE[:1], "model.name=./bad.py:Net", "data.workers=0", "name=bad", cwd=folder, expect=2)
    assert "returned a dictionary (features: a tensor [16, 7])" in refused.errors.replace("[2, 7]", "[16, 7]")
    assert "needs logits" in refused.errors and "Traceback" not in refused.errors and not (folder / "runs/bad").exists()


def test_inputs_may_be_dictionaries_of_the_user_s_own_dataset(folder: Path) -> None:
    recipe = [RESNET18, "model.name=./net.py:Nested", "data.name=./net.py:NestedData", "data.augment.shift=0"]
    recipe += ["train.global_batch=16", "train.micro_batch=4", "train.steps=6", "data.workers=1", "dist.reduce=exact"]
    ranks(2, *recipe, "name=two", cwd=folder)
    phalanx("train", *recipe, "name=one", cwd=folder)
    assert_bitwise(folder / "runs/two", folder / "runs/one")
    phalanx("evaluate", "runs/two", cwd=folder)


DETECTOR = """
from torch import nn
from torchvision.models.detection import FasterRCNN
from torchvision.models.detection.rpn import AnchorGenerator
from torchvision.ops import MultiScaleRoIAlign


def detector(num_classes):
    body = nn.Sequential(*(layer for n in (3, 8, 16) for layer in (nn.Conv2d(n, 8 if n == 3 else 16, 3, 2, 1), nn.ReLU())))
    body.out_channels = 16
    return FasterRCNN(
        body, num_classes, min_size=64, max_size=64, rpn_anchor_generator=AnchorGenerator(((16, 32),), ((1.0,),)),
        box_roi_pool=MultiScaleRoIAlign(["0"], 3, 2), rpn_post_nms_top_n_train=20, rpn_post_nms_top_n_test=20,
        rpn_batch_size_per_image=16, box_batch_size_per_image=16, box_score_thresh=0.0,
    )


class Wrong(nn.Module):
    def __init__(self):
        super().__init__()
        self.scale = nn.Parameter(__import__("torch").ones(1))

    def forward(self, images, targets=None):
        return self.scale * images[0].mean()
"""


def test_a_detector_is_called_as_torchvision_s_are(tmp_path: Path) -> None:
    (tmp_path / "boxes.py").write_text(DETECTOR)
    recipe = [RESNET18, "data.name=shapes", "data.options={target: boxes, size: 64, train: 12, val: 4}", "data.image_size=64"]
    recipe += ["task.name=detection", "model.name=./boxes.py:detector", "train.global_batch=4", "train.micro_batch=2"]
    recipe += ["data.workers=0", "train.steps=4", "data.augment.shift=0", "evaluate.score=0", "dist.reduce=exact"]
    ranks(2, *recipe, "name=two", cwd=tmp_path)
    phalanx("train", *recipe, "name=one", cwd=tmp_path)
    assert_bitwise(tmp_path / "runs/two", tmp_path / "runs/one")
    last = lines(tmp_path / "runs/two/metrics.jsonl")[-1]
    assert {"train/loss/loss_classifier", "train/loss/loss_rpn_box_reg"} <= set(last) and 0 <= last["val/ap50"] <= 1
    phalanx("evaluate", "runs/two", cwd=tmp_path)
    for change, said in (
        (
            "model.name=./boxes.py:Wrong",
            "the network returned a tensor [1], but task.name=detection needs a dictionary of losses",
        ),
        ("task.name=instance", "a detector of your own learns boxes"),
    ):
        refused = phalanx("train", *recipe, change, "name=wrong", cwd=tmp_path, expect=2)
        assert said in refused.errors and "Traceback" not in refused.errors


def test_models_describes_it(folder: Path) -> None:
    shown = phalanx("models", "./net.py:ConvNet", cwd=folder)
    assert "parameters" in shown.output and "ConvNet" in shown.output
