"""`phalanx models`: a table at once, all about one network, JSON."""

import json
import sys

import pytest

from phalanx.launch.main import main
from phalanx.models import registry
from tests.support.running import ROOT, run


def test_the_list_names_every_network_without_importing_torch() -> None:
    program = "import sys; from phalanx.launch.main import main; main(['models', '--json']); assert 'torch' not in sys.modules"
    found = json.loads(run([sys.executable, "-c", program], ROOT).output)
    assert [one["name"] for one in found] == registry.names()
    for one in found:
        assert one["kind"] == registry.MODELS[one["name"]].kind and one["params"] == registry.MODELS[one["name"]].params
        assert "arXiv:" in one["source"] and one["source"].endswith(registry.MODELS[one["name"]].params_source)


def test_the_table_is_aligned_and_has_thousands_separators(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["models", "--kind", "backbone"]) == 0
    lines = capsys.readouterr().out.splitlines()
    (resnet50,) = [line for line in lines if line.startswith("resnet50 ")]
    assert resnet50.split()[:4] == ["resnet50", "backbone", "25,557,032", "80.86"]
    assert lines[0].index("source") == resnet50.index("He et al.")


def test_of_one_network_options_features_and_blocks_are_reported(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["models", "googlenet"]) == 0
    shown = capsys.readouterr().out
    for fact in (
        "6,624,904, and 6,379,984 in auxiliary",
        "model.dropout",
        "1024 channels at stride 32",
        "14, from conv1 to aux2",
    ):
        assert fact in shown
    assert main(["models", "vit_b_16", "--json"]) == 0
    (facts,) = json.loads(capsys.readouterr().out)
    assert (facts["name"], facts["params"], len(facts["blocks"])) == ("vit_b_16", 86_567_656, 12)


def test_of_a_network_for_segmentation_its_own_options_and_its_backbone_are_reported(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert main(["models", "deeplabv3_resnet50"]) == 0
    shown = capsys.readouterr().out
    for fact in ("42,004,074", "66.40, mIoU on COCO", "multi_grid=null", "model.backbone resnet50", "from backbone.layer1.0"):
        assert fact in shown
    assert main(["models", "segnet"]) == 0
    shown = capsys.readouterr().out
    assert "vgg16_bn if it is not set; vgg11, vgg11_bn" in shown and "score " not in shown
    assert main(["models", "--kind", "segmentation"]) == 0
    (unet,) = [line for line in capsys.readouterr().out.splitlines() if line.startswith("unet ")]
    assert unet.split()[:4] == ["unet", "segmentation", "31,033,045", "-"]


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["resnet51"], "phalanx: there is no network 'resnet51'. Did you mean resnet50 or"),
        (["--kind", "detector"], "phalanx: --kind detector: there is no such kind of network. There are: backbone"),
    ],
)
def test_names_that_mean_nothing_are_refused_with_the_nearest(
    arguments: list[str], sentence: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["models", *arguments]) == 2
    said = capsys.readouterr()
    assert sentence in said.err and not said.out
