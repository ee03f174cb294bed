"""Folders and files that a recipe names are found wherever a run is resumed; `~` is home; classes of one's own are checked."""

from collections.abc import Callable
from pathlib import Path

import pytest

from phalanx.configs.errors import UserError
from phalanx.configs.load import load
from phalanx.configs.own_code import check
from phalanx.configs.schema import digest
from phalanx.launch.main import main
from tests.support.running import DIGITS

Refusal = Callable[..., str]


@pytest.fixture
def at_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    return tmp_path


def test_a_relative_root_is_kept_absolute_outside_of_the_digest(at_home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    given = ["data.root=data", "data.cache=../cache", "model.weights=w.safetensors"]
    config = load([DIGITS], given)
    assert (config.data.root, config.data.cache) == (f"{at_home}/here/data", f"{at_home}/cache")
    assert config.model.weights == "w.safetensors"
    monkeypatch.chdir("/")
    assert load([], [], config.model_dump(mode="json")) == config
    assert digest(load([DIGITS], given)) == digest(config)


@pytest.mark.parametrize("written", ["~", "~/x", "./~"])
def test_a_tilde_is_home(at_home: Path, written: str, tmp_path: Path) -> None:
    expected = {"~": f"{at_home}", "~/x": f"{at_home}/x", "./~": f"{at_home}/here/~"}[written]
    assert load([DIGITS], [f"data.root={written}"]).data.root == expected
    assert load([DIGITS], [f"runs={written}"]).runs == (expected if written[0] == "~" else written)
    (at_home / "ds.json").write_text('{"zero_optimization": {"stage": 2}}')
    config = load([DIGITS], ["dist.deepspeed=~/ds.json"])
    assert config.dist.deepspeed == f"{at_home}/ds.json" and config.dist.strategy == "zero2"


def test_an_unset_root_stays_unset(at_home: Path) -> None:
    assert load([DIGITS], ["data.root=null"]).data.root is None


def test_what_is_not_there_is_said_with_the_folder_that_it_is_relative_to(
    at_home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    here = f"{at_home}/here"
    for arguments in (
        ["train", "nowhere.yaml", "--nproc", "2"],
        ["train", DIGITS, "data.root=nowhere", "--nproc", "2"],
        ["train", DIGITS, "task.name=./nowhere.py:Task", "--nproc", "2"],
        ["train", DIGITS, "dist.deepspeed=nowhere.json", "--nproc", "2"],
    ):
        assert main(arguments) == 2
        said = capsys.readouterr().err
        assert "nowhere" in said and here in said and len(said.splitlines()) == 1


DEFINES = """
class Task: ...
def make(): ...
value = Alias = int
from collections import OrderedDict as Ordered
if value:
    class Inside: ...
try:
    import nothing.at_all
except ImportError:
    Fallback = None
class Outer:
    class Hidden: ...
"""


@pytest.mark.parametrize("name", ["Task", "make", "value", "Alias", "Ordered", "Inside", "Fallback", "nothing"])
def test_a_class_that_a_file_defines_in_any_way_passes_without_running_it(tmp_path: Path, name: str) -> None:
    (tmp_path / "mine.py").write_text(f"{DEFINES}\nraise SystemExit('this was run')\n")
    check("task.name", f"{tmp_path}/mine.py:{name}")


@pytest.mark.parametrize("source", ["from os.path import *", "globals()['Task'] = int", "def __getattr__(n): ...", "exec('')"])
def test_where_only_running_would_tell_a_class_passes(tmp_path: Path, source: str) -> None:
    (tmp_path / "mine.py").write_text(source)
    check("task.name", f"{tmp_path}/mine.py:Task")


@pytest.mark.parametrize(
    ("source", "name", "sentence"),
    [
        (DEFINES, "Tusk", "has no Tusk. Did you mean Task?"),
        (DEFINES, "Hidden", "has no Hidden. Name a class"),
        ("", "Task", "has no Task"),
        ("class Task:\n  def", "Task", "line 2 is not Python"),
        ("\0", "Task", "is not Python"),
        ("(" * 5000, "Task", "is not Python"),
        ("x = " + "-" * 200_000 + "1", "Task", "is not Python"),
        (None, "Task", "there is no file"),
    ],
)
def test_what_train_would_refuse_config_refuses_alike(
    at_home: Path, capsys: pytest.CaptureFixture[str], source: str | None, name: str, sentence: str
) -> None:
    if source is not None:
        Path("mine.py").write_text(source)
    for key in ("task.name", "data.name"):
        said = []
        for verb in (["config"], ["train", "--nproc", "2"], ["submit", "--local"]):
            assert main([verb[0], DIGITS, f"{key}=./mine.py:{name}", *verb[1:]]) == 2
            said.append(capsys.readouterr().err)
        assert sentence in said[0] and said[0] == said[1] == said[2] and len(said[0].splitlines()) == 1
    assert not Path("runs").exists()


@pytest.mark.parametrize("override", ["model.name=resnet81", "task.options={a: 1}", "data.options={a: 1}", "model.fresh=[x]"])
def test_config_refuses_what_train_refuses_of_the_recipe_alone(at_home: Path, override: str) -> None:
    assert main(["config", DIGITS, override]) == 2


def test_a_home_of_nobody_stays_as_it_is_written(at_home: Path) -> None:
    assert load([DIGITS], ["data.root=~nobody_of_that_name/x"]).data.root == f"{at_home}/here/~nobody_of_that_name/x"
    with pytest.raises(UserError, match="no such file"):
        load(["~nobody_of_that_name/x.yaml"])


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("data.root=$HOME/x", "holds a variable"),
        ("data.cache=/scratch/${USER}/x", "holds a variable"),
        ("runs=$SCRATCH", "holds a variable"),
        ("dist.deepspeed=$HOME/ds.json", "holds a variable"),
        ("model.weights=$HOME/w.pth", "holds a variable"),
        ("data.name=$HOME/mine.py:Data", "holds a variable"),
        ("data.cache=ram", "is not a folder"),
        ("data.cache=True", "is not a folder"),
        ("data.root=s3://bucket/x", "is a URL"),
        ("data.cache=gs://bucket", "is a URL"),
        ("runs=hf://me/runs", "is a URL"),
        ("dist.deepspeed=https://host/ds.json", "is a URL"),
        ("runs=/dev/null", "is not a folder"),
    ],
)
def test_what_is_no_path_of_this_machine_is_refused_by_its_key(at_home: Path, override: str, said: str) -> None:
    with pytest.raises(UserError, match=said) as caught:
        load([DIGITS], [override])
    assert f"command line: {override} {said}" in str(caught.value) and "\n" not in str(caught.value)


def test_a_folder_of_such_a_name_is_taken_as_it_is_there(at_home: Path) -> None:
    for name in ("ram", "$HOME"):
        Path(name).mkdir()
        assert load([DIGITS], [f"data.cache={name}"]).data.cache == f"{at_home}/here/{name}"
    assert load([DIGITS], ["data.root=/data/cash$/x"]).data.root == "/data/cash$/x"
