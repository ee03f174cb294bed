"""The benchmark `benchmarks/bccd.py`: its list, its page and its curves."""

from xml.etree import ElementTree

from benchmarks import bccd
from benchmarks.curves import _nice, svg
from phalanx.configs.load import load
from phalanx.models import registry


def test_every_run_is_a_recipe_with_a_network_that_there_is() -> None:
    for run in bccd.RUNS:
        config = load([str(bccd.RECIPE)], [*run.more, "data.root=.", "name=run"])
        options = config.model.options
        registry.get(config.model.name).build(num_classes=4, backbone=config.model.backbone, options=options)


def test_the_recipe_of_faster_r_cnn_is_the_run_of_the_benchmark() -> None:
    (run,) = (run for run in bccd.RUNS if run.label.startswith("faster_rcnn"))
    recipe = bccd.RECIPE.with_name("bccd_fasterrcnn.yaml")
    unused = ["data.augment.mosaic_scale=[0.6,1.4]"]  # there is no mosaic
    given = ["data.root=.", "name=run"]
    assert load([str(recipe)], [*unused, *given]) == load([str(bccd.RECIPE)], [*run.more, *given])


def test_the_page_has_a_row_a_run_and_a_column_a_class() -> None:
    figures = {"steps": 10, "best_step": 5, "seconds": 61.4, "peak_mb": 900, "test": {"ap50": 0.9, "ap": 0.6, "ap75": 0.7}}
    figures |= {"classes": {"RBC": 0.8, "WBC": 1.0}}
    page = bccd.markdown({"yolov8n": figures}, "curves.svg")
    assert "| yolov8n | 10 | 61 | 900 | 5 | 0.900 | 0.600 | 0.700 | 0.800 | 1.000 |" in page
    assert any(line.endswith("| AP75 | RBC | WBC |") for line in page) and any("curves.svg" in line for line in page)
    assert "![predictions](results/bccd_yolov8n_predictions.jpg)" in page
    assert set(bccd.PICTURED) <= {run.label for run in bccd.RUNS}


def test_curves_lie_within_the_picture_and_their_names_are_escaped() -> None:
    picture = ElementTree.fromstring(svg({"a < b": [(0, 0), (7.3, 1)], "c": [(1, 0.5)]}, "AP50", "minutes"))
    lines = picture.findall("{*}polyline")
    assert len(lines) == 2 and any(text.text == "a < b" for text in picture.findall("{*}text"))
    start, end = (tuple(map(float, place.split(","))) for place in lines[0].attrib["points"].split())
    assert start == (50, 310) and end[0] <= 510 and end[1] == 30


def test_a_curve_of_one_point_at_the_start_can_be_drawn() -> None:
    assert ElementTree.fromstring(svg({"a": [(0.0, 0.5)]}, "AP50", "minutes")).findall("{*}polyline")


def test_steps_of_an_axis_are_round() -> None:
    assert [_nice(step) for step in (0.03, 1, 1.1, 4.8, 7)] == [0.05, 1, 2, 5, 10]
