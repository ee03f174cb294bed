"""A user's own network: called with what it takes, refused with a sentence, seen once before it is wrapped."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from phalanx.configs.errors import UserError
from phalanx.configs.load import load
from phalanx.configs.own_code import load_own
from phalanx.models import registry
from phalanx.train.setup import build
from phalanx.train.setup.checks import check_model
from phalanx.train.setup.probe import probe
from phalanx.train.tasks import DataInfo, phases_of
from phalanx.train.tasks import build as build_task
from phalanx.train.tasks.output_heads import Heads
from tests.support.running import RESNET18, ROOT

FILE = str(ROOT / "benchmarks/support/own_networks.py")
DATA = DataInfo(tuple("0123456789"), 1)


def network(name: str, *overrides: str) -> nn.Module:
    config = load([RESNET18], [f"model.name={name}", "model.stem=standard", *overrides])
    check_model(config)
    return build.network(config, DATA)


def probed(name: str, *overrides: str) -> tuple[nn.Module, list[str]]:
    config = load([RESNET18], [f"model.name={FILE}:{name}", "model.stem=standard", *overrides])
    model, task = build.network(config, DATA), build_task(config, DATA)
    batch = {"image": torch.randn(4, 1, 8, 8), "target": torch.arange(4), "id": torch.arange(4), "epoch": torch.zeros(4)}
    return model, probe(model, phases_of(task), batch)


def test_what_it_takes_is_given_and_its_options_are_its_arguments() -> None:
    model: Any = network(f"{FILE}:ConvNet", "model.options.width=4", "model.dropout=0.3")
    assert model.head.out_features == 10 and model.features[0].in_channels == 1 and model.features[0].out_channels == 4
    assert model.dropout.p == 0.3


def test_a_function_and_a_class_of_an_installed_package_make_networks() -> None:
    assert isinstance(network(f"{FILE}:make", "model.options.kind=plain"), nn.Module)
    assert isinstance(network("torchvision.models:resnet18", "model.options.width_per_group=64"), nn.Module)


@pytest.mark.parametrize(
    ("name", "overrides", "said"),
    [
        ("./nowhere.py:Net", [], "there is no file ./nowhere.py"),
        (f"{FILE}:Convnet", [], "has no Convnet. Did you mean ConvNet?"),
        (FILE, [], "your own class is named by file and class, ./file.py:Class"),
        (f"{FILE}:NoModule", [], "it made a NoModule, not a torch.nn.Module"),
        (f"{FILE}:make", [], "it needs the argument kind. Set model.options.kind."),
        (f"{FILE}:make", ["model.options.kind=lazy"], "the size of 1.weight is not known before a first forward"),
        (f"{FILE}:ConvNet", ["model.options.widht=4"], "model.options.widht: "),
        (f"{FILE}:ConvNet", ["model.options.widht=4"], "Did you mean width?"),
        (f"{FILE}:ConvNet", ["model.drop_path=0.1"], "has no argument drop_path"),
        (f"{FILE}:ConvNet", ["model.weights=torchvision"], "nobody publishes weights"),
        ("no_such_package.nets:Net", [], "there is no installed package no_such_package"),
        ("torchvision.nets:Net", [], "there is no installed module torchvision.nets"),
        ("torchvision.models:resnet", ["model.options={}"], "not a"),
        ("torchvision.models:resnett18", [], "the module torchvision.models has no resnett18. Did you mean resnet18?"),
    ],
)
def test_what_is_wrong_is_said_in_a_sentence(name: str, overrides: list[str], said: str) -> None:
    with pytest.raises(UserError) as refused:
        network(name, *overrides)
    assert said in str(refused.value) and str(refused.value).startswith("model.")


def test_an_exception_of_the_users_own_code_passes(tmp_path: Path) -> None:
    file = tmp_path / "net.py"
    file.write_text("def make(num_classes):\n    return [][num_classes]\n")
    with pytest.raises(IndexError):
        network(f"{file}:make")


def test_an_unused_head_is_frozen_and_named() -> None:
    model, said = probed("UnusedHead")
    assert said == ["no loss depends on the parameter unused.0.weight and 3 more: it is not trained (as with model.freeze)"]
    assert {n for n, p in model.named_parameters() if not p.requires_grad} == {
        *("unused.0.weight", "unused.0.bias", "unused.1.weight", "unused.1.bias")
    }
    assert "unused.0" not in model.block_names  # type: ignore[operator]


def test_blocks_are_those_that_run_on_their_own() -> None:
    model, said = probed("Transformer")
    assert not said and model.block_names == ("layers.0", "layers.1", "gate.1")
    tied, said = probed("Tied")
    assert not said and tied.block_names == ("decoder.0",)


def test_nothing_is_changed_by_the_look() -> None:
    before = network(f"{FILE}:ConvNet").state_dict()
    model, said = probed("ConvNet")
    after = model.state_dict()
    assert not said and all(torch.equal(before[name], after[name]) for name in before)
    assert all(module.training for module in model.modules()) and not any(p.grad is not None for p in model.parameters())


def test_what_depends_on_more_than_the_sample_is_named() -> None:
    _, said = probed("Mixes")
    assert any("depends on the other samples of its micro-batch" in sentence for sentence in said)
    assert any("two forwards with the same input and seed gave different losses" in sentence for sentence in said)


@pytest.mark.parametrize(
    ("output", "names"),
    [
        (torch.zeros(2, 10), ["out"]),
        ([torch.zeros(2, 10), torch.zeros(2, 10)], ["out", "aux1"]),
        ({"logits": torch.zeros(2, 10), "features": torch.zeros(2, 5)}, ["out"]),
        ({"out": torch.zeros(2, 10), "aux": torch.zeros(2, 10)}, ["out", "aux1"]),
    ],
)
def test_logits_are_found_in_what_a_network_returns(output: Any, names: list[str]) -> None:
    heads = Heads(load([RESNET18], []), 10)
    assert list(heads.of(output, torch.zeros(2, 1, 8, 8))) == names


@pytest.mark.parametrize(
    ("output", "shown"),
    [
        (torch.zeros(2, 7), "a tensor [2, 7]"),
        ({"features": torch.zeros(2, 5)}, "a dictionary (features: a tensor [2, 5])"),
        ("text", "a str"),
        ([], "a list ()"),
    ],
)
def test_an_output_that_the_task_cannot_use_is_said(output: Any, shown: str) -> None:
    heads = Heads(load([RESNET18], []), 10)
    with pytest.raises(UserError) as refused:
        heads.main(output, torch.zeros(2, 1, 8, 8))
    assert f"returned {shown}, but task.name=classification needs logits [2, 10]" in str(refused.value)


def test_masks_have_the_size_of_the_image() -> None:
    heads = Heads(load([RESNET18], ["task.name=segmentation"]), 3, maps=True)
    images = torch.zeros(2, 3, 8, 6)
    assert heads.main({"out": torch.zeros(2, 3, 8, 6)}, images).shape == (2, 3, 8, 6)
    with pytest.raises(UserError, match="needs logits"):
        heads.main(torch.zeros(2, 3, 4, 3), images)


def test_its_own_name_needs_no_import_of_the_file(tmp_path: Path) -> None:
    file = tmp_path / "net.py"
    file.write_text("class Net: pass\nraise RuntimeError('imported')\n")
    check_model(load([RESNET18], [f"model.name={file}:Net", "model.stem=standard"]))
    assert registry.get(f"{file}:Net").kind == "own"
    with pytest.raises(RuntimeError, match="imported"):
        load_own("model.name", f"{file}:Net")
