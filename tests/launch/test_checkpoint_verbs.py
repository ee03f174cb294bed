"""`phalanx checkpoint`: what there is, whether it is intact, one file of weights, and how two differ."""

import json
import math
import os
import pty
import shutil
import subprocess
import sys
import tracemalloc
from collections.abc import Callable
from pathlib import Path

import numpy
import pytest
import torch
import torchvision
from safetensors.torch import load_file, save_file
from torch.nn import functional as F

from benchmarks.support.rank_pool import Pool
from phalanx.configs.load import load
from phalanx.data.open import open_split
from phalanx.data.transforms.pipeline import pipeline
from phalanx.dist.checkpoint import manifest, shard_file
from phalanx.dist.checkpoint.entries import Entry, full_entry
from phalanx.dist.checkpoint.save import CheckpointInfo, save
from phalanx.dist.checkpoint.tools.compare import compare
from phalanx.dist.checkpoint.tools.consolidate import consolidate
from phalanx.dist.checkpoint.tools.sources import open_both
from phalanx.dist.comm.process_group import World
from phalanx.launch.main import main
from phalanx.models import registry
from tests.support.running import PHALANX, RESNET18, clean_environment, phalanx, run, tensors

Command = Callable[..., tuple[int, str, str]]
ROWS = torch.arange(12, dtype=torch.float32).reshape(4, 3) ** 1.5  # statistics of four micro-batches, three channels
TOP1 = {1: 0.5, 2: 0.9, 3: 0.7}


def write(world: World, folder: Path, step: int) -> None:
    """Every rank saves a small model with averaged weights and an optimizer's state; step 2 has the best metric."""
    rank, size = world.ranks.rank, world.ranks.world
    first, last = rank * 4 // size, (rank + 1) * 4 // size
    weight = torch.arange(1200, dtype=torch.float32).reshape(2, 600) + step
    entries = [
        full_entry("weight", "model", weight),
        full_entry("half", "model", torch.arange(700, dtype=torch.bfloat16)),
        full_entry("count", "model", torch.tensor(2**60 + 1)),
        full_entry("weight@exp_avg", "optimizer", torch.ones(2, 600)),
        full_entry("weight@ema", "ema", weight / 2),
        Entry("bn.running_mean@micro_batches@ema", "ema_buffers", -ROWS[first:last], (4, 3), first * 3, replicated=False),
        Entry("bn.running_mean@micro_batches", "statistics", ROWS[first:last], (4, 3), first * 3, replicated=False),
        Entry(
            "bn.num_batches_tracked@micro_batches",
            "statistics",
            torch.full((last - first,), step),
            (4,),
            first,
            replicated=False,
        ),
    ]
    progress = CheckpointInfo(step, 10 * step, "ddp", "digest", {"lr": 0.1, "nan": math.nan}, {"val/top1": TOP1[step]})
    save(world, folder, entries, progress, smallest_file=0)


@pytest.fixture(scope="module")
def written(pool: Pool, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run with the checkpoints of steps 1, 2 and 3, written by two ranks."""
    run_directory = tmp_path_factory.mktemp("written") / "small"
    (run_directory / "checkpoints").mkdir(parents=True)
    (run_directory / "run.json").write_text('{"run": "x", "wandb": "x"}')
    (run_directory / "config.yaml").write_text(Path(RESNET18).read_text() + "  best: val/top1\nname: small\n")
    for step in TOP1:
        pool.run(2, write, run_directory / "checkpoints", step)
    return run_directory


@pytest.fixture
def small(written: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of that run, to be harmed."""
    monkeypatch.chdir(tmp_path)
    shutil.copytree(written, tmp_path / "small")
    return Path("small")


@pytest.fixture
def checkpoint(capsys: pytest.CaptureFixture[str]) -> Command:
    """`phalanx checkpoint ARGUMENTS` in this process: exit code, output, errors."""

    def call(*arguments: str | Path) -> tuple[int, str, str]:
        capsys.readouterr()
        code = main(["checkpoint", *map(str, arguments)])
        said = capsys.readouterr()
        assert "Traceback" not in said.err
        return code, said.out, said.err

    return call


def step(run_directory: Path, number: int) -> Path:
    return run_directory / f"checkpoints/step-{number:08d}"


def harm(run_directory: Path, number: int, place: int = -5) -> None:
    """Flips a bit of the second rank's shard."""
    shard = step(run_directory, number) / "shards/rank-00001.safetensors"
    content = bytearray(shard.read_bytes())
    content[place] ^= 1
    shard.write_bytes(content)


# -- ls -----------------------------------------------------------------------------------------------------------------


def test_ls_lists_every_checkpoint_in_columns_and_marks_the_best(small: Path, checkpoint: Command) -> None:
    (step(small, 3) / "manifest.json").unlink()
    code, shown, _ = checkpoint("ls", small)
    header, *rows = shown.splitlines()
    assert code == 0 and header.split() == ["step", "size", "ranks", "strategy", "samples", "val/top1"]
    assert rows[0].endswith("0.5000") and rows[1].endswith("0.9000  best val/top1")
    assert rows[2].split(maxsplit=1) == ["3", "broken: it has no manifest: its save did not finish"]
    assert header.index("val/top1") + len("val/top1") == len(rows[0]) == rows[1].index("0.9000") + 6
    listed = json.loads(checkpoint("ls", small, "--json")[1])
    assert [(one["step"], one["intact"], one.get("best")) for one in listed] == [
        (1, True, False),
        (2, True, True),
        (3, False, None),
    ]
    assert listed[1]["metrics"] == {"val/top1": 0.9} and listed[1]["world_size"] == 2


def test_ls_shows_checkpoints_though_the_configuration_is_broken(small: Path, checkpoint: Command) -> None:
    (small / "config.yaml").write_text("train: [")
    code, shown, said = checkpoint("ls", small)
    assert code == 0 and len(shown.splitlines()) == 4 and "best" not in shown and "config.yaml" in said


# -- verify -------------------------------------------------------------------------------------------------------------


def test_verify_names_every_file_and_block_that_was_changed(
    small: Path, checkpoint: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    code, shown, _ = checkpoint("verify", small)
    assert code == 0 and shown.count(": intact (2 files, 2 blocks") == 3 and "\r" not in shown
    harm(small, 1)
    (step(small, 2) / "shards/rank-00000.safetensors").unlink()
    code, shown, _ = checkpoint("verify", small)
    assert code == 2
    first, second, third = shown.splitlines()
    assert first.endswith("step-00000001: broken: shards/rank-00001.safetensors was changed after it was written (block 0)")
    assert second.endswith("broken: shards/rank-00000.safetensors is missing") and ": intact" in third
    assert checkpoint("verify", small, "--step", "3")[0] == checkpoint("verify", step(small, 3))[0] == 0
    code, shown, _ = checkpoint("verify", step(small, 1), "--json")
    (problem,) = json.loads(shown)[0]["problems"]
    assert code == 2 and problem["file"] == "shards/rank-00001.safetensors" and problem["block"] == 0


def test_verify_reads_every_block_of_a_file(pool: Pool, tmp_path: Path, checkpoint: Command) -> None:
    pool.run(1, write_large, tmp_path)
    content = bytearray((shard := step_in(tmp_path, 1) / "shards/rank-00000.safetensors").read_bytes())
    assert len(content) > 2 * shard_file.BLOCK_BYTES
    content[-1] ^= 1
    content[shard_file.BLOCK_BYTES] ^= 1
    shard.write_bytes(content)
    _, shown, _ = checkpoint("verify", step_in(tmp_path, 1))
    assert [line[-len("(block 1)") :] for line in shown.splitlines()] == ["(block 1)", "(block 3)"]


def test_a_manifest_that_vouches_for_less_than_there_is_is_broken(small: Path, checkpoint: Command) -> None:
    rewrite(step(small, 3), lambda body: body["files"]["shards/rank-00001.safetensors"]["xxh3_64"].clear())
    rewrite(step(small, 2), lambda body: body["tensors"].update(other=body["tensors"]["half"]))
    step(small, 1).rename(step(small, 7))
    _, shown, _ = checkpoint("verify", small)
    second, third, moved = shown.splitlines()
    assert "has no checksums for all of shards/rank-00001" in third
    assert "does not hold other" in second
    assert "its manifest is of step 1, unlike its folder's name" in moved
    code, _, said = checkpoint("diff", step(small, 2), "small@3")
    assert code == 2 and "does not hold other" in said


def test_verify_shows_how_far_it_is_on_a_terminal(small: Path) -> None:
    reader, writer = pty.openpty()
    command = [*PHALANX, "checkpoint", "verify", str(small)]
    shown = b""
    try:
        process = subprocess.Popen(command, stdout=writer, env=clean_environment())
        os.close(writer)
        while True:
            try:
                shown += (piece := os.read(reader, 4096))
            except OSError:  # the other end is closed
                break
            if not piece:
                break
        assert process.wait(60) == 0
    finally:
        os.close(reader)
    assert shown.count(b": intact") == 3 and b"\r\x1b[K" in shown


# -- consolidate --------------------------------------------------------------------------------------------------------


def test_averaged_weights_take_the_places_of_the_others(small: Path, checkpoint: Command) -> None:
    assert checkpoint("consolidate", small, "--step", "1", "-o", "a.safetensors", "--ema")[0] == 0
    assert checkpoint("consolidate", small, "--step", "1", "-o", "t.safetensors", "--with-optimizer")[0] == 0
    averaged, trained = load_file("a.safetensors"), load_file("t.safetensors")
    plain = {"weight", "half", "count", "bn.running_mean", "bn.num_batches_tracked"}
    assert averaged.keys() == plain and trained.keys() == plain | {"weight@exp_avg"}
    assert torch.equal(averaged["weight"], trained["weight"] / 2) and trained["weight"].shape == (2, 600)
    assert torch.equal(averaged["half"], trained["half"]) and trained["half"].dtype == torch.bfloat16
    assert torch.equal(trained["bn.running_mean"], (ROWS[0] + ROWS[1] + ROWS[2] + ROWS[3]) / 4)
    assert torch.equal(averaged["bn.running_mean"], -trained["bn.running_mean"])
    assert averaged["bn.num_batches_tracked"].shape == () and int(averaged["bn.num_batches_tracked"]) == 1
    assert json.loads(Path("a.json").read_text())["weights"] == "averaged"


def test_the_best_is_the_one_by_checkpoint_best(small: Path, checkpoint: Command) -> None:
    code, _, _ = checkpoint("consolidate", small, "--best", "-o", "w.safetensors")
    facts = json.loads(Path("w.json").read_text())
    assert code == 0 and facts["step"] == 2 and facts["metrics"] == {"val/top1": 0.9} and facts["samples"] == 20
    assert facts["experiment"] == "digest" and facts["model"]["name"] == "resnet18" and "torch" in facts["versions"]
    harm(small, 2)
    code, _, said = checkpoint("consolidate", small, "--best", "-o", "w.safetensors")
    assert code == 2 and "is broken" in said and "the best by val/top1" in said
    (small / "config.yaml").write_text(Path(RESNET18).read_text() + "  best: val/miou\nname: small\n")
    assert "no checkpoint has the metric val/miou" in checkpoint("consolidate", small, "--best", "-o", "w.safetensors")[2]
    (small / "config.yaml").write_text(Path(RESNET18).read_text() + "name: small\n")
    assert "checkpoint.best is not set" in checkpoint("consolidate", small, "--best", "-o", "w.safetensors")[2]


def test_the_newest_valid_one_is_taken_and_what_was_skipped_is_reported(small: Path, checkpoint: Command) -> None:
    harm(small, 3)
    code, _, said = checkpoint("consolidate", small, "-o", "w.safetensors")
    assert code == 0 and "step 3 was skipped" in said and json.loads(Path("w.json").read_text())["step"] == 2
    for number in (1, 2):
        harm(small, number)
    code, _, said = checkpoint("consolidate", small, "-o", "w.safetensors")
    assert code == 2 and "no intact checkpoint; step 3: shards/rank-00001" in said and len(said.splitlines()) == 1


def test_an_output_that_cannot_be_is_refused_and_nothing_is_overwritten(small: Path, checkpoint: Command) -> None:
    Path("folder.safetensors").mkdir()
    Path("mine.json").write_text("[1]")
    for output, sentence in [
        ("nowhere/w.safetensors", "there is no folder nowhere"),
        ("folder.safetensors", "this is a folder"),
        ("w.pth", "Name it w.safetensors"),
        ("mine.safetensors", "mine.json: `consolidate` did not write this file"),
        (step(small, 1) / "shards/rank-00000.safetensors", "inside the checkpoints' folder"),
        ("/sys/w.safetensors", "cannot be written"),
    ]:
        code, _, said = checkpoint("consolidate", small, "-o", output)
        assert code == 2 and sentence in said and len(said.splitlines()) == 1, said
    assert Path("mine.json").read_text() == "[1]" and not list(Path().glob(".*.tmp"))
    assert checkpoint("verify", small)[0] == 0


def write_large(world: World, folder: Path) -> None:
    entries = [full_entry(f"layer{i}.weight", "model", torch.full((1 << 20,), float(i))) for i in range(12)]  # 4 MiB each
    folder.mkdir(exist_ok=True)
    save(world, folder, entries, CheckpointInfo(1, 10, "single", "digest", {}))


def step_in(folder: Path, number: int) -> Path:
    return folder / f"step-{number:08d}"


def test_consolidate_and_diff_need_the_memory_of_about_one_tensor(pool: Pool, small: Path) -> None:
    shutil.rmtree(small / "checkpoints")
    pool.run(1, write_large, small.absolute() / "checkpoints")
    one, output = 4 << 20, Path("w.safetensors")
    peaks = []
    tracemalloc.start()
    try:
        assert consolidate(step(small, 1), output) == 12
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.reset_peak()
        with open_both(step(small, 1), output) as (a, b):
            assert compare(a, b).equal
        peaks.append(tracemalloc.get_traced_memory()[1])
    finally:
        tracemalloc.stop()
    assert max(peaks) < 3 * one  # of twelve
    assert float(load_file("w.safetensors")["layer7.weight"][-1]) == 7


def test_consolidated_weights_give_torchvision_what_evaluate_measures(tmp_path: Path, checkpoint: Command) -> None:
    phalanx("train", RESNET18, "name=digits", "train.steps=3", "data.workers=0", "--nproc", "1", cwd=tmp_path)
    measured = json.loads(phalanx("evaluate", "runs/digits", "--json", cwd=tmp_path).output.splitlines()[-1])
    output = tmp_path / "w.safetensors"
    assert checkpoint("consolidate", tmp_path / "runs/digits", "-o", output)[0] == 0

    network = torchvision.models.resnet18(num_classes=10)
    network.conv1 = torch.nn.Conv2d(1, 64, kernel_size=7, stride=2, padding=3, bias=False)
    state = load_file(output)
    network.load_state_dict(state, strict=True)
    stored = tensors(tmp_path / "runs/digits")
    assert all(numpy.array_equal(parameter.detach().numpy(), stored[name]) for name, parameter in network.named_parameters())

    config = load([RESNET18])
    validation = open_split(config.data, "val")
    transform = pipeline(config.data, validation, "val")
    images = torch.stack([transform(validation[i])["image"] for i in range(len(validation))])
    targets = torch.tensor([int(validation[i]["target"]) for i in range(len(validation))])
    with torch.inference_mode():
        logits = network.eval()(images)
    assert float(F.cross_entropy(logits, targets)) == pytest.approx(measured["loss"], rel=1e-5)
    assert float((logits.argmax(1) == targets).double().mean()) == pytest.approx(measured["top1"], abs=1e-12)

    facts = json.loads(output.with_suffix(".json").read_text())
    assert facts["model"] | {"num_classes": 10, "in_channels": 1} == facts["model"]
    registry.build(**facts["model"]).load_state_dict(state, strict=True)


# -- diff ---------------------------------------------------------------------------------------------------------------


def test_a_checkpoint_equals_itself_and_its_copy_to_the_last_bit(small: Path, checkpoint: Command) -> None:
    shutil.copytree(step(small, 2), "copy")
    for a, b in (("small@2", step(small, 2)), ("copy", "small@2"), ("small", "small@3")):
        code, shown, _ = checkpoint("diff", a, b)
        assert code == 0 and shown == "equal to the last bit: 8 tensors, 4 scalars\n"


def test_a_checkpoint_equals_the_file_written_out_of_it(small: Path, checkpoint: Command) -> None:
    for options in ([], ["--ema"], ["--with-optimizer"]):
        assert checkpoint("consolidate", small, "-o", "w.safetensors", *options)[0] == 0
        code, shown, _ = checkpoint("diff", small, "w.safetensors")
        assert code == 0 and shown.startswith("equal to the last bit"), shown


def test_differences_are_listed_worst_first(small: Path, checkpoint: Command) -> None:
    code, shown, _ = checkpoint("diff", "small@1", "small@2", "--json")
    found = json.loads(shown)
    assert code == 1 and not found["equal"]
    by_name = {one["name"]: one for one in found["differing"]}
    assert by_name.keys() == {"weight", "weight@ema", "bn.num_batches_tracked@micro_batches"}
    assert [one["relative"] for one in found["differing"]] == sorted((o["relative"] for o in by_name.values()), reverse=True)
    assert by_name["weight"]["largest"] == 1 and by_name["weight"]["relative"] == 1 / 1201
    assert by_name["weight"]["elements"] == by_name["weight"]["of"] == 1200
    assert {s["name"]: (s["a"], s["b"]) for s in found["differing_scalars"]} == {"step": (1, 2), "samples": (10, 20)}
    code, shown, _ = checkpoint("diff", "small@1", "small@2")
    assert code == 1 and shown.splitlines()[-1] == "3 of 8 tensors differ, 2 of 4 scalars differ"


def test_numbers_of_every_kind_are_compared_as_they_are(tmp_path: Path, checkpoint: Command) -> None:
    a = {
        "bf16": torch.tensor([1.0, 2.0], dtype=torch.bfloat16),
        "long": torch.tensor([2**62, 5]),
        "signs": torch.tensor([0.0, 1.0]),
        "nan": torch.tensor([math.nan, 1.0]),
        "broken": torch.tensor([1.0, 1.0]),
        "shape": torch.zeros(2, 3),
        "format": torch.tensor([1.0, 2.0], dtype=torch.float64),
        "mine": torch.zeros(1),
    }
    b = a | {
        "bf16": torch.tensor([1.0, 2.5], dtype=torch.bfloat16),
        "long": torch.tensor([2**62 + 1, 5]),
        "signs": torch.tensor([-0.0, 1.0]),
        "broken": torch.tensor([1.0, math.nan]),
        "shape": torch.zeros(3, 2),
        "format": torch.tensor([1.0, 2.0], dtype=torch.float32),
    }
    del b["mine"]
    save_file(a, tmp_path / "a.safetensors")
    save_file(b, tmp_path / "b.safetensors")
    files = (tmp_path / "a.safetensors", tmp_path / "b.safetensors")
    found = json.loads(checkpoint("diff", *files, "--json")[1])
    by_name = {one["name"]: (one["largest"], one["elements"]) for one in found["differing"]}
    infinite = {"float": "inf"}
    assert by_name == {
        "bf16": (0.5, 1),
        "long": (1, 1),
        "signs": (0, 1),
        "broken": (infinite, 1),
        "shape": (infinite, 6),
        "format": (0, 0),
    }
    assert found["only_a"] == ["mine"] and found["only_b"] == []
    within = json.loads(checkpoint("diff", *files, "--json", "--tolerance", "0.21")[1])
    assert {one["name"] for one in within["differing"]} == {"broken", "shape"} and within["within"] == 4


def test_what_cannot_be_compared_is_said(small: Path, checkpoint: Command) -> None:
    Path("no.safetensors").write_bytes(b"nothing")
    Path("empty").mkdir()
    harm(small, 1)
    for a, sentence in [
        ("no.safetensors", "not a valid safetensors file"),
        ("nothing", "there is no such file or folder"),
        ("empty", "neither a run"),
        ("small@9", "no checkpoint of step 9"),
        ("small@1", "is broken: shards/rank-00001.safetensors was changed"),
    ]:
        code, _, said = checkpoint("diff", a, small)
        assert code == 2 and sentence in said and len(said.splitlines()) == 1, said
    assert "not a number of at least zero" in checkpoint("diff", small, small, "--tolerance", "-1")[2]


def test_the_tools_import_no_torch(small: Path, tmp_path: Path) -> None:
    program = "import sys; from phalanx.launch.main import main; code = main(sys.argv[1:]); print('torch' in sys.modules, code)"
    for arguments in (
        ["ls", "small"],
        ["verify", "small"],
        ["consolidate", "small", "-o", "w.safetensors"],
        ["diff", "small", "w.safetensors"],
    ):
        shown = run([sys.executable, "-c", program, "checkpoint", *arguments], tmp_path)
        assert shown.output.splitlines()[-1] == "False 0", shown.output


def rewrite(path: Path, change: Callable[[dict], object]) -> None:
    """Edits a manifest and mends its checksum, as one who means to deceive would."""
    body = json.loads((path / "manifest.json").read_text())
    change(body)
    body.pop("xxh3_64")
    body["xxh3_64"] = manifest._sum(body)
    (path / "manifest.json").write_text(json.dumps(body))
