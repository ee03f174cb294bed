"""docs/extending.md is true: its code, applied to a copy of the checkout, adds one of each kind, in as few files as it says."""

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy
import pytest

from benchmarks.support.forking import Forge
from phalanx.configs.sections.data import DataConfig
from phalanx.data.open import open_split
from tests.support.running import ROOT, clean_environment
from tests.test_rooms import MOST_FILES

PAGE = (ROOT / "docs/extending.md").read_text()
ROOMS = ("configs", "dist", "models", "data", "train", "launch", "slurm")
# Files that may be touched, those of documentation and tests apart.
MOST = {"An optimizer": 2, "A dataset format": 2, "A model": 2, "A task": 2, "A strategy": 4}
_BLOCK = re.compile(r"<!-- (edit|new): (\S+) -->\n```(?:diff|python)\n(.*?)```", re.DOTALL)
STEPS = 4
COMMON = [str(ROOT / "configs/recipes/digits_resnet18.yaml"), "data.name=npz", "data.image_size=8", "data.workers=0"]
COMMON += ["model.name=all_cnn", "task.name=confident", "train.global_batch=8", "train.micro_batch=4"]
COMMON += [f"train.steps={STEPS}", "train.log_every=1", "schedule.warmup_steps=0"]


def blocks(kind: str) -> list[tuple[str, str, str]]:
    """What a section of the page has to be done: (edit or new, file, content), in order."""
    section = PAGE.split(f"\n## {kind}\n")[1].partition("\n## ")[0]
    return [(m[1], m[2], m[3]) for m in _BLOCK.finditer(section)]


def apply(root: Path, what: str, name: str, content: str) -> None:
    """Does one block of the page in a copy of the checkout."""
    file = root / name
    if what == "new":
        assert not file.exists(), f"{name} is there already"
        file.write_text(content)
        return
    text = file.read_text()
    for hunk in content.split("@@\n"):
        lines = hunk.splitlines(keepends=True)
        before = "".join(line[1:] for line in lines if line[0] in " -")
        after = "".join(line[1:] for line in lines if line[0] in " +")
        assert text.count(before) == 1, f"{name} has no longer, or more than once:\n{before}"
        text = text.replace(before, after)
    file.write_text(text)


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    """The checkout's code, and nothing else."""
    for name in (*ROOMS, "src", "benchmarks/support"):
        shutil.copytree(ROOT / name, tmp_path / name, symlinks=True, ignore=shutil.ignore_patterns("__pycache__", "*.egg-info"))
    for name in ("pyproject.toml", "tests/test_tables.py"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        shutil.copy(ROOT / name, tmp_path / name)
    return tmp_path


def environment(root: Path) -> dict[str, str]:
    return clean_environment(PYTHONPATH=str(root / "src"), PYTHONDONTWRITEBYTECODE="1")


def output(command: list[str], root: Path) -> tuple[int, str]:
    done = subprocess.run(command, cwd=root, env=environment(root), capture_output=True, text=True, timeout=170)
    return done.returncode, done.stdout + done.stderr


def losses(run: Path) -> list[float]:
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [line["train/loss"] for line in lines if "train/loss" in line]


@pytest.mark.parametrize("kind", MOST)
def test_an_addition_touches_few_files_and_the_page_says_how_many(kind: str) -> None:
    files = {name for _, name, _ in blocks(kind)}
    assert 0 < len(files) <= MOST[kind]
    anchor = kind.lower().replace(" ", "-")
    assert re.search(rf"^\| \[[^]]*\]\(#{anchor}\) \| {len(files)} \|", PAGE, re.MULTILINE)


@pytest.mark.slow
def test_one_of_each_kind_is_added_as_the_page_says(copy: Path) -> None:
    """The tests that the page names fail after the first block of each kind; after the last one trains with all of them."""
    for kind in MOST:
        apply(copy, *blocks(kind)[0])
    named = re.findall(r"`tests/test_tables.py::(\w+)`", PAGE)
    code, said = output([sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "tests/test_tables.py"], copy)
    failed = re.findall(r"^FAILED tests/test_tables.py::(\w+)", said, re.MULTILINE)
    assert code == 1 and len(named) == len(MOST) and sorted(failed) == sorted(named), said

    for kind in MOST:
        for block in blocks(kind)[1:]:
            apply(copy, *block)
    files = sorted({name for kind in MOST for _, name, _ in blocks(kind)})
    assert all(len(list((copy / name).parent.glob("*.py"))) <= MOST_FILES for name in files)
    ruff = str(Path(sys.executable).parent / "ruff")
    for command in ([ruff, "check", *files], [ruff, "format", "--check", *files]):
        code, said = output(command, copy)
        assert code == 0, said

    data = copy / "digits"
    data.mkdir()
    (data / "classes.txt").write_text("\n".join("0123456789"))
    for split in ("train", "val"):
        digits = open_split(DataConfig(name="digits"), split)  # type: ignore[arg-type]
        samples = [digits[i] for i in range(32)]
        images = numpy.stack([(s["image"].numpy() * 255).astype("uint8").transpose(1, 2, 0) for s in samples])
        numpy.savez(data / f"{split}.npz", images=images, labels=[s["target"] for s in samples])

    forge = Forge(lambda: environment(copy), copy)
    try:
        runs = {"alone": (1, ["dist.strategy=ddp"]), "two": (2, ["dist.strategy=allreduce"]), "lion": (1, ["optim.name=lion"])}
        for name, (ranks, more) in runs.items():
            arguments = [*COMMON, *more, f"data.root={data}", f"name={name}"]
            ended = forge.start(arguments, copy, environment(copy), ranks)
            said, errors = ended.communicate(120)
            assert ended.returncode == 0, said + errors
    finally:
        forge.close()
    alone, two, lion = (losses(copy / "runs" / name) for name in runs)
    assert len(alone) == STEPS and two == pytest.approx(alone, rel=1e-5)  # the new strategy trains as one process does
    assert lion[0] == pytest.approx(alone[0], rel=1e-6) and lion[1:] != pytest.approx(alone[1:], rel=1e-3)
