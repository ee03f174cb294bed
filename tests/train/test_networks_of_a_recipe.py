"""From the keys `model.*` to a network: what it takes of the data, where it starts from, what is refused before ranks start."""

from pathlib import Path

import pytest
import torch
import torchvision

from phalanx.configs.errors import UserError
from phalanx.configs.load import load
from phalanx.configs.schema import RunConfig, digest
from phalanx.train.setup import build
from phalanx.train.setup.checks import check_model
from tests.support.running import RESNET18


def config(*overrides: str) -> RunConfig:
    return load([RESNET18], overrides)


def test_published_weights_fill_a_network_of_other_channels_and_classes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    file = tmp_path / "hub/checkpoints/resnet18-f37072fd.pth"
    file.parent.mkdir(parents=True)
    state = torchvision.models.resnet18().state_dict()
    torch.save(state, file)
    given = config("model.weights=torchvision", "model.fresh=[fc.*]")
    check_model(given)
    made = build.build_local(given)
    found = made.model.state_dict()
    assert torch.equal(found["layer4.1.conv2.weight"], state["layer4.1.conv2.weight"])
    assert torch.equal(found["conv1.weight"], state["conv1.weight"].sum(1, keepdim=True))
    assert torch.equal(found["fc.weight"], build.build_local(config()).model.state_dict()["fc.weight"])
    assert str(file) in str(made.loaded) and "2 start fresh" in str(made.loaded)
    mean, deviation = build.statistics(given, 1) or ((), ())
    assert mean == pytest.approx([0.449]) and deviation == pytest.approx([0.226])
    assert build.statistics(config(), 1) is None


def test_published_weights_fill_the_backbone_of_a_network_for_segmentation(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    file = tmp_path / "hub/checkpoints/resnet18-f37072fd.pth"
    file.parent.mkdir(parents=True)
    state = torchvision.models.resnet18().state_dict()
    torch.save(state, file)
    shapes = ["data.name=shapes", "data.options={target: mask, train: 8, val: 2}", "task.name=segmentation"]
    given = config(*shapes, "model.name=deeplabv3plus", "model.backbone=resnet18", "model.backbone_weights=torchvision")
    check_model(given)
    made = build.build_local(given)
    found = made.model.state_dict()
    assert all(torch.equal(found[f"backbone.{name}"], tensor) for name, tensor in state.items() if not name.startswith("fc."))
    assert made.loaded is not None and made.loaded.tensors == len(state) - 2
    assert build.statistics(given, 3) == ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))


REFUSED = {
    "model.name=resnet51: there is no network 'resnet51'": ["model.name=resnet51"],
    "model.stem=small: vgg11 has no such option": ["model.name=vgg11", "model.stem=small"],
    "data.image_size=40: vit_b_16 cuts images": ["model.name=vit_b_16", "data.image_size=40"],
    "data.image_size=32: inception_v3 leaves nothing": ["model.name=inception_v3"],
    "torchvision has no such weights of resnet18": ["model.weights=torchvision/V9"],
    r"model.fresh=fc.\*: without model.weights": ["model.fresh=[fc.*]"],
    "model.name=resnet18: this is a network for classification, but task.name=segmentation": ["task.name=segmentation"],
    "model.name=unet: this is a network for segmentation, but task.name=classification": ["model.name=unet"],
    "model.output_stride=8: swin_t has no such option": ["model.name=pspnet", "model.backbone=swin_t", "model.output_stride=8"],
    "model.options.grid: deeplabv3 has no such option": ["model.name=deeplabv3", "model.options={grid: 1}"],
    "torchvision publishes no weights of pspnet": ["model.name=pspnet", "model.weights=torchvision"],
    "model.backbone_weights=torchvision: resnet18 has no backbone": ["model.backbone_weights=torchvision"],
    "model.backbone_weights=torchvision/V9: torchvision has no such weights of resnet50": [
        "model.name=pspnet",
        "model.backbone_weights=torchvision/V9",
    ],
    "model.weights=w.pth fills the backbone too": [
        "model.name=pspnet",
        "model.backbone_weights=torchvision",
        "model.weights=w.pth",
    ],
}


@pytest.mark.parametrize("sentence", REFUSED)
def test_what_a_network_cannot_be_is_refused_before_anything_is_built(sentence: str) -> None:
    with pytest.raises(UserError, match=sentence):
        check_model(config(*REFUSED[sentence]))


def test_options_left_to_the_network_are_no_part_of_an_experiment_s_digest() -> None:
    assert digest(config()) == digest(config("model.dropout=null", "model.drop_path=null", "model.output_stride=null"))
    assert digest(config("model.dropout=0.0")) != digest(config())


def test_a_colon_in_a_name_that_is_not_of_a_class_is_refused() -> None:
    with pytest.raises(UserError, match=r"model.name=C:\\a: your own class is named by file and class"):
        check_model(config("model.name='C:\\a'"))
