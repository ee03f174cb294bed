"""What activation checkpointing saves and costs: peak memory and seconds of a step, for a network of each family.

    python benchmarks/activation_checkpointing.py --smoke
    python benchmarks/activation_checkpointing.py [--networks resnet50 swin_t ...] [--pixels 160] [--batch 8] [--steps 5]

Each network trains alone in a process of its own, with `train.activation_checkpointing` off, of all blocks and of every second
one. The memory is that by which the process grew since the network and its gradients were there: activations, and the
optimizer's momentum. Prints JSON: per network and setting `memory_mb`, `seconds_per_step` (the median), and the ratios to off.
`--smoke`: one small network, two steps.
"""

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))
NETWORKS = ("resnet50", "convnext_tiny", "swin_t", "vit_b_16", "deeplabv3plus")
SETTINGS = ("off", "blocks", "2")


def _step(network: Any, pixels: int, batch: int) -> Any:
    """A function that takes a step."""
    import torch

    torch.manual_seed(0)
    images = torch.randn(batch, 3, pixels, pixels)
    optimizer = torch.optim.SGD(network.parameters(), lr=1e-3, momentum=0.9)
    network.train()

    def step() -> None:
        output = network(images)
        loss = (output["out"] if isinstance(output, dict) else output).square().mean()
        loss.backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=False)

    return step


def _measured(name: str, setting: str, pixels: int, batch: int, steps: int, result: Path) -> None:
    """In a process of its own: the work of one cell."""
    import resource

    import torch

    from phalanx.configs.load import load
    from phalanx.dist import activation_checkpointing
    from phalanx.models import registry

    torch.set_num_threads(2)
    network = registry.get(name).build(num_classes=10, image_size=(pixels, pixels))
    config = load([str(ROOT / "configs/recipes/digits_resnet18.yaml")], [f"train.activation_checkpointing={setting}"])
    for parameter in network.parameters():
        parameter.grad = torch.zeros_like(parameter)
    step = _step(network, pixels, batch)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    activation_checkpointing.apply(network, config)
    times = []
    for _ in range(steps):
        begun = time.monotonic()
        step()
        times.append(time.monotonic() - begun)
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    result.write_text(json.dumps({"memory_mb": grown // 1024, "seconds": times}))


def measure(
    networks: Sequence[str], pixels: int, batch: int, steps: int, settings: Sequence[str] = SETTINGS
) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory(prefix="activation-checkpointing-") as folder:
        for name in networks:
            found = {}
            for setting in settings:
                result = Path(folder) / f"{name}-{setting}.json"
                cell = [name, setting, str(pixels), str(batch), str(steps), str(result)]
                subprocess.run([sys.executable, __file__, "--cell", *cell], check=True)
                found[setting] = json.loads(result.read_text())
            base = found["off"]
            for setting, one in found.items():
                seconds = statistics.median(one["seconds"][1:] or one["seconds"])
                row = {
                    "network": name,
                    "setting": setting,
                    "memory_mb": one["memory_mb"],
                    "seconds_per_step": round(seconds, 3),
                }
                row["memory_ratio"] = round(one["memory_mb"] / max(1, base["memory_mb"]), 2)
                row["time_ratio"] = round(seconds / statistics.median(base["seconds"][1:] or base["seconds"]), 2)
                rows.append(row)
                print(json.dumps(row), flush=True)
    return rows


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--networks", nargs="+", default=list(NETWORKS))
    parser.add_argument("--pixels", type=int, default=160)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--steps", type=int, default=5)
    parser.add_argument("--smoke", action="store_true", help="one small network, two steps")
    parser.add_argument("--cell", nargs=6, help=argparse.SUPPRESS)
    given = parser.parse_args(arguments)
    if given.cell:
        name, setting, *numbers, result = given.cell
        _measured(name, setting, *map(int, numbers), Path(result))
    elif given.smoke:
        measure(["resnet18"], 32, 2, 2, SETTINGS[:2])
    else:
        measure(given.networks, given.pixels, given.batch, given.steps)
    return 0


if __name__ == "__main__":
    sys.exit(main())
