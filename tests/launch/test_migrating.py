"""Scripts of other toolkits, and the same with `phalanx.Training`; weights and momentum come over."""

import shutil
import sys
from pathlib import Path

import pytest
import torch
from torch.nn.functional import cross_entropy

from tests.support.running import ROOT, lines, run_script, sample_ids, tensors


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("migrating")
    shutil.copytree(ROOT / "examples/migrating", folder, dirs_exist_ok=True)
    shutil.copytree(ROOT / "tests/support/stand_ins", folder, dirs_exist_ok=True)
    return folder


def _accuracy(output: str) -> float:
    return float(output.split("accuracy ")[-1].split()[0])


def test_the_script_of_before_and_the_one_of_after_learn_alike(folder: Path) -> None:
    before = run_script("ddp.py", cwd=folder, count=2)
    assert _accuracy(before.output) > 0.9
    (folder / "checkpoint.pt").rename(folder / "of_ddp.pt")
    run_script("after.py", "name=after", cwd=folder, count=2)
    assert lines(folder / "runs/after/metrics.jsonl")[-1]["val/accuracy"] > 0.9
    accelerated = run_script("with_accelerate.py", cwd=folder)
    assert _accuracy(accelerated.output) > 0.9 and (folder / "accelerate_model/model.safetensors").is_file()


@pytest.mark.parametrize(("script", "count"), [("data_parallel.py", 1), ("with_apex.py", 2), ("with_horovod.py", 2)])
def test_a_script_learns_and_its_weights_and_momentum_come_over(folder: Path, script: str, count: int) -> None:
    assert _accuracy(run_script(script, cwd=folder, count=count).output) > 0.9
    shutil.rmtree(folder / "runs/continued", ignore_errors=True)
    run_script("after.py", "name=continued", "train.steps=1", "data.ledger=true", "train.log_every=1", cwd=folder)
    before = torch.load(folder / "checkpoint.pt", weights_only=True)
    sys.path.insert(0, str(folder))
    try:
        from digits import Digits, network  # type: ignore[import-not-found]
    finally:
        sys.path.remove(str(folder))
    plain, data = network().double(), Digits()
    plain.load_state_dict({name.removeprefix("module."): value for name, value in before["model"].items()})
    (ids,) = sample_ids(folder / "runs/continued").values()
    for half in (ids[:32], ids[32:]):
        output = plain(data.images[half].double())
        (cross_entropy(output, data.targets[half], reduction="sum") / 64).backward()
    after = tensors(folder / "runs/continued", 1)
    for number, (name, parameter) in enumerate(plain.named_parameters()):
        momentum = 0.9 * before["optimizer"]["state"][number]["momentum_buffer"].double() + parameter.grad
        found = torch.as_tensor(after[f"{name}@momentum_buffer"]).double()
        torch.testing.assert_close(found, momentum, rtol=1e-4, atol=1e-6)
        torch.testing.assert_close(
            torch.as_tensor(after[name]).double(), parameter.detach() - 0.05 * momentum, rtol=1e-4, atol=1e-6
        )


def test_modules_of_lightning_and_mmengine_train_as_they_are(folder: Path) -> None:
    """Both have the network, data, seed and optimizer of `after.py`: so the same losses come of them."""
    (folder / "checkpoint.pt").unlink(missing_ok=True)
    short = ["train.steps=3", "train.log_every=1"]
    losses = []
    for script, name in (("after.py", "plain"), ("lightning_module.py", "lightning"), ("mmengine_model.py", "mmengine")):
        run_script(script, *short, f"name={name}", cwd=folder)
        losses.append([line["train/loss"] for line in lines(folder / f"runs/{name}/metrics.jsonl")])
    for found in losses[1:]:
        assert found == pytest.approx(losses[0], rel=1e-5)
