"""`phalanx report`: what it says of runs is what they have recorded, and the page works in a browser."""

import json
import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest
from PIL import Image

from phalanx.configs.load import load
from phalanx.dist.processes.age import seconds_since_start
from phalanx.dist.storage.run_directory import RunDirectory
from phalanx.launch.main import main
from phalanx.launch.run_report.at_the_end import report_of
from phalanx.launch.run_report.chart import Curve, chart, thinned
from phalanx.launch.run_report.gathered import gathered
from phalanx.launch.run_report.goodput import goodput
from phalanx.launch.run_report.page import page
from tests.support.running import DIGITS, FEW_EVALUATED, ranks

CLASSES = ["<b>bold</b>", *(f"class {number}" for number in range(1, 12))]
_SMALL = ["model.stem=small", "data.image_size=16", "data.workers=0", FEW_EVALUATED, "dist.device=cpu"]


def _recorded(name: str, resumed: bool = False, classes: int = 12, *overrides: str) -> RunDirectory:
    """A run of 200 steps of 8 samples, 100 samples a second, evaluated twice; killed at step 130 and resumed from 100."""
    batches = ["train.global_batch=8", "train.micro_batch=4", "train.steps=200"]
    config = load([DIGITS], [f"name={name}", "checkpoint.best=val/top1", *batches, *overrides])
    run = RunDirectory.of(config)
    run.create(config, 1)
    started = {"world_size": 2, "strategy": "ddp", "device": "cpu", "steps": 200, "setup_s": 3.0}
    events = [{"time": 1000.0, "event": "start", "step": 0, **started}]
    events.append({"time": 1015.0, "event": "evaluate", "step": 100, "top1": 0.5, "evaluation_s": 4.0})
    events.append({"time": 1015.5, "event": "save", "step": 100, "waited": 0.5})
    if resumed:
        events.append({"time": 1099.0, "event": "cut_back", "step": 100, "logged": 130, "until": 1018.0})
        events.append({"time": 1100.0, "event": "resume", "step": 100, **started})
    later = 1100.0 if resumed else 1015.5
    events.append({"time": later + 14.0, "event": "evaluate", "step": 200, "top1": 0.75, "evaluation_s": 4.0})
    events.append({"time": later + 14.5, "event": "done", "step": 200})
    run.events.write_text("".join(json.dumps(event) + "\n" for event in events))
    with run.metrics.open("w") as file:
        for step in range(10, 201, 10):
            begun = 1003.0 + 0.08 * step if step <= 100 else later + 2.0 + 0.08 * (step - 100)
            line = {
                "step": step,
                "time": begun,
                "train/loss": 2 - step / 200,
                "perf/samples_per_s": 100.0,
                "perf/data_wait": 0.25,
            }
            line |= {"perf/memory_mb": 900.0} | ({"val/top1": 0.25 + step / 400} if step % 100 == 0 else {})
            file.write(json.dumps(line) + "\n")
    run.evaluations.mkdir()
    for step in (100, 200):
        rows = [{"class": CLASSES[number], "samples": 10, "accuracy": number / 12} for number in range(classes)]
        table = [[10 * (row == column) + (row + 1 == column) for column in range(classes)] for row in range(classes)]
        told = {"step": step, "per_class": rows, "confusion": table, "pictures": ["0.jpg", "../../../secret.jpg", "1.jpg"]}
        told["curves"] = ["precision_recall.png", "../secret.png"]
        folder = run.evaluations / f"step-{step:08d}"
        folder.with_suffix(".json").write_text(json.dumps(told))
        folder.mkdir()
        for place in range(2):
            Image.new("RGB", (64, 48), (step, 99, 200)).save(folder / f"{place}.jpg")
        Image.new("RGB", (96, 64), (9, 99, 9)).save(folder / "precision_recall.png")
    return run


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_goodput_is_the_share_of_steps_that_were_kept(here: Path) -> None:
    """200 steps of 0.08 s are kept, a quarter of it waiting; two starts with 3 s of set-up and a warm-up each."""
    told = gathered(_recorded("one", resumed=True)).where_time_went
    assert told is not None and told.attempts == 2
    # The first attempt ran from 997 to 1018, the second from 1097 to 1114.5, on two ranks.
    assert told.elapsed == pytest.approx(2 * (21 + 17.5)) and told.between == pytest.approx(1097 - 1018)
    assert told.parts["steps"] == pytest.approx(2 * 12) and told.parts["data"] == pytest.approx(2 * 4)
    assert told.parts["start"] == pytest.approx(2 * (3 + 3 + 3 + 2)) and told.parts["evaluation"] == pytest.approx(2 * 8)
    assert told.parts["save"] == pytest.approx(2 * 0.5)
    assert sum(told.parts.values()) == pytest.approx(told.elapsed) and told.parts["rest"] > 0
    assert told.share == pytest.approx(24 / 77)
    whole = gathered(_recorded("two")).where_time_went
    assert whole is not None and whole.attempts == 1 and whole.between == 0 and whole.share > told.share
    assert goodput([], [], 8) is None


def test_a_process_knows_its_age() -> None:
    assert 0 < (seconds_since_start() or 0) < 3600 * 24


def test_a_long_curve_keeps_its_peaks() -> None:
    values = dict.fromkeys(range(100000), 0.0) | {54_321: 9.0, 77_777: -3.0}
    points = thinned(values)
    assert len(points) < 1000 and (54_321, 9.0) in points and (77_777, -3.0) in points
    assert points[0] == (0, 0.0) and points[-1] == (99_999, 0.0)
    assert thinned({1: float("nan"), 2: 1.0}) == [(2, 1.0)] and chart("x", [Curve("a", 0, {1: float("inf")})]) == ""
    drawn = chart("val/top1", [Curve("<script>", 0, {1: 0.5, 2: 0.75}, marks=[2]), Curve("b", 1, {})])
    assert "<script>" not in drawn and "&lt;script&gt; was resumed at step 2" in drawn and 'class="curve run0"' in drawn
    assert "run1" not in drawn and "0.75 at step 2; lowest 0.5 at step 1" in drawn


def test_the_page_has_all_of_a_run_and_nothing_from_outside_of_it(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = _recorded("one", resumed=True)
    (here / "secret.jpg").write_bytes(b"SECRET")
    assert main(["report", "runs/one"]) == 0
    assert capsys.readouterr().out.strip() == "runs/one/report.html"
    text = (run.path / "report.html").read_text()
    assert text.count("data:image/jpeg;base64,") == 4 and text.count("data:image/png") == 1 and "U0VDUkVU" not in text
    assert "<b>bold</b>" not in text and "&lt;b&gt;bold&lt;/b&gt;" in text
    for words in ("COMPLETED", "0.7500 at step 200", "31.2%", "was resumed at step 100", "cut_back", "global_batch", "2 × cpu"):
        assert words in text, words
    assert not re.findall(r"(?:src|href)=\"(?!data:|#)", text) and not re.findall("https?://(?!www.w3.org/2000/svg)", text)
    (run.evaluations / "step-00000200.json").write_text("{")
    run.metrics.write_text("")
    assert main(["report", "runs/one"]) == 0  # again, over its own file
    assert "Nothing has been logged yet" in (run.path / "report.html").read_text()


def test_runs_stand_side_by_side(here: Path) -> None:
    runs = [_recorded(name, False, 3, f"seed={number}") for number, name in enumerate(("one", "two", "three"))]
    assert main(["report", *(str(run.path) for run in runs)]) == 0
    text = Path("report.html").read_text()
    assert text.count('checked data-run="') == 3 and "What differs in the recipes" in text and "<code>seed</code>" in text
    assert text.count('class="curve run2"') == 5  # top-1, loss, samples per second, waiting, memory


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (["runs/none"], "there is no run here"),
        (["runs/one", "-o", "page.txt"], "Give a name that ends with .html"),
        (["runs/one", "-o", "mine.html"], "`report` did not write this file"),
        (["runs/one", "-o", "no/where.html"], "no/where.html"),
    ],
)
def test_what_cannot_be_written_is_said(here: Path, capsys: pytest.CaptureFixture[str], given: list[str], said: str) -> None:
    _recorded("one")
    Path("mine.html").write_text("<p>mine</p>")
    assert main(["report", *given]) == 2
    assert said in capsys.readouterr().err and Path("mine.html").read_text() == "<p>mine</p>"


def test_a_run_leaves_its_report_and_what_its_evaluations_found(here: Path) -> None:
    steps = ["train.global_batch=8", "train.micro_batch=8", "train.steps=4", "train.eval_every=2", "track.pictures=3"]
    steps.append("track.report=true")
    ranks(1, DIGITS, "name=one", *_SMALL, *steps, cwd=here)
    run = RunDirectory(here / "runs/one")
    told = gathered(run)
    assert [kept.step for kept in told.evaluations] == [2, 4] and all(len(kept.pictures) == 3 for kept in told.evaluations)
    assert len(told.evaluations[0].details["per_class"]) == 10
    with Image.open(run.evaluations / "step-00000004/2.jpg", formats=["JPEG"]) as drawn:
        assert drawn.width >= 200
    assert told.where_time_went is not None and 0 < told.where_time_went.share < 1
    text = (run.path / "report.html").read_text()
    assert "Prediction on sample 3 after step 4" in text
    config = run.read_config()
    (run.path / "report.html").write_text("kept")
    report_of(config)
    assert (run.path / "report.html").read_text() == "kept"  # newer than the run


def test_a_report_that_cannot_be_written_does_not_fail_the_run(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = _recorded("one")
    (run.path / "report.html").mkdir()
    os.utime(run.path / "report.html", (1, 1))
    report_of(run.read_config())
    assert "the run is done, but its report was not written" in capsys.readouterr().err


_ASKS = """
<script>
const errors = [];
window.addEventListener("error", event => errors.push(event.message));
const shown = rows => [...rows].filter(row => getComputedStyle(row).display !== "none").length;
const type = (field, text) => { field.value = text; field.dispatchEvent(new Event("input")); };
const rows = document.querySelector("table[id^=classes]").tBodies[0].rows, field = document.querySelector("input[data-filter]");
const found = {all: shown(rows)};
type(field, "class 11"); found.filtered = shown(rows); type(field, "");
const chart = document.querySelector("svg.chart"), box = chart.getBoundingClientRect();
found.curve = chart.querySelector(".curve").getTotalLength() > 100 && box.width > 200 && box.height > 80;
chart.dispatchEvent(new PointerEvent("pointermove", {clientX: box.right - 2, clientY: box.top + 9}));
found.read = chart.parentElement.querySelector("output").textContent;
chart.dispatchEvent(new KeyboardEvent("keydown", {key: "ArrowLeft"}));
found.left = chart.parentElement.querySelector("output").textContent;
const run = document.querySelector("input[data-run='1']");
run.click(); found.hidden = getComputedStyle(document.querySelector(".charts .curve.run1")).display;
found.pictures = [...document.images].every(image => image.complete && image.naturalWidth > 0);
found.wide = document.documentElement.scrollWidth <= window.innerWidth;
found.errors = errors;
document.title = "FOUND" + JSON.stringify(found) + "END";
</script>
"""


@pytest.mark.parametrize("width", [1400, 400])
def test_the_page_works_in_a_browser(here: Path, width: int) -> None:
    browser = shutil.which("chromium")
    if browser is None:
        if os.environ.get("CI"):
            pytest.fail("CI needs Debian's chromium")
        pytest.skip("Debian's chromium is not installed")
    runs = [gathered(_recorded(name, resumed=name == "one")) for name in ("one", "two", "three")]
    text = page(runs).replace(' loading="lazy"', "")
    (here / "page.html").write_text(text.replace("</body>", f"{_ASKS}</body>"))
    command = [
        browser,
        "--headless",
        "--no-sandbox",
        "--disable-gpu",
        "--enable-logging=stderr",
        f"--user-data-dir={here / 'own'}",
    ]
    command += [f"--window-size={width},900", "--virtual-time-budget=2000", "--dump-dom", (here / "page.html").as_uri()]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=120)
    said = re.search(r"<title>FOUND(.*)END</title>", ended.stdout)
    assert said, ended.stdout[-2000:] + ended.stderr[-2000:]
    found = json.loads(said[1].replace("&amp;", "&").replace("&lt;", "<"))
    assert not found["errors"] and "CONSOLE" not in ended.stderr, ended.stderr
    assert found["all"] == 12 and found["filtered"] == 1 and found["curve"] and found["pictures"]
    assert "at step 200" in found["read"] and "at step 100" in found["left"] and found["hidden"] == "none"
    assert found["wide"], "the page is wider than the window"
