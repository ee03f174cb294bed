"""Anchors fitted to boxes: clusters of shapes, by their overlap."""

import json

import pytest
import torch

from phalanx.data.inspect.fitted_anchors import clusters, overlap, quality
from phalanx.launch.main import main
from phalanx.models.detection.yolo.shape_matching import matched

RECIPE = "configs/recipes/shapes_yolov8n.yaml"


def test_clusters_that_lie_apart_are_found() -> None:
    centres = torch.tensor([[8.0, 8.0], [20.0, 60.0], [60.0, 20.0], [90.0, 90.0]], dtype=torch.float64)
    torch.manual_seed(0)
    sides = (centres.repeat_interleave(50, 0) * (1 + 0.1 * torch.rand(200, 2, dtype=torch.float64)))[torch.randperm(200)]
    found = clusters(sides, 4)
    assert found[0].allclose(centres[0] * 1.05, rtol=0.02) and found[3].allclose(centres[3] * 1.05, rtol=0.02)
    assert sorted(map(tuple, found[1:3].round(decimals=-1).tolist())) == [(20.0, 60.0), (60.0, 20.0)]


def test_a_round_never_makes_the_overlap_of_members_and_means_worse_than_areas_alone() -> None:
    torch.manual_seed(1)
    sides = 4 + 200 * torch.rand(500, 2, dtype=torch.float64).square()
    by_area = sides[sides.prod(dim=1).argsort()][[int((n + 0.5) * 500 / 9) for n in range(9)]]
    assert quality(sides, clusters(sides, 9))[0] > quality(sides, by_area)[0]


def test_overlap_and_what_can_be_learnt_by_hand() -> None:
    sides, anchors = torch.tensor([[10.0, 20.0], [100.0, 100.0]]), torch.tensor([[10.0, 10.0], [20.0, 20.0]])
    assert overlap(sides, anchors).flatten().tolist() == pytest.approx([0.5, 0.5, 0.01, 0.04])
    iou, learnt = quality(sides, anchors)
    assert iou == pytest.approx((0.5 + 0.04) / 2) and learnt == 0.5  # 100 is five times 20


def test_boxes_that_are_said_to_be_learnt_are_those_that_the_network_matches() -> None:
    torch.manual_seed(2)
    sides, anchors = 4 + 200 * torch.rand(300, 2), torch.tensor([[10.0, 13.0], [30.0, 61.0]])
    boxes = torch.cat([torch.zeros(300, 2), sides], dim=1)
    matches = matched(boxes, torch.arange(300), anchors.tolist(), (32, 32), 8)
    _, learnt = quality(sides, anchors)
    assert 0.1 < learnt < 0.9 and learnt == pytest.approx(len(matches.objects.unique()) / 300)


def test_the_command_fits_nine_to_what_the_network_sees(capsys: pytest.CaptureFixture[str], tmp_path: object) -> None:
    sheet, few = f"{tmp_path}/sheet.png", ["data.options.train=60", "data.options.val=8"]
    assert main(["data", RECIPE, *few, "--anchors", "--count", "2", "--json", "-o", sheet]) == 0
    found = json.loads(capsys.readouterr().out)["anchors"]
    areas = [width * height for width, height in found["anchors"]]
    assert len(areas) == 9 and areas == sorted(areas) and found["samples"] == 60
    assert found["iou"] > 0.6 and found["learnt"] > 0.99
    assert main(["data", RECIPE, *few, "--anchors", "--count", "2", "-o", sheet]) == 0
    flat = ",".join(f"{width},{height}" for width, height in found["anchors"])
    assert f"model.options.anchors=[{flat}]" in capsys.readouterr().out


def test_anchors_of_no_boxes_are_refused(capsys: pytest.CaptureFixture[str], tmp_path: object) -> None:
    sheet = f"{tmp_path}/sheet.png"
    assert main(["data", "configs/recipes/digits_resnet18.yaml", "--anchors", "-o", sheet]) == 2
    assert "anchors are fitted to boxes, and this data is for classification" in capsys.readouterr().err
    assert main(["data", RECIPE, "--anchors", "--split", "val", "-o", sheet]) == 2
    assert "--anchors fits to the training split" in capsys.readouterr().err
