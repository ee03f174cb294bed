"""Bad input gets one clear sentence: what, where, and what to change; exit code 2; no traceback; nothing lost."""

import signal
from collections.abc import Callable
from pathlib import Path

import pytest

from phalanx.launch.main import main
from tests.support.running import DIGITS, FEW_EVALUATED, PHALANX, RESNET18, lines, phalanx, run, tensors

Refusal = Callable[..., str]


@pytest.fixture
def refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Refusal:
    """Runs the command in this process, where ranks would not be started anyway; gives what it said."""
    monkeypatch.chdir(tmp_path)
    for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE"):
        monkeypatch.delenv(name, raising=False)

    def refuse(*arguments: str) -> str:
        blocked = signal.pthread_sigmask(signal.SIG_BLOCK, [])
        assert main(arguments) == 2
        assert signal.pthread_sigmask(signal.SIG_BLOCK, []) == blocked  # children would inherit it, and never hear a signal
        shown = capsys.readouterr()
        assert "Traceback" not in shown.err and shown.err.startswith("phalanx: ")
        return shown.err

    return refuse


TRAIN = ("train", RESNET18, "--nproc", "2")


@pytest.mark.parametrize(
    ("override", "sentences"),
    [
        ("train.globl_batch=8", ["unknown key train.globl_batch", "Did you mean train.global_batch?"]),
        ("optim.learning_rate=8", ["unknown key optim.learning_rate", "Did you mean optim.lr?"]),
        ("train.global_batch=many", ["train.global_batch=many is not allowed", "a whole number"]),
        ("optim.lr=-1", ["optim.lr=-1 is not allowed", "greater than 0"]),
        ("optim.lr=nan", ["optim.lr=nan is not allowed", "a finite number"]),
        ("track.wandb=of", ["track.wandb=of is not allowed", "'online', 'offline' or 'off'", "Did you mean off?"]),
        ("dist.reduce=exactly", ["'fast' or 'exact'", "Did you mean exact?"]),
        ("dist.precision=fp12", ["dist.precision=fp12 is not allowed", "'fp32', 'tf32', 'bf16', 'fp16' or 'fp64'"]),
        ("train.micro_batch=10", ["train.global_batch=64 is not a multiple of train.micro_batch=10", "train.micro_batch=8"]),
        ("train.micro_batch=64", ["1 micro-batches", "2 ranks were asked for", "train.micro_batch=32"]),
        ("dist.strategy=single", ["dist.strategy=single runs on one rank", "dist.strategy=ddp"]),
        ("model.name=resnet81", ["there is no network 'resnet81'", "Did you mean resnet18"]),
        ("model.backbone=resnet18", ["takes no backbone", "Remove"]),
        ("data.name=digit", ["there is no such dataset", "Did you mean digits?"]),
        ("data.name=fashion_mnist", ["data.root is not set", "data.root=FOLDER"]),
        ("data.root=nowhere", ["/nowhere: there is no such folder"]),
        ("task.name=classify", ["there is no such task", "classification"]),
        ("task.name=./mine.py:Task", ["there is no file ./mine.py"]),
        ("name=../elsewhere", ["name=../elsewhere is not allowed", "a folder's name"]),
        ("train=3", ["train is a section"]),
    ],
)
def test_an_override_that_cannot_be(refused: Refusal, override: str, sentences: list[str], tmp_path: Path) -> None:
    said = refused(*TRAIN, override)
    for sentence in sentences:
        assert sentence in said, said
    assert len(said.splitlines()) == 1 and not (tmp_path / "runs").exists()


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (None, "there is no such file"),
        (b"", "the file is empty"),
        (b"# only a comment\n", "the file is empty"),
        (b"\x00\x01\xff\xfe", "not a text file: line 1 holds a NUL byte"),
        (b"- a\n- b\n", "holds no keys"),
        (b"train: [1, 2\n", "mine.yaml:1: this is not YAML: `train: [1, 2`"),
        (b"seed: 1\nseed: 2\n", "'seed' occurs twice"),
        (b"data:\n  name: digits\n  nmae: x\n", "mine.yaml:3: unknown key data.nmae"),
    ],
)
def test_a_file_that_cannot_be(refused: Refusal, content: bytes | None, sentence: str, tmp_path: Path) -> None:
    if content is not None:
        (tmp_path / "mine.yaml").write_bytes(content)
    assert sentence in refused("train", RESNET18, "mine.yaml", "--nproc", "2")


def test_all_problems_are_said_at_once(refused: Refusal, tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text("model: {name: resnet18}\noptim:\n  lr: much\ntrain:\n  global_batch: 8\n  epochs: 1\n")
    said = refused("train", "mine.yaml", "seed=x", "--nproc", "2").splitlines()
    assert len(said) == 4
    assert any(line.startswith("phalanx: mine.yaml:3: optim.lr=much") for line in said)
    assert any("mine.yaml:4: train.micro_batch is missing" in line for line in said)
    assert any("data is missing" in line for line in said)
    assert any("command line: seed=x" in line for line in said)


def test_words_and_numbers_are_read_as_a_person_means_them(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    recipe = tmp_path / "mine.yaml"
    recipe.write_text(Path(RESNET18).read_text() + "track: {wandb: off, tensorboard: no}\n")
    assert main(["config", str(recipe), "optim.lr=3e-4", "train.steps=1e3", "data.ledger=on", "--json"]) == 0
    import json

    values = json.loads(capsys.readouterr().out)
    assert values["track.wandb"] == "off" and values["track.tensorboard"] is False and values["data.ledger"] is True
    assert values["optim.lr"] == 3e-4 and values["train.steps"] == 1000 and values["name"] == "mine"


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ((), "no CONFIG.yaml was given"),
        ((RESNET18, "--nproc", "0"), "not a positive integer"),
        ((RESNET18, "--what"), "unrecognized arguments: --what"),
    ],
)
def test_a_command_line_that_cannot_be(refused: Refusal, arguments: tuple[str, ...], sentence: str) -> None:
    assert sentence in refused("train", *arguments)


def test_an_unknown_verb(refused: Refusal) -> None:
    assert "Did you mean `phalanx train`?" in refused("trian")


def test_an_empty_data_folder(refused: Refusal, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    assert "the folder is empty" in refused(*TRAIN, "data.name=fashion_mnist", "data.root=empty")


def test_a_run_that_is_not_there_or_has_no_checkpoint(refused: Refusal, tmp_path: Path) -> None:
    assert "there is no run here" in refused("resume", "runs/nothing")
    run_directory = tmp_path / "runs/started"
    (run_directory / "checkpoints").mkdir(parents=True)
    (run_directory / "run.json").write_text('{"run": "x", "wandb": "x"}')
    (run_directory / "config.yaml").write_text(Path(RESNET18).read_text() + "name: started\n")
    assert "has no checkpoint to resume from" in refused("resume", "runs/started")
    assert "has no intact checkpoint" in refused("checkpoint", "consolidate", "runs/started", "-o", "x.safetensors")


def test_a_directory_that_holds_another_experiment(refused: Refusal, tmp_path: Path) -> None:
    small = [
        DIGITS,
        FEW_EVALUATED,
        "train.global_batch=8",
        "train.micro_batch=4",
        "train.steps=1",
        "data.workers=0",
        "name=mine",
    ]
    phalanx("train", *small, cwd=tmp_path)
    before = tensors(tmp_path / "runs/mine")
    said = refused("train", *small, "optim.lr=0.5", "seed=3", "--nproc", "2")
    assert "holds another experiment" in said and "seed (there 1, here 3)" in said and "optim.lr (there 0.03, here 0.5)" in said
    assert "name=mine-2" in said
    said = refused("resume", "runs/mine", "optim.lr=0.5")
    assert "another experiment is not a resume: optim.lr (there 0.03, here 0.5)" in said
    assert all((tensors(tmp_path / "runs/mine")[n] == before[n]).all() for n in before)
    # Hardware and bookkeeping may change, and are kept.
    phalanx("train", *small, "data.workers=1", "train.log_every=1", "train.steps=2", cwd=tmp_path)
    assert [e["event"] for e in lines(tmp_path / "runs/mine/events.jsonl")].count("resume") == 1


def test_files_of_data_that_are_broken_are_named(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "data/train-images-idx3-ubyte").write_bytes(b"\x00\x00\x08\x03garbage")
    arguments = ["train", RESNET18, "data.name=fashion_mnist", "data.root=data", "--nproc", "2"]
    failed = run([*PHALANX, *arguments], tmp_path, expect=2)
    said = [line for line in failed.errors.splitlines() if line]
    assert len(said) == 1 and "train-images-idx3-ubyte[.gz]: this is not a complete IDX file" in said[0]


def test_help_and_errors_import_no_torch(tmp_path: Path) -> None:
    import sys

    program = "import sys; from phalanx.launch.main import main; code = main(sys.argv[1:]); print('torch' in sys.modules, code)"
    for arguments, code in (["--help"], 0), (["train", RESNET18, "seed=x", "--nproc", "2"], 2), (["config", "--keys"], 0):
        shown = run([sys.executable, "-c", program, *arguments], tmp_path)
        assert shown.output.splitlines()[-1] == f"False {code}"
