"""`smp/NAME`: any network of segmentation_models.pytorch."""

import json
from pathlib import Path

import pytest
import torch

from phalanx.configs.load import load
from phalanx.launch.verbs.models import main
from phalanx.models import registry
from phalanx.models.options import BadOption
from phalanx.train.setup.checks import check_recipe
from tests.support.running import assert_bitwise, lines, phalanx, ranks

SMALL = ["data.name=shapes", "data.options={target: mask, size: 32, train: 16, val: 4}", "data.image_size=32", "data.workers=0"]
RECIPE = [
    "name=unet", "task.name=segmentation", "model.name=smp/Unet", "model.options.encoder_name=mobilenet_v2", *SMALL,
    "model.options.decoder_channels=[16, 16, 8, 8, 8]", "optim.lr=0.01", "train.global_batch=4", "train.micro_batch=2",
    "train.steps=3", "train.log_every=1", "dist.reduce=exact",
]  # fmt: skip


@pytest.mark.parametrize(("name", "encoder"), [("Unet", "resnet18"), ("Segformer", "mit_b0")])
def test_a_network_takes_channels_and_classes(name: str, encoder: str) -> None:
    channels = 3 if name == "Segformer" else 2
    network = registry.get(f"smp/{name}").build(num_classes=7, in_channels=channels, options={"encoder_name": encoder})
    assert network.eval()(torch.zeros(1, channels, 64, 64)).shape == (1, 7, 64, 64)
    assert network.block_names


def test_it_trains_alike_on_one_rank_and_two(tmp_path: Path) -> None:
    (tmp_path / "recipe.yaml").write_text("seed: 1\n")
    phalanx("train", "recipe.yaml", *RECIPE, cwd=tmp_path)
    ranks(2, "recipe.yaml", *RECIPE, "name=two", "dist.strategy=fsdp", cwd=tmp_path)
    assert_bitwise(tmp_path / "runs/unet", tmp_path / "runs/two")
    assert "val/miou" in lines(tmp_path / "runs/unet/metrics.jsonl")[-1]


def test_the_verb_models_describes_it(capsys: pytest.CaptureFixture[str]) -> None:
    main(["smp/Segformer", "--json"])
    (described,) = json.loads(capsys.readouterr().out)
    assert described["source"] == "segmentation_models.pytorch" and described["kind"] == "segmentation"


def test_what_cannot_be_is_refused() -> None:
    get = registry.get
    with pytest.raises(registry.UnknownModel, match=r"has no network 'UNet'. Did you mean smp/Unet\?"):
        get("smp/UNet").build(num_classes=2)
    with pytest.raises(BadOption, match=r"model.options.encoder: smp/Unet has no such argument. Did you mean encoder_name\?"):
        get("smp/Unet").build(num_classes=2, options={"encoder": "resnet18"})
    with pytest.raises(BadOption, match=r"smp/Unet: Wrong encoder name `resnet1`"):
        get("smp/Unet").build(num_classes=2, options={"encoder_name": "resnet1"})
    with pytest.raises(BadOption, match=r"model.options.encoder_weights. Set that, or name a file"):
        get("smp/Unet").weights_version("torchvision")
    with pytest.raises(ValueError, match=r"this is a network for segmentation, but task.name=classification"):
        check_recipe(load([], [*RECIPE, "task.name=classification", "data.name=digits", "data.options={}"]))
