"""What only a GPU can show: half precision, compilation, FSDP2, torch's SyncBatchNorm against ours, determinism.

    python benchmarks/gpu.py --smoke
    python benchmarks/gpu.py [--device cuda] [--output FILE.json]

Needs torch, torchvision and accelerate, and nothing else: it runs on a machine on which Phalanx is not installed. Prints JSON:
device, date, versions, and for every check whether it held and its figures. Ends with 1 if one did not. `--smoke`: on
the CPU, the checks that neither compile nor start processes, by two steps.
"""

import argparse
import datetime
import json
import multiprocessing
import os
import platform
import socket
import sys
import time
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "src")]

import torch  # noqa: E402
import torch.distributed  # noqa: E402

from benchmarks import parity_cases as cases  # noqa: E402
from phalanx.dist import precision  # noqa: E402
from phalanx.dist.batchnorm.sync_batchnorm import SyncBatchNorm, convert, stats_group_of  # noqa: E402
from phalanx.dist.comm.process_group import World, join  # noqa: E402
from phalanx.dist.processes.environment import Ranks  # noqa: E402

MICRO_BATCHES, STEPS = 4, 20
# The keys of the section `dist` at their defaults; tests/benchmarks/test_gpu_checks.py holds them to the schema.
DIST = {
    "strategy": "ddp", "precision": "fp32", "loss_scale": 65536.0, "loss_scale_window": 2000, "sync_bn": "off",
    "reduce": "fast", "exchange": "step", "shard_ranks": None, "reshard_after_forward": True, "gather": "full",
    "offload": False, "deepspeed": None, "channels_last": False, "compile": False, "device": "auto", "threads": None,
    "interface": None, "hang_s": 900.0, "timeout_s": 1800.0,
}  # fmt: skip


def settings(**dist: Any) -> Any:
    """A recipe as the engine reads it, without the schema, which needs pydantic."""
    train = SimpleNamespace(micro_batch=cases.SAMPLES, global_batch=cases.SAMPLES * MICRO_BATCHES, clip_norm=None, ema=None)
    return SimpleNamespace(seed=cases.SEED, micro_batches=MICRO_BATCHES, train=train, dist=SimpleNamespace(**(DIST | dist)))


class Bench:
    """Trains on one device, and compares.

    Attributes:
        world: this process, alone.
        most_steps: longer trainings end after so many.
    """

    def __init__(self, device: str, most_steps: int = STEPS):
        self.most_steps = most_steps
        self.world: World = join(Ranks(), settings(device=device).dist, Path("unused"), threads=1)

    def train(self, model: str = "cnn", steps: int = STEPS, **dist: Any) -> tuple[float, cases.Tensors]:
        """The loss after some steps of SGD, and everything that a checkpoint would hold."""
        steps = min(steps, self.most_steps)
        report = cases.trained(self.world, settings(**dist), model, "sgd", (steps,))
        if torch.distributed.is_initialized():
            torch.distributed.destroy_process_group()
        return cases.assembled([report], steps)

    def compare(self, one: dict[str, Any], other: dict[str, Any], model: str = "cnn", steps: int = STEPS) -> dict[str, Any]:
        found = cases.differences(self.train(model, steps, **one), self.train(model, steps, **other))
        return {kind: found[kind] for kind in ("loss", "gradients", "weights", "buffers", "bitwise")}


def _within(found: dict[str, Any], allowed: float) -> bool:
    return all(found[kind] <= allowed for kind in ("loss", "gradients", "weights", "buffers"))


Check = Callable[[Bench], tuple[bool, dict[str, Any]]]


def fp32_is_not_tf32(bench: Bench) -> tuple[bool, dict[str, Any]]:
    """float32 products have float32's error; under tf32, where there is any, a thousand times more."""
    torch.manual_seed(0)
    a, b = torch.randn(512, 512, device=bench.world.device), torch.randn(512, 512, device=bench.world.device)
    exact = a.double() @ b.double()
    formats, _ = precision._formats(bench.world.device)
    errors = {}
    for name in [f for f in ("fp32", "tf32") if f in formats]:
        precision.check(name, bench.world.device)
        errors[name] = float(((a @ b).double() - exact).abs().max() / exact.abs().max())
    precision.check("fp32", bench.world.device)
    return errors["fp32"] < 1e-6 and errors.get("tf32", 1.0) > 1e-5, errors


def fp64_equals_the_cpu(bench: Bench) -> tuple[bool, dict[str, Any]]:
    """The engine on this device against a loop in plain torch on the CPU."""
    figures = {}
    for model in ("cnn", "transformer"):
        steps = bench.most_steps
        by_hand = cases.by_hand(model, MICRO_BATCHES, "off", "sgd", torch.float64, (steps,))[steps]
        figures[model] = {k: v for k, v in cases.differences(bench.train(model, precision="fp64"), by_hand).items() if k in (
            "loss", "gradients", "weights", "buffers")}  # fmt: skip
    return all(_within(found, 1e-10) for found in figures.values()), figures


def half_precision_learns_what_fp32_learns(bench: Bench) -> tuple[bool, dict[str, Any]]:
    """After five steps the loss is that of float32 to a percent; weights differ by more, as rounding grows."""
    formats, _ = precision._formats(bench.world.device)
    names = [name for name in ("bf16", "fp16") if name in formats]
    figures = {name: bench.compare({"precision": name}, {}, steps=5) for name in names}
    return all(found["weights"] <= 0.2 and found["loss"] <= 1e-2 for found in figures.values()), figures


def an_overflow_in_fp16_is_skipped(bench: Bench) -> tuple[bool, dict[str, Any]]:
    """A scale beyond float16's range overflows until it has halved often enough; the weights stay finite."""
    loss, tensors = bench.train(steps=5, precision="fp16", loss_scale=2.0**24)
    finite = all(bool(torch.isfinite(torch.from_numpy(t.astype("float64"))).all()) for t in tensors.values())
    return finite, {"loss": loss}


def compiled_equals_eager(bench: Bench) -> tuple[bool, dict[str, Any]]:
    """Dropout included."""
    figures = {
        "fp32": bench.compare({"compile": True}, {}, "cnn+dropout", steps=5),
        "fsdp": bench.compare({"compile": True, "strategy": "fsdp"}, {}, "transformer", steps=5),
    }
    return all(_within(found, 1e-4) for found in figures.values()), figures


def channels_last_equals_channels_first(bench: Bench) -> tuple[bool, dict[str, Any]]:
    found = bench.compare({"channels_last": True}, {}, steps=5)
    return _within(found, 1e-4), found


def fsdp_equals_the_plain_model(bench: Bench) -> tuple[bool, dict[str, Any]]:
    """In float64; in bf16 it rounds as without; offloaded to the CPU too."""
    figures = {
        "fp64": bench.compare({"strategy": "fsdp", "precision": "fp64"}, {"precision": "fp64"}, "transformer"),
        "hsdp fp64": bench.compare({"strategy": "hsdp", "precision": "fp64"}, {"precision": "fp64"}),
        "offload": bench.compare({"strategy": "fsdp", "precision": "fp64", "offload": True}, {"precision": "fp64"}),
        "bf16": bench.compare({"strategy": "fsdp", "precision": "bf16"}, {"precision": "bf16"}, "transformer", steps=5),
        "half": bench.compare({"strategy": "fsdp", "precision": "bf16", "gather": "half"}, {"precision": "bf16"}, steps=5),
    }
    allowed = {"bf16": 1e-2, "half": 5e-2}
    return all(found["weights"] <= allowed.get(name, 1e-10) for name, found in figures.items()), figures


def deterministic_runs_are_bitwise_equal(bench: Bench) -> tuple[bool, dict[str, Any]]:
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.use_deterministic_algorithms(True)
    try:
        figures = {reduce: bench.compare({"reduce": reduce}, {"reduce": reduce}, "cnn+dropout") for reduce in ("fast", "exact")}
    finally:
        torch.use_deterministic_algorithms(False)
    return all(found["bitwise"] for found in figures.values()), figures


def torchs_syncbatchnorm_equals_ours(bench: Bench) -> tuple[bool, dict[str, Any]]:
    """Two processes share the device, over gloo; both kinds against BatchNorm on the whole batch."""
    context = multiprocessing.get_context("spawn")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    results = context.SimpleQueue()
    parts = [context.Process(target=_joint_part, args=(r, port, str(bench.world.device), results)) for r in range(2)]
    for part in parts:
        part.start()
    found = [results.get() for _ in parts]
    for part in parts:
        part.join(60)
    figures = {kind: max(one[kind] for one in found) for kind in found[0]}
    return all(value <= 1e-5 for value in figures.values()), figures


def _joint_part(rank: int, port: int, device_name: str, results: Any) -> None:
    """One of the two: the worst difference of outputs, input gradients and buffers to those of the whole batch."""
    address = f"tcp://127.0.0.1:{port}"
    torch.distributed.init_process_group("gloo", init_method=address, rank=rank, world_size=2)
    device = torch.device(device_name)
    torch.manual_seed(1)
    batch, weight = (torch.randn(10, 4, 6, 6, device=device) * 3 + 1 for _ in range(2))
    rows = slice(0, 3) if rank == 0 else slice(3, 10)  # uneven
    found = {}
    kinds: dict[str, torch.nn.Module] = {"ours": convert(torch.nn.BatchNorm2d(4).to(device), SyncBatchNorm)[0]}
    if device.type == "cuda":
        kinds["torch"] = torch.nn.SyncBatchNorm(4).to(device)
    expected = _through(torch.nn.BatchNorm2d(4).to(device), batch, weight)
    for name, layer in kinds.items():
        stats_group_of(layer).group = torch.distributed.group.WORLD
        pairs = zip(_through(layer, batch[rows], weight[rows]), expected, strict=True)
        found[name] = max(float((a - (b[rows] if len(b) == len(batch) else b)).abs().max() / b.abs().max()) for a, b in pairs)
    results.put(found)
    torch.distributed.destroy_process_group()


def _through(layer: torch.nn.Module, x: torch.Tensor, weight: torch.Tensor) -> list[torch.Tensor]:
    x = x.clone().requires_grad_()
    output = layer(x)
    (output * weight).sum().backward()
    assert x.grad is not None
    return [output.detach(), x.grad, *(b.float().reshape(-1) for b in layer.buffers())]


CHECKS: list[Check] = [
    fp32_is_not_tf32,
    fp64_equals_the_cpu,
    half_precision_learns_what_fp32_learns,
    an_overflow_in_fp16_is_skipped,
    compiled_equals_eager,
    channels_last_equals_channels_first,
    fsdp_equals_the_plain_model,
    deterministic_runs_are_bitwise_equal,
    torchs_syncbatchnorm_equals_ours,
]


SMOKE: list[Check] = [fp32_is_not_tf32, fp64_equals_the_cpu, channels_last_equals_channels_first, fsdp_equals_the_plain_model]


def run(device: str, checks: Sequence[Check] = CHECKS, most_steps: int = STEPS) -> dict[str, Any]:
    """Every check; one that fails or raises does not keep the others from running."""
    bench = Bench(device, most_steps)
    results: dict[str, Any] = {}
    for check in checks:
        start = time.perf_counter()
        try:
            held, figures = check(bench)
            results[check.__name__] = {"held": held, "figures": figures}
        except Exception:
            results[check.__name__] = {"held": False, "error": traceback.format_exc()}
        results[check.__name__]["seconds"] = round(time.perf_counter() - start, 1)
        print(f"{check.__name__}: {'held' if results[check.__name__]['held'] else 'FAILED'}", file=sys.stderr, flush=True)
    _, name = precision._formats(bench.world.device)
    return {
        "device": name,
        "date": datetime.date.today().isoformat(),
        "torch": torch.__version__,
        "python": platform.python_version(),
        "held": all(result["held"] for result in results.values()),
        "checks": results,
    }


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", choices=["cuda", "cpu"], default="cuda", help="cpu tries the script itself")
    parser.add_argument("--output", type=Path)
    parser.add_argument("--smoke", action="store_true", help="some checks on the CPU, in seconds")
    given = parser.parse_args(arguments)
    if not given.smoke and given.device == "cuda" and not torch.cuda.is_available():
        print("torch finds no GPU. Check the driver with nvidia-smi; --device cpu tries the script itself.", file=sys.stderr)
        return 2
    report = run("cpu", SMOKE, most_steps=2) if given.smoke else run(given.device)
    text = json.dumps(report, indent=1)
    print(text)
    if given.output is not None:
        given.output.write_text(text + "\n")
    return 0 if report["held"] else 1


if __name__ == "__main__":
    sys.exit(main())
