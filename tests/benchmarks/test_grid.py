"""The grid of `benchmarks/grid.py`, reduced: a network of each family, each way of sharing it and each precision somewhere."""

import pytest

from benchmarks.grid import EXACT, EXACT_SYNC, PARITY, Cell, cells, markdown, measure
from benchmarks.support.rank_pool import Pool
from phalanx.models import registry

CELLS = [
    Cell("resnet18", "DDP, SyncBN", "bf16"),
    Cell("resnet18", EXACT, "fp32"),
    Cell("googlenet", "ZeRO-2", "fp32"),
    Cell("convnext_tiny", EXACT, "fp32"),
    Cell("swin_v2_t", "ZeRO-2", "bf16"),
    Cell("deeplabv3plus", "FSDP2", "bf16"),
    Cell("deeplabv3plus", EXACT, "fp32"),
    Cell("deeplabv3plus", EXACT_SYNC, "fp32"),
    Cell("pspnet", "DDP, SyncBN", "bf16"),
    Cell("segnet", "ZeRO-2", "fp32"),
    Cell("unet", "ZeRO-2", "fp32"),
    Cell("unet", PARITY, "fp64"),
    Cell("mask_rcnn", PARITY, "fp64"),
    Cell("mask_rcnn", "FSDP2", "bf16"),
    Cell("faster_rcnn", "ZeRO-2", "fp32"),
    Cell("retinanet", EXACT, "fp32"),
    Cell("fcos", "FSDP2", "fp32"),
    Cell("yolov8n", PARITY, "fp64"),
    Cell("yolov8n", EXACT_SYNC, "fp32"),
    Cell("yolov5n", EXACT, "fp32"),
    Cell("yolox_nano", "FSDP2", "bf16"),
]


# Narrower and of smaller images than in `docs/grid.md`, whose networks have the papers' widths.
_SMALL = ["data.image_size=32", "data.options.size=32"]
_BACKBONE = ["model.backbone=./resnet18.py:Backbone"]
_REGIONS = ["model.options.hidden=64", "model.options.samples=32"]
NARROW = {
    "deeplabv3plus": _BACKBONE,
    "pspnet": _BACKBONE,
    "resnet18": ["model.name=./resnet18.py:Narrow"],
    "convnext_tiny": ["model.name=./backbones.py:convnext"],
    "swin_v2_t": ["model.name=./backbones.py:swin"],
    "segnet": ["model.backbone=vgg11_bn"],
    "unet": ["model.options.width=16"],
    "faster_rcnn": [*_BACKBONE, *_REGIONS],
    "mask_rcnn": [*_BACKBONE, *_REGIONS, "model.options.mask_channels=[32]"],
    "retinanet": _BACKBONE,
    "fcos": _BACKBONE,
}


@pytest.mark.slow
@pytest.mark.parametrize("cell", CELLS, ids="-".join)
def test_a_network_trains_agrees_and_resumes(pool: Pool, cell: Cell) -> None:
    small = [] if cell.way == PARITY else _SMALL  # where BatchNorm sees few values, rounding grows
    figures = measure(pool, cell, [*small, *NARROW.get(cell.network, [])])
    assert figures["ok"], figures


def test_the_page_tells_what_fails() -> None:
    network = registry.names("backbone")[0]
    found = {cell: {"ok": True, "seconds": 1.0} for cell in cells([network])}
    found[Cell(network, EXACT, "fp32")] = {"ok": False, "same_bits": False, "finite": True, "seconds": 1.0}
    found |= {cell: {"ok": True, "seconds": 1.0} for cell in cells(["unet"])}
    page = "\n".join(markdown(found))
    assert "**15 of 16 cells hold.**" in page and "**not same_bits**" in page
