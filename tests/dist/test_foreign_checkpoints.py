"""Checkpoints of torch.distributed.checkpoint (DCP) and DeepSpeed as weights, in folders that these wrote on real ranks."""

import os
import pickle
import subprocess
import sys
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed
import torch.distributed.checkpoint
from torch import nn
from torch.distributed.checkpoint import FileSystemWriter, HuggingFaceStorageWriter
from torch.distributed.checkpoint.state_dict import StateDictOptions, get_state_dict
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard

from benchmarks.support.rank_pool import Pool
from phalanx.configs.errors import UserError
from phalanx.dist.checkpoint.dcp import folder, metadata
from phalanx.dist.comm.process_group import World
from phalanx.models.weights import BadWeights
from tests.dist.test_zero import config
from tests.models.test_weights import Harm, assert_loads, network, refusal
from tests.support.running import clean_environment


def _met(world: World) -> World:
    """One rank alone joins no group of its own accord."""
    if world.ranks.world == 1:
        torch.distributed.init_process_group("gloo", store=torch.distributed.HashStore(), rank=0, world_size=1)
    return world


def _trained_under_fsdp(world: World) -> tuple[nn.Module, torch.optim.Optimizer]:
    """`network(1)` in shards, with an optimizer that has a state; the step itself changes nothing."""
    model = fully_shard(network(1), mesh=init_device_mesh("cpu", (_met(world).ranks.world,)))
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.0, weight_decay=0.0)
    model.eval()
    model(torch.randn(2, 3, 6, 6)).sum().backward()
    optimizer.step()
    return model, optimizer


def by_dcp(world: World, folder: Path, how: str) -> None:
    """Saves as DCP's users do: the model alone, beside its optimizer, as torchtitan, in an object of an application."""
    model, optimizer = _trained_under_fsdp(world)
    own, state = get_state_dict(model, optimizer, options=StateDictOptions(flatten_optimizer_state_dict=how == "torchtitan"))
    saved: dict[str, Any] = {
        "alone": own,
        "nested": {"model": own, "optimizer": state, "step": 3, "note": {"lr": 0.1}},
        "torchtitan": {**own, "optimizer": state, "train_state": {"step": torch.tensor(3)}},
        "application": {"app": {"model": own, "optim": state}},
    }[how]
    torch.distributed.checkpoint.save(saved, storage_writer=FileSystemWriter(folder, thread_count=2))


def opened(path: Path) -> Any:
    assert folder.is_one(path)
    return folder.open_folder(path)


@pytest.mark.parametrize("ranks", [1, 2, 3])
@pytest.mark.parametrize("how", ["alone", "nested", "torchtitan", "application"])
def test_a_folder_of_dcp_loads_whoever_wrote_which_part(pool: Pool, tmp_path: Path, how: str, ranks: int) -> None:
    pool.run(ranks, by_dcp, tmp_path, how)
    under = {"nested": "model", "application": "app.model"}.get(how, "")
    assert assert_loads(tmp_path, opened(tmp_path)).under == under


def _in_safetensors(world: World, folder: Path, consolidated: bool) -> None:
    model, _ = _trained_under_fsdp(world)
    writer = HuggingFaceStorageWriter(str(folder), save_distributed=True, enable_consolidation=consolidated)
    # DCP's own consolidation takes no whole numbers.
    floats = {name: tensor for name, tensor in model.state_dict().items() if tensor.is_floating_point()}
    torch.distributed.checkpoint.save(floats if consolidated else model.state_dict(), storage_writer=writer)


@pytest.mark.parametrize("consolidated", [True, False])
def test_safetensors_of_dcp_load_whole_or_in_the_ranks_parts(pool: Pool, tmp_path: Path, consolidated: bool) -> None:
    pool.run(2, _in_safetensors, tmp_path, consolidated)
    lost = ("norm.num_batches_tracked",) if consolidated else ()
    assert assert_loads(tmp_path, None if consolidated else opened(tmp_path), lost).zeroed == len(lost)


def _by_accelerate(world: World, folder: Path) -> None:
    from accelerate import Accelerator, FullyShardedDataParallelPlugin
    from accelerate.utils.fsdp_utils import save_fsdp_model

    plugin = FullyShardedDataParallelPlugin(fsdp_version=2, state_dict_type="SHARDED_STATE_DICT")
    save_fsdp_model(plugin, Accelerator(cpu=True), _trained_under_fsdp(world)[0], str(folder))


def test_the_folder_of_accelerates_fsdp_loads(pool: Pool, tmp_path: Path) -> None:
    pool.run(2, _by_accelerate, tmp_path)
    folder = tmp_path / "pytorch_model_fsdp_0"
    assert assert_loads(folder, opened(folder)).under == "model"


def _metadata(folder: Path) -> Any:
    """As DCP wrote it, but for the path that it was saved to."""
    found = metadata.read(folder / ".metadata")
    found.storage_meta = None
    return found


def _refused(path: Path) -> str:
    with pytest.raises(UserError) as caught:
        folder.open_folder(path)
    assert str(path) in str(caught.value) and "\n" not in str(caught.value)
    return str(caught.value)


def test_metadata_that_would_make_a_file_makes_none(pool: Pool, tmp_path: Path) -> None:
    folder = tmp_path / "saved"
    pool.run(1, by_dcp, folder, "nested")
    metadata = _metadata(folder)
    harm = Harm(tmp_path / "harmed")
    metadata.planner_data["harm"] = harm
    for protocol in range(6):
        for content in (harm, metadata):
            (folder / ".metadata").write_bytes(pickle.dumps(content, protocol))
            reason = "asks for io.open" if protocol >= 4 else "has the opcode"
            assert reason in _refused(folder)
    # The names of classes are in the stream as text; with a line break in one, another opcode might follow it.
    stream = pickle.dumps(torch.Size([1]), 4).replace(b"\x8c\x04Size", b"\x8c\x10Size\ncio\nopen\nRR")
    (folder / ".metadata").write_bytes(stream)
    assert "asks for torch.Size" in _refused(folder)
    assert not (tmp_path / "harmed").exists()


def test_an_object_in_the_place_of_a_weight_is_not_unpickled(pool: Pool, tmp_path: Path) -> None:
    """DCP would unpickle what its metadata calls bytes; and the files hold pickles of their own."""
    folder = tmp_path / "saved"
    pool.run(1, by_dcp, folder, "alone")
    metadata = _metadata(folder)
    harm = pickle.dumps(Harm(tmp_path / "harmed"), 2)
    (index,) = (i for i in metadata.storage_data if i.fqn == "head.bias")
    info = metadata.storage_data[index]
    with open(folder / info.relative_path, "r+b") as file:
        file.seek(info.offset)
        file.write(harm)
    with pytest.raises(BadWeights, match="read safely"):
        assert_loads(folder, opened(folder))
    metadata.state_dict_metadata["head.bias"] = torch.distributed.checkpoint.metadata.BytesStorageMetadata()
    (folder / ".metadata").write_bytes(pickle.dumps(metadata))
    with pytest.raises(BadWeights, match=r"lacks the tensor head\.bias"):
        assert_loads(folder, opened(folder))
    assert not (tmp_path / "harmed").exists()


def _elsewhere(metadata: Any) -> None:
    next(iter(metadata.storage_data.values())).relative_path = "../../etc/passwd"


def _with_a_hole(metadata: Any) -> None:
    metadata.state_dict_metadata["head.weight"].chunks.pop()


DAMAGE: dict[str, tuple[Callable[[Any], None], str]] = {
    "a file elsewhere": (_elsewhere, "../../etc/passwd, which its metadata names, is missing"),
    "a hole": (_with_a_hole, "shards of head.weight are missing"),
    "nothing of files": (lambda metadata: setattr(metadata, "storage_data", None), "cannot be read"),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_metadata_is_not_believed(pool: Pool, tmp_path: Path, damage: str) -> None:
    pool.run(2, by_dcp, tmp_path, "alone")
    metadata = _metadata(tmp_path)
    change, sentence = DAMAGE[damage]
    change(metadata)
    (tmp_path / ".metadata").write_bytes(pickle.dumps(metadata))
    assert sentence in _refused(tmp_path)


def test_the_command_that_a_refusal_names_makes_a_file_that_loads(pool: Pool, tmp_path: Path) -> None:
    folder = tmp_path / "saved"
    pool.run(2, by_dcp, folder, "nested")
    content = (folder / ".metadata").read_bytes()
    (folder / ".metadata").write_bytes(b"no pickle")
    command = _refused(folder).split("`")[1].replace("FILE", str(tmp_path / "file")).split()
    (folder / ".metadata").write_bytes(content)
    subprocess.run([sys.executable, *command[1:]], env=clean_environment(), check=True, capture_output=True, timeout=60)
    assert_loads(tmp_path / "file.pth")


absent = find_spec("deepspeed") is None and not os.environ.get("CI")
needs_deepspeed = pytest.mark.skipif(absent, reason="DeepSpeed is not installed")


def by_deepspeed(world: World, folder: Path, strategy: str) -> None:
    """A step of ZeRO that changes no weight, and DeepSpeed's own saving."""
    from phalanx.dist.strategies import zero_engine

    model = network(1)
    model.eval()
    engine = zero_engine.start(
        model, torch.optim.AdamW(model.parameters(), lr=0.0, weight_decay=0.0), config(strategy), _met(world)
    )
    engine.backward(engine(torch.randn(2, 3, 6, 6)).sum())
    engine.step()
    engine.save_checkpoint(str(folder))


def _deepspeed(*command: str | Path) -> None:
    environment = clean_environment(DS_ACCELERATOR="cpu")
    arguments = [sys.executable, *map(str, command)]
    done = subprocess.run(arguments, env=environment, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stdout + done.stderr


@needs_deepspeed
@pytest.mark.parametrize("strategy", ["zero1", "zero2", "zero3"])
def test_a_universal_checkpoint_loads(pool: Pool, tmp_path: Path, strategy: str) -> None:
    pool.run(2, by_deepspeed, tmp_path, strategy)
    plain = tmp_path / (tmp_path / "latest").read_text()
    folders = ["--input_folder", plain, "--output_folder", tmp_path / "universal", "--inject_missing_state"]
    _deepspeed("-m", "deepspeed.checkpoint.ds_to_universal", *folders, "--num_extract_workers", "1", "--num_merge_workers", "1")
    assert assert_loads(tmp_path / "universal").tensors == 9


@needs_deepspeed
@pytest.mark.parametrize("strategy", ["zero1", "zero2"])
def test_a_zero_checkpoint_of_stage_1_or_2_loads(pool: Pool, tmp_path: Path, strategy: str) -> None:
    pool.run(2, by_deepspeed, tmp_path, strategy)
    assert assert_loads(tmp_path).under == "module"


@needs_deepspeed
def test_a_zero_checkpoint_of_stage_3_is_refused_with_the_command_whose_file_loads(pool: Pool, tmp_path: Path) -> None:
    pool.run(2, by_deepspeed, tmp_path / "saved", "zero3")
    newest = tmp_path / "saved" / (tmp_path / "saved/latest").read_text()
    command = refusal(newest).split("`")[1].replace("weights", str(tmp_path / "weights")).split()
    _deepspeed(tmp_path / "saved" / command[0], *command[1:])
    assert_loads(tmp_path / "weights")
