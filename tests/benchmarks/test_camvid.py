"""The benchmark `benchmarks/camvid.py`: its list, its yardsticks, and a short run of it that is cut in two."""

import json
from pathlib import Path

import numpy
import pytest
from PIL import Image

from benchmarks import camvid
from benchmarks.commands import spent
from phalanx.configs.load import load
from phalanx.models import registry
from phalanx.train.setup.checks import check_model


def test_every_network_for_segmentation_is_in_the_benchmark() -> None:
    assert {network.name for network in camvid.NETWORKS} == set(registry.names("segmentation")) - camvid.SAME


def test_a_run_that_took_another_time_is_made_again_by_its_own_rate() -> None:
    assert camvid.steps_by_rate({"seconds": 517.0, "steps": 778}, 600, 0.06) == 903
    assert camvid.steps_by_rate({"seconds": 633.0, "steps": 733}, 600, 0.06) is None


@pytest.mark.parametrize("case", camvid.cases(600, 240, 2400), ids=lambda case: case.label)
def test_every_run_of_the_benchmark_is_an_experiment_that_can_be(case: camvid.Case) -> None:
    config = load([str(camvid.RECIPE)], [*case.more, "data.root=.", "name=run"])
    check_model(config)
    assert config.dist.sync_bn == ("off" if case.label.endswith((camvid.FAST, camvid.EXACT)) else "all")


def _pictures(root: Path) -> None:
    """Four images to train on and two to validate: sky above road, on the right a car, void at the border."""
    (root / "classes.txt").parent.mkdir(parents=True, exist_ok=True)
    (root / "classes.txt").write_text("sky\nroad\ncar\nvoid\n")
    random = numpy.random.default_rng(0)
    for split, count in (("train", 4), ("val", 2)):
        for number in range(count):
            mask = numpy.zeros((36, 48), numpy.uint8)
            mask[15:], mask[20:, 30:], mask[:, :2] = 1, 2, 3
            colours = numpy.array([[90, 150, 220], [110, 100, 100], [200, 40, 40], [0, 0, 0]])
            image = (colours[mask] + random.integers(-20, 20, (36, 48, 3))).clip(0, 255).astype(numpy.uint8)
            for kind, array, suffix in (("images", image, "jpg"), ("masks", mask, "png")):
                folder = root / kind / split
                folder.mkdir(parents=True, exist_ok=True)
                Image.fromarray(array).save(folder / f"{number}.{suffix}")


def test_void_is_no_class_and_the_majority_predictor_has_its_share_of_the_pixels(tmp_path: Path) -> None:
    _pictures(tmp_path / "given")
    folder = camvid.prepare(tmp_path / "given", tmp_path / "work")
    assert (folder / "classes.txt").read_text() == "sky\nroad\ncar\n"
    frequent, miou = camvid.majority(folder, ["data.ignore_index=3"])
    sky, road, car = 15 * 46, 21 * 46 - 16 * 18, 16 * 18
    assert frequent == "sky"
    assert miou == pytest.approx(sky / (sky + road + car) / 3)


def test_the_page_tells_which_networks_do_not_reach_twice_the_majority_class() -> None:
    figures = {"steps": 10, "miou": 0.3, "seconds": 9.6, "peak_mb": 500, "resumed": False}
    found = {case.label: figures | {"overrides": list(case.more)} for case in camvid.cases(600, 240, 2400)}
    found["pspnet"] = found["pspnet"] | {"miou": 0.05}
    page = "\n".join(camvid.markdown(found, "road", 0.03))
    networks = len(camvid.NETWORKS)
    assert (
        f"**{networks - 1} of {networks} networks have at least twice the mIoU of the majority class**, 0.030: `road`" in page
    )
    assert "| pspnet | backbone=resnet18, output_stride=16 | 180 × 240 | 10 | 10 | 500 | 0.050 | 1.7 |" in page
    assert "2 ranks, `dist.reduce=exact`" in page and "plain loop, one process" in page


def test_time_of_earlier_attempts_is_counted_up_to_what_they_last_logged(tmp_path: Path) -> None:
    assert spent(tmp_path) == 0
    events = [{"time": 10.0, "event": "start", "step": 0}, {"time": 50.0, "event": "resume", "step": 4}]
    (tmp_path / "events.jsonl").write_text("".join(json.dumps(event) + "\n" for event in events))
    lines = [{"time": 14.0, "step": 4}, {"time": 17.5, "step": 5}, {"time": 53.0, "step": 6}]
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    assert spent(tmp_path) == 7.5 + 3
