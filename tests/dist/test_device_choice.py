"""Which GPU a rank takes, whatever the launcher shows it, and which sentence says that it has none to itself."""

import os
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from pathlib import Path

import pytest
import torch

from phalanx.configs.errors import RanksApart, TrainingFailed, UserError
from phalanx.configs.sections.dist import DistConfig
from phalanx.dist.comm import device_choice, rendezvous
from phalanx.dist.comm.device_choice import VisibleGpus, assign, choose_device
from phalanx.dist.comm.rendezvous import open_store
from phalanx.dist.processes.environment import Launcher, Ranks
from phalanx.dist.processes.gpus import count_gpus
from phalanx.slurm.hardware_faults import hardware_fault

TEN_SECONDS = timedelta(seconds=10)
ALL = ("GPU-a", "GPU-b", "GPU-c", "GPU-d")


def _node(*gpus: tuple[str, ...], host: str = "node0") -> list[VisibleGpus]:
    """The ranks of a node, each with the GPUs that it sees."""
    return [VisibleGpus(host, local, seen) for local, seen in enumerate(gpus)]


@pytest.mark.parametrize(
    ("seen", "numbers"),
    [
        pytest.param(_node(ALL, ALL, ALL, ALL), [0, 1, 2, 3], id="all see all"),
        pytest.param(_node(ALL, ALL), [0, 1], id="more GPUs than ranks"),
        pytest.param(_node(*((gpu,) for gpu in ALL)), [0, 0, 0, 0], id="--gpus-per-task=1"),
        pytest.param(_node(ALL[:2], ALL[2:], ("GPU-e", "GPU-f")), [0, 0, 0], id="--gpus-per-task=2"),
        pytest.param(_node(ALL, ALL[::-1]), [0, 0], id="in another order"),
        pytest.param(_node(("MIG-1",), ("MIG-2",)), [0, 0], id="MIG instances of one GPU"),
        pytest.param(_node(ALL[:2], ALL[:2]) + _node(ALL[2:], ALL[2:], host="node1"), [0, 1, 0, 1], id="two nodes"),
        # SLURM's cyclic distribution: ranks 0 and 2 are on one node.
        pytest.param(
            [VisibleGpus(f"node{r % 2}", r // 2, (ALL[2:], ALL[:2])[r % 2]) for r in range(4)], [0, 0, 1, 1], id="cyclic"
        ),
    ],
)
def test_each_rank_takes_the_first_gpu_that_no_lower_rank_took(seen: list[VisibleGpus], numbers: list[int]) -> None:
    assert assign(seen, "slurm") == numbers


@pytest.mark.parametrize(
    ("seen", "launcher", "sentence"),
    [
        (
            _node(ALL[:1], ALL[:1]),
            "slurm",
            "ranks 0 and 1 on node0 see one and the same GPU (GPU-a), and rank 1 sees no other. Give each task its own: set "
            "slurm.gpus_per_node to slurm.tasks_per_node, or start srun with --gpus-per-task=1, or set dist.device=cpu.",
        ),
        (
            _node(("GPU-a", "GPU-b"), ("GPU-a",)),
            "torchrun",
            "ranks 0 and 1 on node0 see one and the same GPU (GPU-a), and rank 1 sees no other. Start one rank per GPU "
            "(--nproc), or set another CUDA_VISIBLE_DEVICES for each rank, or set dist.device=cpu.",
        ),
        (
            _node(ALL[:2], ALL[:2], ALL[:2]),
            "torchrun",
            "3 ranks on node0, but 2 GPUs. Start at most 2, or set dist.device=cpu.",
        ),
        (
            _node(("GPU-a",), ("GPU-b",), ("GPU-a", "GPU-b"), ("GPU-c", "GPU-d")),
            "slurm",
            "rank 2 on node0 sees 2 GPUs, which ranks 0, 1 have taken. Give each task its own",
        ),
        (
            _node(ALL) + _node((), host="node1"),
            "slurm",
            "rank 1 on node1 finds no GPU, but rank 0 on node0 does. Request GPUs for all tasks (slurm.gpus_per_node), check "
            "the driver on node1 with nvidia-smi, or set dist.device=cpu.",
        ),
    ],
)
def test_a_rank_without_a_gpu_to_itself_is_named_with_what_to_change(
    seen: list[VisibleGpus], launcher: Launcher, sentence: str
) -> None:
    with pytest.raises(UserError) as refused:
        assign(seen, launcher)
    assert str(refused.value).startswith(sentence)


def _exchanged(seen: list[VisibleGpus]) -> "list[int | Exception | None]":
    ranks = [Ranks(rank, len(seen), one.local_rank, len(seen), 0, "slurm") for rank, one in enumerate(seen)]
    stores = [open_store("127.0.0.1", 0, len(seen), TEN_SECONDS)]
    stores += [rendezvous._client("127.0.0.1", stores[0].port, one, TEN_SECONDS) for one in ranks[1:]]

    def part(ranks: Ranks) -> int | Exception | None:
        try:
            return device_choice._exchange(seen[ranks.rank], ranks, stores[ranks.rank])
        except (UserError, TrainingFailed) as refusal:
            return refusal

    with ThreadPoolExecutor(len(seen)) as threads:
        return list(threads.map(part, ranks))


def test_the_ranks_learn_over_the_store_which_gpu_each_takes_or_all_the_same_refusal() -> None:
    assert _exchanged(_node(ALL, ALL, ALL)) == [0, 1, 2]
    assert _exchanged(_node(ALL[:1], ALL[1:2])) == [0, 0]
    assert _exchanged(_node((), ())) == [None, None]
    refused = _exchanged(_node(ALL[:1], ALL[:1]))
    assert all(isinstance(error, UserError) and error.shared for error in refused)
    assert len({str(error) for error in refused}) == 1


def test_a_node_that_lost_its_gpu_is_at_fault_and_not_the_input() -> None:
    one, other = _exchanged([VisibleGpus("node0", 0, ALL[:1], True), VisibleGpus("node1", 0, (), True)])
    said = "rank 1 on node1 finds no GPU, though CUDA_VISIBLE_DEVICES promises it one: check the node"
    assert type(one) is RanksApart and type(other) is TrainingFailed and str(one) == str(other) == said
    assert hardware_fault(said)
    assert _exchanged([VisibleGpus("node0", 0, (), True)] * 2) == [None, None]  # a virtual cluster, which has none


@pytest.fixture
def no_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("ACCELERATE_USE_CPU", raising=False)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)


@pytest.mark.usefixtures("no_gpu")
def test_without_gpus_ranks_take_the_cpu_unless_they_were_told_to_take_a_gpu() -> None:
    store = open_store("127.0.0.1", 0, 1, TEN_SECONDS)
    for where in (None, store):
        assert choose_device(DistConfig(), Ranks(), where) == torch.device("cpu")
        with pytest.raises(UserError, match=r"dist\.device=cuda, but .*(Set|or set) dist\.device=cpu"):
            choose_device(DistConfig(device="cuda"), Ranks(), where)


def _devices(folder: Path, *names: str) -> Path:
    for name in names:
        (folder / name).touch()
    return folder


def test_gpus_are_counted_as_cuda_shows_them(tmp_path: Path) -> None:
    four = _devices(tmp_path, "nvidia0", "nvidia1", "nvidia2", "nvidia3", "nvidiactl", "nvidia-uvm")
    told = {None: 4, "": 0, "NoDevFiles": 0, "2": 1, "0, 1": 2, "1,-1,2": 1, "GPU-a,GPU-b": 2, "MIG-a,MIG-b": 1}
    for visible, count in told.items():
        environment = {} if visible is None else {"CUDA_VISIBLE_DEVICES": visible}
        assert count_gpus(environment, four) == count, visible


def test_under_wsl_which_has_no_file_per_gpu_the_driver_is_asked(tmp_path: Path) -> None:
    devices = _devices(tmp_path, "dxg")
    program = tmp_path / "nvidia-smi"
    program.write_text(
        "#!/bin/sh\nprintf 'GPU 0: A (UUID: GPU-a)\\n  MIG 1g Device 0: (UUID: MIG-b)\\nGPU 1: B (UUID: GPU-b)\\n'"
    )
    program.chmod(0o755)
    assert count_gpus({"PATH": str(tmp_path)}, devices) == 2
    assert count_gpus({"PATH": str(tmp_path), "CUDA_VISIBLE_DEVICES": "1"}, devices) == 1
    program.write_text("#!/bin/sh\necho NVIDIA-SMI has failed\nexit 9\n")
    assert count_gpus({"PATH": str(tmp_path)}, devices) == 0
    assert count_gpus({"PATH": str(tmp_path)}, tmp_path / "none") == 0


def test_the_rank_that_sees_a_mig_instance_names_it_by_its_id(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "init", lambda: None)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "MIG-1,MIG-2")
    monkeypatch.delenv("NCCL_MULTI_RANK_GPU_ENABLE", raising=False)
    assert device_choice.visible_gpus() == ("MIG-1",)
    assert choose_device(DistConfig(device="cuda"), Ranks()) == torch.device("cuda", 0)
    assert os.environ["NCCL_MULTI_RANK_GPU_ENABLE"] == "1"
