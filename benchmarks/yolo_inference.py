"""How fast YOLO networks see images, as they are trained and with BatchNorm folded into the convolutions.

    python benchmarks/yolo_inference.py --smoke
    python benchmarks/yolo_inference.py [--networks yolov5n yolov8n ...] [--side 320] [--batch 8] [--rounds 9] [--device cpu]

Both see the same random images in turns, decoded and with non-maximum suppression. Weights are drawn, running statistics those
of random images. Prints JSON: the median images per second of both, the median and quartiles over rounds of the ratio, and the
largest difference of a score, and of a corner in pixels, of all that both say. `--smoke`: one network, two rounds.
"""

import argparse
import copy
import json
import os
import platform
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from benchmarks.results import commit  # noqa: E402
from phalanx.models.detection.inference import Inference  # noqa: E402
from phalanx.models.detection.yolo.detector import Yolo  # noqa: E402
from phalanx.models.detection.yolo.networks import network  # noqa: E402

NETWORKS = ["yolov3", "yolov5n", "yolov5s", "yolox_nano", "yolox_s", "yolov8n", "yolov8s"]
CLASSES = 80
WANTED = Inference(score=0.25, nms_iou=0.5, detections=100)


def used(name: str, side: int) -> Yolo:
    """A network whose running statistics are not those of the start."""
    torch.manual_seed(0)
    made = network(name, CLASSES).train()
    with torch.no_grad():
        for _ in range(10):
            made.head(made.body(torch.randn(2, 3, side, side)))
    return made.eval()


def rate(see: Callable[[], object], images: int, synchronise: Callable[[], None]) -> float:
    synchronise()
    begun = time.perf_counter()
    see()
    synchronise()
    return images / (time.perf_counter() - begun)


@torch.inference_mode()
def compared(name: str, images: Tensor, rounds: int) -> dict[str, Any]:
    device = images.device
    plain = used(name, 64).to(device)
    fused = copy.deepcopy(plain).fuse()
    pairs = zip(plain._decoded(plain.head(plain.body(images))), fused._decoded(fused.head(fused.body(images))), strict=True)
    corners, scores = (float((one - other).abs().max()) for one, other in pairs)
    synchronise = torch.cuda.synchronize if device.type == "cuda" else lambda: None
    found: list[tuple[float, float]] = []
    for number in range(rounds + 1):  # the first warms up
        both = [rate(lambda each=each: each(images, inference=WANTED), len(images), synchronise) for each in (plain, fused)]
        if number:
            found.append((both[0], both[1]))
    ratios = sorted(after / before for before, after in found)
    quartiles = statistics.quantiles(ratios, n=4)
    return {
        "network": name,
        "images_per_s": round(statistics.median(before for before, _ in found), 2),
        "fused_images_per_s": round(statistics.median(after for _, after in found), 2),
        "ratio": round(statistics.median(ratios), 3),
        "quartiles": [round(quartiles[0], 3), round(quartiles[2], 3)],
        "largest_difference": {"score": scores, "pixels": corners},
    }


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--networks", nargs="+", default=NETWORKS)
    parser.add_argument("--side", type=int, default=320, help="pixels")
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--smoke", action="store_true", help="one network on small images, two rounds, in seconds")
    given = parser.parse_args(arguments)
    if given.smoke:
        given.networks, given.side, given.batch, given.rounds, given.device = ["yolov5n"], 64, 1, 2, "cpu"
    images = torch.randn(given.batch, 3, given.side, given.side, generator=torch.Generator().manual_seed(0)).to(given.device)
    result = {
        "date": time.strftime("%Y-%m-%d"),
        "commit": commit(),
        "device": torch.cuda.get_device_name() if images.is_cuda else f"{os.cpu_count()} CPU cores",
        "torch": torch.__version__,
        "python": platform.python_version(),
        "side": given.side,
        "batch": given.batch,
        "networks": [compared(name, images, given.rounds) for name in given.networks],
    }
    print(json.dumps(result, indent=1))
    return 0


if __name__ == "__main__":
    sys.exit(main())
