"""Weights of others, in files that their own libraries wrote: read without unpickling, whole or not at all."""

import json
import os
import pickle
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file, save_model
from torch import nn
from torch.optim.swa_utils import AveragedModel

from benchmarks.support.rank_pool import Pool
from phalanx.configs.load import load
from phalanx.dist.checkpoint.entries import full_entry
from phalanx.dist.checkpoint.save import CheckpointInfo, save
from phalanx.dist.comm.process_group import World
from phalanx.dist.storage.run_directory import RunDirectory
from phalanx.models import weights
from phalanx.models.weights import BadWeights, Loaded, open_source
from tests.support.running import DIGITS, ROOT, clean_environment


class Network(nn.Module):
    """Sizes that no number of ranks divides, BatchNorm's buffers, and a head."""

    def __init__(self, classes: int = 7) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 5, 3)
        self.norm = nn.BatchNorm2d(5)
        self.head = nn.Linear(5, classes)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        return self.head(self.norm(self.conv(image)).mean((2, 3)))  # type: ignore[no-any-return]


def network(seed: int, classes: int = 7) -> Network:
    """A model whose buffers are no longer as they were made."""
    torch.manual_seed(seed)
    model = Network(classes)
    model(torch.randn(4, 3, 6, 6))
    return model


def assert_loads(path: Path, source: Any = None, but_for: tuple[str, ...] = ()) -> Loaded:
    """Loads into another model than `network(1)`, which was saved, and finds that one's tensors to the last bit."""
    target = network(2)
    loaded = weights.load(target, path, source)
    found = target.state_dict()
    for name, tensor in network(1).state_dict().items():
        assert torch.equal(found[name], tensor) or name in but_for, name
    return loaded


def refusal(path: Path, classes: int = 7) -> str:
    """The sentence with which a file is refused, having left the model as it was."""
    target = network(2, classes)
    with pytest.raises(BadWeights) as caught:
        weights.load(target, path)
    before = network(2, classes).state_dict()
    assert all(torch.equal(tensor, before[name]) for name, tensor in target.state_dict().items())
    assert str(path) in str(caught.value) and "\n" not in str(caught.value)
    return str(caught.value)


@pytest.fixture(scope="module")
def by_accelerate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What accelerate saved: in one file, in several (300 bytes each), and without safetensors.

    In a process of its own, for accelerate imports DeepSpeed on the way, which ranks do in their own time.
    """
    folder = tmp_path_factory.mktemp("accelerate")
    program = f"""
from accelerate import Accelerator
from tests.models.test_weights import network

for name, largest, safe in ("one", 10**9, True), ("several", 300, True), ("pickled", 10**9, False):
    Accelerator(cpu=True).save_model(network(1), f"{folder}/{{name}}", max_shard_size=largest, safe_serialization=safe)
"""
    environment = clean_environment(ACCELERATE_USE_CPU="true")
    subprocess.run([sys.executable, "-c", program], cwd=ROOT, env=environment, check=True, capture_output=True, timeout=100)
    return folder


@pytest.mark.parametrize(
    ("name", "files", "file"), [("one", 1, "model.safetensors"), ("several", 2, "model.safetensors.index.json")]
)
def test_a_folder_of_accelerate_loads_in_one_file_or_several(by_accelerate: Path, name: str, files: int, file: str) -> None:
    assert len(list((by_accelerate / name).glob("*.safetensors"))) == files
    assert assert_loads(by_accelerate / name).tensors == 9
    assert_loads(by_accelerate / name / file)


def test_a_folder_of_accelerate_without_safetensors_loads(by_accelerate: Path) -> None:
    assert_loads(by_accelerate / "pickled")


def test_an_index_that_names_what_is_not_there_is_refused(by_accelerate: Path, tmp_path: Path) -> None:
    shutil.copytree(by_accelerate / "several", tmp_path / "saved")
    index = tmp_path / "saved/model.safetensors.index.json"
    whole_index = json.loads(index.read_text())
    for file, sentence in {"../other.safetensors": "beside it", "gone.safetensors": "beside it"}.items():
        index.write_text(json.dumps({"weight_map": whole_index["weight_map"] | {"head.bias": file}}))
        assert sentence in refusal(index)
    index.write_text(json.dumps({"weight_map": whole_index["weight_map"] | {"other": whole_index["weight_map"]["head.bias"]}}))
    assert "no file has the tensor other" in refusal(index)
    index.write_text('{"weight_map": {"head.bias": "a", "head.bias": "b"}}')
    assert "each key once" in refusal(index)
    index.write_text("[]")
    assert "not an index" in refusal(index)


def test_tied_weights_load_from_the_one_name_that_was_stored(tmp_path: Path) -> None:
    def tied() -> nn.Module:
        model = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3))
        model[1].weight = model[0].weight
        return model

    source, target = tied(), tied()
    save_model(source, str(tmp_path / "w.safetensors"))
    weights.load(target, tmp_path / "w.safetensors")
    assert all(torch.equal(a, b) for a, b in zip(source.state_dict().values(), target.state_dict().values(), strict=True))


NESTS: dict[str, Callable[[dict[str, Any]], dict[str, Any]]] = {
    "": lambda state: state,
    "state_dict": lambda state: {"state_dict": state, "epoch": 3, "hyper_parameters": {"lr": 0.1}},
    "model": lambda state: {"model": state, "optimizer": torch.optim.SGD(Network().parameters(), 0.1).state_dict()},
    "model_state_dict": lambda state: {"model_state_dict": state, "args": None},
    "module": lambda state: {"module": state, "model": {}},
}


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize("prefix", ["", "module.", "_orig_mod.", "model.", "module._orig_mod."])
@pytest.mark.parametrize("key", NESTS)
def test_a_state_dict_loads_from_under_its_usual_key_and_prefix(tmp_path: Path, key: str, prefix: str, zipped: bool) -> None:
    state = {prefix + name: tensor for name, tensor in network(1).state_dict().items()}
    torch.save(NESTS[key](state), tmp_path / "w.pth", _use_new_zipfile_serialization=zipped)
    loaded = assert_loads(tmp_path / "w.pth")
    assert (loaded.under, loaded.prefix) == (key, prefix)
    assert all(word in str(loaded) for word in (f"under {key}" * bool(key), prefix, "9 tensors", "w.pth"))


def test_a_wrapped_module_loads_as_it_is_saved(tmp_path: Path) -> None:
    torch.save(nn.DataParallel(network(1)).state_dict(), tmp_path / "parallel.pth")
    assert assert_loads(tmp_path / "parallel.pth").prefix == "module."
    torch.save(torch.compile(network(1), backend="eager").state_dict(), tmp_path / "compiled.pth")
    assert assert_loads(tmp_path / "compiled.pth").prefix == "_orig_mod."


def test_a_prefix_that_the_model_has_too_is_kept(tmp_path: Path) -> None:
    source, target = (nn.ModuleDict({"model": network(seed)}) for seed in (1, 2))
    torch.save(source.state_dict(), tmp_path / "w.pth")
    assert weights.load(target, tmp_path / "w.pth").prefix == ""
    assert torch.equal(target["model"].head.weight, source["model"].head.weight)  # type: ignore[union-attr, arg-type]


def test_counters_that_old_files_lack_are_zero(tmp_path: Path) -> None:
    state = {k: v for k, v in network(1).state_dict().items() if not k.endswith("num_batches_tracked")}
    torch.save(state, tmp_path / "w.pth")
    loaded = assert_loads(tmp_path / "w.pth", but_for=("norm.num_batches_tracked",))
    assert loaded.zeroed == 1 and "num_batches_tracked" in str(loaded)
    target = network(2)
    weights.load(target, tmp_path / "w.pth")
    assert target.norm.num_batches_tracked == 0


def test_other_formats_of_numbers_are_rounded_and_other_kinds_refused(tmp_path: Path) -> None:
    model = network(1)
    torch.save(model.bfloat16().state_dict(), tmp_path / "half.pth")
    target = network(2)
    weights.load(target, tmp_path / "half.pth")
    assert target.head.weight.dtype == torch.float32
    assert torch.equal(target.head.weight.bfloat16(), model.head.weight)
    torch.save(network(1).state_dict() | {"head.bias": torch.zeros(7, dtype=torch.int64)}, tmp_path / "whole.pth")
    with pytest.raises(BadWeights, match=r"head\.bias is torch\.int64 there"):
        weights.load(network(2), tmp_path / "whole.pth")


class Harm:
    """What calls `open` when it is unpickled."""

    def __init__(self, path: Path):
        self.path = path

    def __reduce__(self) -> tuple[Callable[..., object], tuple[str, str]]:
        return (open, (str(self.path), "w"))  # type: ignore[return-value]


def test_a_pickle_that_would_make_a_file_makes_none(tmp_path: Path) -> None:
    harm, state = Harm(tmp_path / "harmed"), network(1).state_dict()
    for protocol in range(6):
        (tmp_path / f"{protocol}.pth").write_bytes(pickle.dumps(harm, protocol))
    for zipped in (True, False):
        torch.save(
            {"state_dict": state, "hyper_parameters": harm}, tmp_path / f"{zipped}.ckpt", _use_new_zipfile_serialization=zipped
        )
        torch.save(state | {"head.bias": harm}, tmp_path / f"{zipped}.pt", _use_new_zipfile_serialization=zipped)
    files = list(tmp_path.iterdir())
    assert len(files) == 10
    for path in files:
        assert "read safely" in refusal(path)
    assert not (tmp_path / "harmed").exists()
    assert "asks for" in refusal(tmp_path / "True.ckpt") and "open" in refusal(tmp_path / "True.ckpt")


def test_what_does_not_fit_is_named_and_counted(tmp_path: Path) -> None:
    state = network(1).state_dict()
    torch.save(state, tmp_path / "seven.pth")
    said = refusal(tmp_path / "seven.pth", classes=3)
    assert "2 of 9 tensors have another shape: head.weight is [7, 5] there and [3, 5] in the model, head.bias is" in said

    less = {name: tensor for name, tensor in state.items() if not name.startswith("head")}
    save_file(less, tmp_path / "less.safetensors")
    assert "lacks the tensor head.weight (and 1 more), which the model has" in refusal(tmp_path / "less.safetensors")
    save_file(state | {"head.extra.bias": torch.zeros(1)}, tmp_path / "more.safetensors")
    assert "has the tensor head.extra.bias, which the model lacks" in refusal(tmp_path / "more.safetensors")
    save_file({"fc.bias": torch.zeros(1)}, tmp_path / "other.safetensors")
    said = refusal(tmp_path / "other.safetensors")
    assert "lacks the tensor conv.weight (and 7 more)" in said and "has the tensor fc.bias" in said


def test_what_holds_no_weights_is_refused(tmp_path: Path) -> None:
    state = network(1).state_dict()
    torch.save({"epoch": 3}, tmp_path / "epoch.pth")
    torch.save([1, 2], tmp_path / "list.pth")
    torch.save({"model": state, "state_dict": state}, tmp_path / "two.pth")
    torch.save(state | {"head.bias": torch.zeros(7).to_sparse()}, tmp_path / "sparse.pth")
    with pytest.deprecated_call():
        torch.jit.save(torch.jit.script(network(1)), tmp_path / "script.pt")  # type: ignore[no-untyped-call]
    save_file({}, tmp_path / "empty.safetensors")
    (tmp_path / "broken.safetensors").write_bytes(b"no weights")
    torch.save(state, tmp_path / "whole.pth")
    (tmp_path / "cut.pth").write_bytes((tmp_path / "whole.pth").read_bytes()[:-300])
    (tmp_path / "zero.pth").touch()
    (tmp_path / "folder").mkdir()
    sentences = {
        "nowhere.pth": "there is no such file",
        "epoch.pth": "more than named tensors (the keys epoch)",
        "list.pth": "more than named tensors (a list)",
        "two.pth": "under state_dict and model",
        "sparse.pth": "more than named tensors",
        "script.pt": "read safely",
        "empty.safetensors": "there is no tensor in it",
        "broken.safetensors": "read safely",
        "cut.pth": "read safely",
        "zero.pth": "this file is empty",
        "folder": "no weights of a known form",
    }
    for name, sentence in sentences.items():
        assert sentence in refusal(tmp_path / name)


def _our_own(world: World, run: Path) -> None:
    entries = [full_entry(name, "model", tensor) for name, tensor in network(1).state_dict().items()]
    save(world, run / "checkpoints", entries, CheckpointInfo(10, 320, "ddp", "digest", {}))


@pytest.mark.parametrize(
    ("start", "said"),
    [
        (b"version https://git-lfs.github.com/spec/v1\noid", "git lfs pull"),
        (b"<!DOCTYPE html>", "a web page"),
        (b"\x1f\x8b0", "gzip"),
    ],
)
@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_what_a_download_left_in_place_of_weights_is_named(tmp_path: Path, start: bytes, said: str, suffix: str) -> None:
    (tmp_path / f"a{suffix}").write_bytes(start + b"0" * 100)
    with pytest.raises(BadWeights, match=said):
        open_source(tmp_path / f"a{suffix}")


def test_weights_that_hold_nan_are_refused_and_a_missing_head_may_start_fresh(tmp_path: Path) -> None:
    model = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 2))
    state = model.state_dict()
    save_file({**state, "0.bias": torch.full([3], torch.nan)}, tmp_path / "a.safetensors")
    with pytest.raises(BadWeights, match=r"0\.bias holds NaN"):
        weights.load(model, tmp_path / "a.safetensors")
    save_file({name: tensor for name, tensor in state.items() if name[0] == "0"}, tmp_path / "b.safetensors")
    with pytest.raises(BadWeights, match=r"or start these layers fresh with model\.fresh=\[1\.\*\]\."):
        weights.load(model, tmp_path / "b.safetensors")


@pytest.mark.parametrize("name", ["a.pth", "a.safetensors", "folder/model.safetensors", "folder/pytorch_model.bin"])
def test_a_pipe_is_refused_and_never_waited_for(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    path.parent.mkdir(exist_ok=True)
    os.mkfifo(path)
    with pytest.raises(BadWeights):
        open_source(path.parent if path.parent != tmp_path else path)


def test_our_own_checkpoint_is_refused_with_the_command_whose_file_loads(pool: Pool, tmp_path: Path) -> None:
    run = tmp_path / "run"
    config = load([DIGITS], [f"runs={tmp_path}", "name=run"])
    RunDirectory.of(config).create(config, threads=1)
    pool.run(2, _our_own, run)
    step = run / "checkpoints/step-00000010"
    for path in (run, run / "checkpoints", step, step / "manifest.json", next(step.glob("shards/*"))):
        which = "" if path in (run, run / "checkpoints") else " --step 10"
        assert f"`phalanx checkpoint consolidate {run}{which} -o FILE.safetensors`" in refusal(path)
    command = [
        sys.executable,
        "-m",
        "phalanx.launch.main",
        "checkpoint",
        "consolidate",
        run,
        "--step",
        "10",
        "-o",
        "f.safetensors",
    ]
    subprocess.run(command, cwd=tmp_path, env=clean_environment(), check=True, capture_output=True, timeout=60)
    assert_loads(tmp_path / "f.safetensors")


# -- what stands before the network's names, and what lies beside them

BESIDE = {"criterion.weight": torch.zeros(7), "n_averaged": torch.zeros((), dtype=torch.int64)}
WRAPPED = ["net.", "backbone.", "encoder.", "module.module.", "student.", "ema.module.", "module._orig_mod.net.", "a.b.c.", ""]


@pytest.mark.parametrize("prefix", WRAPPED)
def test_the_prefix_of_the_network_s_names_is_taken_away_and_tensors_beside_it_are_reported_and_left(
    tmp_path: Path, prefix: str
) -> None:
    state = {prefix + name: tensor for name, tensor in network(1).state_dict().items()}
    save_file(state | BESIDE, tmp_path / "w.safetensors")
    torch.save({"state_dict": BESIDE | state, "optimizer": {"state": {}}, "epoch": 3}, tmp_path / "w.ckpt")
    torch.save(state | BESIDE | {"epoch": 3, "arch": "resnet", "best": 0.5, "config": None}, tmp_path / "plain.pth")
    for name in ("w.safetensors", "w.ckpt", "plain.pth"):
        loaded = assert_loads(tmp_path / name)
        assert (loaded.prefix, loaded.tensors, set(loaded.rest)) == (prefix, 9, set(BESIDE))
        assert "2 beside them are left: " in str(loaded) and "criterion.weight" in str(loaded)


def test_an_average_of_torch_s_own_loads_and_so_does_a_part_that_was_compiled_or_wrapped(tmp_path: Path) -> None:
    torch.save(AveragedModel(network(1)).state_dict(), tmp_path / "average.pth")
    assert assert_loads(tmp_path / "average.pth").rest == ("n_averaged",)
    torch.save(nn.DataParallel(torch.compile(network(1), backend="eager")).state_dict(), tmp_path / "both.pth")  # type: ignore[arg-type]
    assert assert_loads(tmp_path / "both.pth").prefix == "module._orig_mod."
    part = network(1)
    part.norm = torch.compile(part.norm, backend="eager")  # type: ignore[assignment]
    torch.save({f"net.{name}": tensor for name, tensor in part.state_dict().items()}, tmp_path / "part.pth")
    assert assert_loads(tmp_path / "part.pth").prefix == "net."


def test_of_several_networks_in_a_file_none_is_guessed_and_one_can_be_named(tmp_path: Path) -> None:
    one, other = network(1).state_dict(), network(3).state_dict()
    save_file(named("student.net.", other) | named("teacher.net.", one), tmp_path / "names.safetensors")
    torch.save({"student": named("net.", other), "teacher": named("net.", one), "epoch": 3}, tmp_path / "keys.pth")
    torch.save({"state_dict": named("net.", other), "state_dict_ema": named("net.", one)}, tmp_path / "ema.pth")
    assert "behind student.net. and teacher.net.. Set model.prefix=" in refusal(tmp_path / "names.safetensors")
    assert "under student and teacher. Set model.prefix=" in refusal(tmp_path / "keys.pth")
    cases = [("names.safetensors", "teacher.net"), ("names.safetensors", "teacher.net."), ("keys.pth", "teacher")]
    for name, prefix in [*cases, ("keys.pth", "teacher.net"), ("ema.pth", "state_dict_ema")]:
        target = network(2)
        weights.load(target, tmp_path / name, prefix=prefix)
        assert all(torch.equal(target.state_dict()[key], tensor) for key, tensor in one.items())
    target = network(2)
    assert weights.load(target, tmp_path / "ema.pth").under == "state_dict"
    with pytest.raises(BadWeights, match=r"no name in the file begins with pupil\."):
        weights.load(network(2), tmp_path / "names.safetensors", prefix="pupil")


def named(prefix: str, state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {prefix + name: tensor.clone() for name, tensor in state.items()}


def test_the_network_that_fits_is_taken_where_another_of_its_kind_lies_beside_it(tmp_path: Path) -> None:
    save_file(
        named("small.", network(1).state_dict()) | named("large.", network(3, 9).state_dict()), tmp_path / "w.safetensors"
    )
    loaded = assert_loads(tmp_path / "w.safetensors")
    assert loaded.prefix == "small." and len(loaded.rest) == 9


def test_where_nothing_fits_the_sentence_is_about_the_names_without_usual_prefixes(tmp_path: Path) -> None:
    save_file({f"module.{name}": torch.zeros(2) for name in ("fc.weight", "fc.bias")}, tmp_path / "w.safetensors")
    said = refusal(tmp_path / "w.safetensors")
    assert "lacks the tensor conv.weight (and 7 more)" in said and "has the tensor fc.bias (and 1 more)" in said
    less = {name: tensor for name, tensor in network(1).state_dict().items() if name != "conv.weight"}
    save_file(named("net.", less) | BESIDE, tmp_path / "less.safetensors")
    assert "the file lacks the tensor conv.weight, which the model has. Give" in refusal(tmp_path / "less.safetensors")


@pytest.mark.parametrize("key", ["state_dict_ema", "model_ema"])
def test_averaged_weights_beside_others_are_reported_and_taken_by_their_prefix(tmp_path: Path, key: str) -> None:
    averaged = AveragedModel(network(3)).state_dict() if key == "model_ema" else network(3).state_dict()
    plain = "model" if key == "model_ema" else "state_dict"
    torch.save({plain: network(1).state_dict(), key: averaged, "epoch": 3}, tmp_path / "best.pth")
    said = str(assert_loads(tmp_path / "best.pth"))
    assert f"under {plain}, not those averaged under {key} (model.prefix={key} takes them)" in said
    target = network(2)
    loaded = weights.load(target, tmp_path / "best.pth", prefix=key)
    assert torch.equal(target.head.weight, network(3).head.weight) and "not those" not in str(loaded)


def test_the_long_advice_of_torch_is_never_repeated(tmp_path: Path) -> None:
    torch.save(network(1).state_dict(), tmp_path / "whole.pth")
    content = (tmp_path / "whole.pth").read_bytes()
    torch.save(network(1).state_dict(), tmp_path / "old.pth", _use_new_zipfile_serialization=False)
    old = (tmp_path / "old.pth").read_bytes()
    cases = [content[:50], content[: len(content) // 2], content[:-200], old[:-100], b"hello world\n", b'{"a": 1}', bytes(3000)]
    for broken in (*cases, pickle.dumps({"a": 1})):
        (tmp_path / "broken.pth").write_bytes(broken)
        with pytest.raises(BadWeights) as caught:
            open_source(tmp_path / "broken.pth")
        said = str(caught.value).replace(str(tmp_path), "")
        assert re.search(r"\(it (is cut short|was not written)|\(its content is broken", said) and len(said) < 200, said
