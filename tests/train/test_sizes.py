"""Where images have one size cuDNN tries its kernels, unless they must be deterministic."""

from collections.abc import Iterator

import pytest
import torch

from phalanx.configs.load import load
from phalanx.dist import determinism
from phalanx.train.setup import sizes
from tests.support.running import ROOT


@pytest.fixture(autouse=True)
def settings_stay() -> Iterator[None]:
    before = torch.backends.cudnn.benchmark, torch.are_deterministic_algorithms_enabled()
    yield
    torch.backends.cudnn.benchmark = before[0]
    torch.use_deterministic_algorithms(before[1])


@pytest.mark.parametrize(
    ("recipe", "overrides", "vary"),
    [
        ("imagenet_resnet50", [], False),
        ("camvid_deeplabv3plus", [], False),
        ("camvid_deeplabv3plus", ["evaluate.size=original"], True),
        ("coco_yolov8n", ["data.augment.sizes=null"], False),
        ("coco_yolov8n", ["data.augment.sizes=[320, 640]"], True),
        ("coco_fasterrcnn_resnet50_fpn", [], True),
        ("bccd_fasterrcnn", ["data.fit=pad", "data.aspect_groups=false"], True),  # of one size, but its regions are not
    ],
)
def test_kernels_are_tried_where_sizes_stay(recipe: str, overrides: list[str], vary: bool) -> None:
    config = load([str(ROOT / "configs/recipes" / f"{recipe}.yaml")], overrides)
    assert sizes.vary(config) == vary
    determinism.apply(False, vary)
    assert torch.backends.cudnn.benchmark != vary
    determinism.apply(True, vary)
    assert not torch.backends.cudnn.benchmark and torch.are_deterministic_algorithms_enabled()
