"""Exported networks compute what torch does, for one of each family; a file tells all that a program needs to use it."""

import json
import subprocess
import sys
from argparse import Namespace
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy
import onnxruntime
import pytest
import torch
from PIL import Image
from safetensors import safe_open

import phalanx
from phalanx.configs.errors import TrainingFailed, UserError
from phalanx.configs.load import load
from phalanx.launch.main import main
from phalanx.models import registry
from phalanx.models.detection.inference import Inference
from phalanx.models.detection.yolo.detector import Yolo
from phalanx.train.exporting import graph_files as files
from phalanx.train.exporting import usage_script
from phalanx.train.exporting.export_run import of_one_size
from phalanx.train.exporting.exportable import Logits, Probabilities, Values, YoloDetections, exportable
from tests.support.running import DIGITS, ROOT
from tests.support.running import phalanx as command

STATISTICS = (0.4, 0.5, 0.6), (0.2, 0.3, 0.25)
CLASSIFIERS = {"resnet18": 64, "vgg11_bn": 64, "googlenet": 64, "swin_t": 64, "convnext_tiny": 64, "vit_b_16": 32}
DECODERS = ["deeplabv3plus", "pspnet", "fcn8s", "segnet", "unet", "attention_unet"]


def network(name: str, **more: Any) -> torch.nn.Module:
    torch.manual_seed(0)
    return registry.get(name).build(num_classes=4, **more).eval()


def batches(height: int, width: int, *sizes: int) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    return [torch.rand(size, 3, height, width, generator=generator) for size in sizes]


@pytest.mark.parametrize("name", CLASSIFIERS)
def test_a_classifier_computes_the_same_on_any_batch(name: str, tmp_path: Path) -> None:
    side, in_onnx = CLASSIFIERS[name], name in ("resnet18", "convnext_tiny")  # the others take longer
    model = Probabilities(network(name, image_size=side), *STATISTICS, several=False).eval()
    write = files.write_onnx if in_onnx else files.write_program
    assert write(model, tmp_path / "file", batches(side, side, 2, 3, 1)) < 1e-5
    (five,) = batches(side, side, 5)
    if in_onnx:
        session = onnxruntime.InferenceSession(tmp_path / "file")
        found = torch.from_numpy(session.run(None, {"image": five.numpy()})[0])
        assert session.get_outputs()[0].name == "probabilities" and session.get_inputs()[0].shape[1:] == [3, side, side]
    else:
        found = torch.export.load(tmp_path / "file").module()(five)
    normalised = (five - torch.tensor(STATISTICS[0]).view(3, 1, 1)) / torch.tensor(STATISTICS[1]).view(3, 1, 1)
    with torch.no_grad():
        assert torch.allclose(found, model.network(normalised).softmax(1), atol=1e-5)


@pytest.mark.parametrize("name", DECODERS)
def test_a_decoder_computes_the_same_as_a_program_and_in_onnx(name: str, tmp_path: Path) -> None:
    more = {"backbone": "resnet18"} if name in ("deeplabv3plus", "pspnet") else {}
    more |= {"options": {"hidden": 16}} if name == "fcn8s" else {"options": {"width": 8}} if name.endswith("unet") else {}
    model = Logits(network(name, **more), *STATISTICS).eval()
    write = files.write_onnx if name in ("deeplabv3plus", "unet") else files.write_program
    assert write(model, tmp_path / "file", batches(64, 96, 2, 1)) < 1e-5


@pytest.mark.parametrize("name", ["yolov5n", "yolov8n"])
def test_a_yolo_network_computes_the_same_with_its_suppression(name: str, tmp_path: Path) -> None:
    detector: Any = network(name)
    for module in detector.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.momentum = 1.0
    with torch.no_grad():  # statistics of such images; otherwise all cells predict nearly the same
        detector.train().decoded(*batches(96, 128, 4))
    detector.eval()
    model = YoloDetections(detector, (0.0,) * 3, (1.0,) * 3, Inference(score=0.0, nms_iou=0.5, detections=50)).eval()
    write = files.write_onnx if name == "yolov8n" else files.write_program
    assert write(model, tmp_path / "file", batches(96, 128, 1)) < 1e-3
    with torch.no_grad():
        assert 10 < len(model(*batches(96, 128, 1))[0]) <= 50


class Scattered(Yolo):
    """Boxes of any size anywhere, with scores of their own."""

    def __init__(self) -> None:
        body = torch.nn.Identity()
        body.block_names = ()  # type: ignore[assignment]
        super().__init__(body, torch.nn.Identity(), 3)

    def _outputs(self, batch: torch.Tensor) -> list[torch.Tensor]:
        generator = torch.Generator().manual_seed(5)
        return [torch.rand(1, 300, 4, generator=generator) * 100, torch.rand(1, 300, 3, generator=generator)]

    def _losses(self, *_: Any) -> Any:
        raise NotImplementedError

    def _decoded(self, outputs: list[torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor]:
        return torch.cat([outputs[0][..., :2], outputs[0][..., :2] + outputs[0][..., 2:]], dim=-1), outputs[1]


@pytest.mark.parametrize(
    "wanted",
    [Inference(0.4, 0.5, 100), Inference(0.0, 0.3, 20), Inference(0.95, 0.7, 300), Inference(0.4, 0.7, 300, one_label=True)],
)
def test_detections_are_those_of_an_evaluation(wanted: Inference) -> None:
    detector, image = Scattered(), torch.zeros(1, 3, 96, 128)
    boxes, scores, labels = YoloDetections(detector, (0.0,) * 3, (1.0,) * 3, wanted)(image)
    (own,) = detector(image, inference=wanted)
    assert 10 < len(boxes) <= wanted.detections
    assert torch.equal(boxes, own["boxes"]) and torch.equal(scores, own["scores"]) and torch.equal(labels, own["labels"])
    if wanted.one_label:  # each cell has a box of its own
        assert len({tuple(box) for box in boxes.tolist()}) == len(boxes) and float(scores.min()) > 0.4


class Wrong(Values):
    """Computes something else each time."""

    def outputs(self, image: torch.Tensor) -> torch.Tensor:
        return self.network(image) + torch.rand(())


def test_a_file_that_computes_something_else_is_not_written(tmp_path: Path) -> None:
    model = Wrong(torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(3 * 64, 2)), *STATISTICS).eval()
    with pytest.raises(TrainingFailed, match="computes other numbers than torch, by"):
        files.write_program(model, tmp_path / "file.pt2", batches(8, 8, 2))
    assert not list(tmp_path.iterdir())
    assert files.difference([torch.zeros(2)], [torch.zeros(3)]) == float("inf")


def test_detections_are_compared_with_their_nearest_of_the_same_class() -> None:
    boxes, scores, labels = torch.rand(60, 4) * 50, torch.rand(60), torch.arange(60) % 3
    own = boxes, scores, labels
    turned = torch.randperm(60)
    assert files.of_detections(own, [each[turned] for each in own]) == 0
    assert files.of_detections(own, (boxes, scores + 5e-4, labels)) == pytest.approx(5e-4, abs=1e-6)
    assert files.of_detections(own, (boxes[1:], scores[1:], labels[1:])) == 0  # one of 119 lacks a partner
    for other in ((boxes, scores, (labels + 1) % 3), (boxes + 1, scores, labels), (boxes[:50], scores[:50], labels[:50])):
        assert files.of_detections(own, other) == float("inf")
    nothing = boxes[:0], scores[:0], labels[:0]
    assert files.of_detections(nothing, nothing) == 0 and files.of_detections(own, nothing) == float("inf")


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("exported")
    small = ["model.stem=small", "data.image_size=16", "data.augment.shift=0", "train.global_batch=64", "train.steps=12"]
    command("train", DIGITS, *small, "name=run", "dist.device=cpu", cwd=folder)
    (folder / "image.png").write_bytes(b"")
    from sklearn.datasets import load_digits

    Image.fromarray((load_digits().images[5] * 15).astype("uint8")).save(folder / "image.png")
    return folder


Called = Callable[..., int]


@pytest.fixture
def called(trained: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Called]:
    """A verb in this process, in that folder."""
    monkeypatch.chdir(trained)
    threads = torch.get_num_threads()
    yield lambda *words: main(list(words))
    torch.set_num_threads(threads)


@pytest.mark.parametrize("suffix", ["onnx", "pt2"])
def test_the_script_beside_a_graph_prints_what_predict_does(
    trained: Path, called: Called, suffix: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert called("export", "runs/run", "-o", f"{suffix}_file.{suffix}") == 0
    said = capsys.readouterr().out
    assert f"{suffix}_file.{suffix}: image [B, 1, 16, 16], pixels between 0 and 1, to probabilities" in said
    assert "checked on 3 batches of validation images" in said
    script = [sys.executable, f"{suffix}_file.py", "image.png"]
    printed = subprocess.run(script, cwd=trained, capture_output=True, text=True, check=True, timeout=120).stdout.split()
    assert called("predict", "runs/run", "image.png", "-o", "found") == 0
    (result,) = json.loads((trained / "found/predictions.json").read_text())
    assert printed[1::2] == [entry["label"] for entry in result["top"]]
    assert numpy.allclose(
        [float(number) for number in printed[::2]], [entry["probability"] for entry in result["top"]], atol=0.02
    )


def test_weights_describe_themselves(trained: Path, called: Called) -> None:
    assert called("export", "runs/run", "-o", "alone.safetensors") == 0
    with safe_open(trained / "alone.safetensors", "pt") as opened:
        described = json.loads(opened.metadata()["phalanx"])
    assert described["classes"] == [str(digit) for digit in range(10)] and described["recipe"]["data"]["image_size"] == 16
    loaded, own = phalanx.load(trained / "alone.safetensors"), phalanx.load(trained / "runs/run")
    image = trained / "image.png"
    assert loaded.predict(image) == own.predict(image)  # type: ignore[operator]
    assert called("predict", "alone.safetensors", "image.png", "-o", "by_file") == 0
    assert called("export", "alone.safetensors", "-o", "again.pt2") == 0


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["runs/run"], "export needs -o"),
        (["runs/run", "-o", "a.pb"], "the formats are .onnx, .pt2, .safetensors. Name a.onnx"),
        (["runs/run", "-o", "no/a.onnx"], "there is no folder no"),
        (["runs/none", "-o", "a.onnx"], "there is no run here"),
        (["mine.safetensors", "-o", "a.onnx", "--best"], "a file holds one network"),
        (["mine.safetensors", "-o", "a.onnx"], "mine.json, which describes it, is not beside it"),
        (["mine.safetensors", "-o", "mine.safetensors"], "this is the file to read"),
        (["runs/run", "-o", "mine.onnx"], "mine.py: `export` did not write this file"),
    ],
)
def test_what_cannot_be_exported_is_refused(
    trained: Path, called: Called, arguments: list[str], sentence: str, capsys: pytest.CaptureFixture[str]
) -> None:
    (trained / "mine.py").write_text("print()")
    from safetensors.torch import save_file

    save_file({"weight": torch.zeros(1)}, trained / "mine.safetensors")
    assert called("export", *arguments) == 2 and sentence in capsys.readouterr().err


def test_other_detectors_are_refused_by_name() -> None:
    config = load([str(ROOT / "configs/recipes/shapes_maskrcnn.yaml")], [])
    asked: Any = Namespace(network=torch.nn.Identity(), pipeline=Namespace(mean=(0.5,), std=(0.5,)))
    with pytest.raises(UserError, match="only YOLO networks are exported as a graph"):
        exportable(asked, config)


def test_a_graph_has_one_size_where_an_evaluation_has_many() -> None:
    ade = load([str(ROOT / "configs/recipes/ade20k_pspnet.yaml")], [])
    cityscapes = load([str(ROOT / "configs/recipes/cityscapes_pspnet.yaml")], [])
    for config in (ade, cityscapes):
        found = of_one_size(config)
        assert found.evaluate.size is None and found.evaluate.fit is None
    imagenet = load([str(ROOT / "configs/recipes/imagenet_resnet50_v2.yaml")], [])
    assert of_one_size(imagenet) is imagenet and imagenet.evaluate.size == 224


def test_weights_that_layers_share_are_written_for_each(tmp_path: Path) -> None:
    one = torch.nn.Linear(3, 3)
    files.write_weights(torch.nn.Sequential(one, one).state_dict(), tmp_path / "a.safetensors", {})
    with safe_open(tmp_path / "a.safetensors", "pt") as opened:
        assert torch.equal(opened.get_tensor("0.weight"), opened.get_tensor("1.weight"))


@pytest.mark.parametrize(
    ("overrides", "line"),
    [
        (["data.interpolation=bicubic"], "image = image.resize((WIDTH, HEIGHT), Image.BICUBIC)"),
        (["data.fit=pad"], "left, top, x_ratio, y_ratio = (WIDTH - inner.width) // 2,"),
        (["data.fit=pad", "data.pad=right_below", "data.fill=[0.447]"], "image = Image.new('L', (WIDTH, HEIGHT), 114)"),
        (["data.fit=crop", "data.crop_share=0.9"], "ratio = max(WIDTH / width, HEIGHT / height) / 0.9"),
    ],
)
def test_the_script_fits_images_as_the_recipe_does(overrides: list[str], line: str) -> None:
    asked: Any = Namespace(channels=1, classes=("a", "b"), pipeline=Namespace(mean=(0.5,)))
    model = Probabilities(torch.nn.Identity(), (0.5,), (0.5,), several=False)
    text = usage_script.script("a.onnx", model, asked, load([DIGITS], overrides))
    compile(text, "a.py", "exec")
    assert line in text
