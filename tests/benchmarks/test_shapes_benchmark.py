"""The benchmark `benchmarks/shapes.py`: its recipes, its page, and how truth is drawn in its pictures."""

import numpy
import torch
from PIL import Image

from benchmarks import shapes, sheets
from phalanx.configs.load import load
from tests.support.running import ROOT


def test_its_recipes_are_those_that_draw_shapes_and_measure_what_it_tells() -> None:
    assert set(shapes.RECIPES) == {path.stem for path in (ROOT / "configs/recipes").glob("shapes_*.yaml")}
    for name, told in shapes.RECIPES.items():
        config = load([str(ROOT / f"configs/recipes/{name}.yaml")], [])
        assert config.data.name == "shapes" and config.checkpoint.best == f"val/{told.metric}"


def test_the_page_has_a_row_and_a_picture_a_recipe() -> None:
    figures = {"steps": 10, "seconds": 61.4, "peak_mb": 900, "figure": 0.8123, "ok": True}
    page = "\n".join(shapes.markdown({"shapes_maskrcnn": figures}))
    assert "| `shapes_maskrcnn.yaml` | Mask R-CNN on a ResNet-18 | 10 | 61 | 900 | AP50 of masks | 0.812 |" in page
    assert "](results/shapes_maskrcnn.jpg)" in page and "unet" not in page


def test_true_masks_and_boxes_lie_where_the_objects_are() -> None:
    masks = torch.zeros(1, 20, 20, dtype=torch.bool)
    masks[0, 4:12, 6:14] = True
    sample = {"boxes": torch.tensor([[6.0, 4.0, 14.0, 12.0]]), "labels": torch.tensor([0]), "masks": masks}
    drawn = sheets.with_true_boxes(Image.new("RGB", (20, 20)), sample, ["square"], 10)
    painted = numpy.array(drawn).any(-1)
    assert drawn.size == (200, 200)
    assert painted[41:119, 61:139].all() and not painted[125:, :].any() and not painted[:, :55].any()
