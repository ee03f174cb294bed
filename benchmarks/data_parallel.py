"""`nn.DataParallel`, DDP by hand and `phalanx.Training`, side by side on the same machine.

    python benchmarks/data_parallel.py --smoke
    python benchmarks/data_parallel.py [--ranks 2] [--batch 64] [--steps 5] [--rounds 30]

All train the same ResNet-18 on the same digits of 32 x 32 pixels, in steps of the same global batch, with the same number of
threads in all: DataParallel is one process with a thread for each rank of the others. Without a GPU, DataParallel calls the
network itself. They take turns in processes of their own, a block of steps each, in an order that moves on every round. Prints
JSON: the median steps per second of each, and the medians and quartiles over rounds of the ratio to DataParallel.
`--smoke`: few steps of few samples.
"""

import argparse
import json
import os
import select
import signal
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, NoReturn

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))
PIXELS = 32
_ENDED = os.WEXITED | os.WNOHANG | os.WNOWAIT


def _digits() -> tuple[Any, Any]:
    """The images [N, 1, 32, 32] and their labels [N]."""
    import torch
    from sklearn.datasets import load_digits

    data = load_digits()
    images = torch.from_numpy(data.images).float()[:, None] / 16
    return torch.nn.functional.interpolate(images, size=PIXELS), torch.from_numpy(data.target)


def _network() -> Any:
    import torch

    from phalanx.models import registry

    torch.manual_seed(0)
    return registry.get("resnet18").build(num_classes=10, in_channels=1)


def _by_hand(wrap: Callable[[Any], Any], rank: int, ranks: int, batch: int) -> Iterator[None]:
    """What a user writes. `batch`: of one process."""
    import torch
    from torch.nn.functional import cross_entropy
    from torch.utils.data import DataLoader, DistributedSampler, TensorDataset

    device = torch.device("cuda", rank) if torch.cuda.is_available() else torch.device("cpu")
    dataset = TensorDataset(*_digits())
    sampler: Any = DistributedSampler(dataset, num_replicas=ranks, rank=rank)
    loader: Any = DataLoader(dataset, batch_size=batch, sampler=sampler, drop_last=True)
    model = wrap(_network().to(device))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.03, momentum=0.9)
    epoch = 0
    while True:
        sampler.set_epoch(epoch)
        for images, targets in loader:
            loss = cross_entropy(model(images.to(device)), targets.to(device))
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            yield
        epoch += 1


def data_parallel(rank: int, ranks: int, batch: int) -> Iterator[None]:
    """One process for all devices."""
    import torch

    torch.set_num_threads(ranks)
    return _by_hand(torch.nn.DataParallel, 0, 1, batch)


def ddp(rank: int, ranks: int, batch: int) -> Iterator[None]:
    """One process for each device."""
    import torch

    torch.distributed.init_process_group("nccl" if torch.cuda.is_available() else "gloo")
    return _by_hand(torch.nn.parallel.DistributedDataParallel, rank, ranks, batch // ranks)


def _losses(model: Any, batch: Mapping[str, Any]) -> tuple[Any, int]:
    from torch.nn.functional import cross_entropy

    return cross_entropy(model(batch["input"]), batch["target"], reduction="sum"), len(batch["target"])


def ours(rank: int, ranks: int, batch: int) -> Iterator[None]:
    """DDP, by `phalanx.Training`."""
    import torch
    from torch.utils.data import TensorDataset

    import phalanx

    with phalanx.Training(
        "runs/ours", _network(), _losses, TensorDataset(*_digits()), lambda p: torch.optim.SGD(p, lr=0.03, momentum=0.9),
        steps=1_000_000, global_batch=batch, micro_batch=batch // ranks, overrides=["track.wandb=off"],
    ) as training:  # fmt: skip
        for step in training:
            for micro_batch in step:
                training.backward(_losses(training.model, micro_batch))
            training.update()
            yield


PROGRAMS = {"data_parallel": data_parallel, "ddp": ddp, "phalanx": ours}


class _Group:
    """The processes of one program, which do a block of steps whenever they are told to."""

    def __init__(self, program: Callable[[int, int, int], Iterator[None]], ranks: int, batch: int, folder: Path):
        from benchmarks.support.forking import fork_ranks

        self._folder, self._pipes = folder, []
        folder.mkdir()
        processes = 1 if program is data_parallel else ranks
        pipes = [(os.pipe(), os.pipe()) for _ in range(processes)]
        self._pipes = [(orders[1], answers[0]) for orders, answers in pipes]

        def work(rank: int) -> NoReturn:
            (orders, _), (_, answers) = pipes[rank]
            steps = program(rank, ranks, batch)
            while count := int.from_bytes(os.read(orders, 4), "big"):
                for _ in range(count):
                    next(steps)
                os.write(answers, b"x")
            os._exit(0)  # in the midst of a run, which nobody will resume

        self._processes = fork_ranks(work, processes, folder)

    def turn(self, steps: int) -> float:
        """How many seconds a block of steps takes."""
        start = time.perf_counter()
        for order, _ in self._pipes:
            os.write(order, steps.to_bytes(4, "big"))
        for _, answer in self._pipes:
            while not select.select([answer], [], [], 1.0)[0]:
                if any(os.waitid(os.P_PID, process, _ENDED) for process in self._processes):
                    raise SystemExit("\n".join(log.read_text() for log in sorted(self._folder.glob("rank-*.log"))))
            os.read(answer, 1)
        return time.perf_counter() - start

    def end(self) -> None:
        for process in self._processes:
            with suppress(ProcessLookupError):
                os.kill(process, signal.SIGKILL)
            os.waitpid(process, 0)


def measure(ranks: int, batch: int, steps: int, rounds: int) -> dict[str, Any]:
    """Steps per second of each program, and the ratio to DataParallel of the same round."""
    rates: dict[str, list[float]] = {name: [] for name in PROGRAMS}
    with tempfile.TemporaryDirectory() as folder:
        groups: dict[str, _Group] = {}
        try:
            for name, program in PROGRAMS.items():
                groups[name] = _Group(program, ranks, batch, Path(folder) / name)
            names = list(groups)
            for number in range(rounds + 1):
                for name in names[number % 3 :] + names[: number % 3]:
                    rates[name].append(steps / groups[name].turn(steps))
        finally:
            for group in groups.values():
                group.end()
    measured = {name: values[1:] for name, values in rates.items()}  # the first round warms up
    found: dict[str, Any] = {}
    for name, values in measured.items():
        ratios = [value / other for value, other in zip(values, measured["data_parallel"], strict=True)]
        quartiles = [round(q, 3) for q in statistics.quantiles(ratios, n=4)]
        found[name] = {"steps_per_s": round(statistics.median(values), 3), "ratio": quartiles[1], "ratio_quartiles": quartiles}
    return found


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--ranks", type=int, default=2, help="processes of DDP; on a GPU machine, its GPUs")
    parser.add_argument("--batch", type=int, default=64, help="the global batch")
    parser.add_argument("--steps", type=int, default=5, help="steps a block")
    parser.add_argument("--rounds", type=int, default=30, help="blocks of each")
    parser.add_argument("--smoke", action="store_true", help="few steps, in seconds")
    given = parser.parse_args(arguments)
    if given.smoke:
        given.batch, given.steps, given.rounds = 4, 1, 2
    from benchmarks.commands import Forks

    Forks()  # imports what ranks would import, while this process has one thread
    import torch

    from benchmarks.results import commit

    about = {"date": time.strftime("%Y-%m-%d"), "commit": commit(), "cpus": os.cpu_count(), "torch": torch.__version__}
    about |= {"gpus": torch.cuda.device_count(), "ranks": given.ranks, "batch": given.batch, "rounds": given.rounds}
    print(json.dumps(about | {"results": measure(given.ranks, given.batch, given.steps, given.rounds)}, indent=1))
    return 0


if __name__ == "__main__":
    sys.exit(main())
