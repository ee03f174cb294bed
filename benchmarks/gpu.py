"""What only a GPU can show: an acceptance of Phalanx on one borrowed H100 or H200, in six minutes.

    python benchmarks/gpu.py --smoke
    python benchmarks/gpu.py [--output FILE.jsonl] [--wheels FOLDER] [--only NAME ...] [--again] [--minutes 6]
    python benchmarks/gpu.py --pretend
    python benchmarks/gpu.py --device cpu

Prints a line of JSON for every result as soon as it is known, and appends it to the results file (`runs/gpu.jsonl`, or with
`--pretend` and on a CPU nothing, unless there is `--output`). Every check runs in a process of its own with a time limit: one
that raises, hangs or is killed is reported, and the next one runs. What ended as it should on this device is not run again by
a later command, unless `--again` says so; what did not, is. Ends with 1 if a check did not end as it should.

Runs with Python 3.12, torch 2.11, torchvision, accelerate 1.15 and what these need; without deepspeed, submitit, wandb. What is
missing besides comes as wheels (6 MB), made on a machine with a network:

    pip download --no-deps --only-binary=:all: --python-version 3.12 -d build/wheels \\
        pydantic pydantic-core annotated-types typing-inspection typing-extensions xxhash timm

`--wheels build/wheels` unpacks them into a folder that is removed at the end, and puts it first on `sys.path`. pydantic
and xxhash are needed; timm is only for the comparison, which leaves it out where it is missing.

`--smoke`: on whatever device there is, the smallest of each in seconds, nothing of it kept. `--pretend`: the pretended CUDA
device of `benchmarks/support/fake_cuda`, which computes on the CPU and obeys CUDA's rules; it shows nothing of speed, and
nothing of a driver.
"""

import argparse
import os
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(path) for path in (ROOT, ROOT / "src") if str(path) not in sys.path]

from benchmarks.gpu_checks import machine  # noqa: E402
from benchmarks.gpu_checks.check import Check, Way  # noqa: E402

_HERE = "benchmarks.gpu_checks."
# cuBLAS reads it when it starts (https://docs.nvidia.com/cuda/cublas/#results-reproducibility).
_SAME_BITS = {"CUBLAS_WORKSPACE_CONFIG": ":4096:8"}

CHECKS = [
    Check("machine", _HERE + "machine:look", 30),
    Check("a child that is killed is reported", _HERE + "rehearsals:is_killed", 10, expected="killed"),
    Check("a check that raises is reported", _HERE + "rehearsals:raises", 10, expected="raised"),
    Check("a check that hangs is ended", _HERE + "rehearsals:hangs", 0.5, expected="hung"),
    Check("fp32 is not tf32", _HERE + "formats:products", 20),
    Check("fp64 equals the CPU", _HERE + "formats:fp64_equals_the_cpu", 30),
    Check("formats learn the same", _HERE + "formats:learn_the_same", 30, smoke=False),
    Check("fp16 skips an overflow", _HERE + "formats:an_overflow_is_skipped", 30),
    Check("channels_last equals channels_first", _HERE + "formats:channels_last", 30),
    Check("waits: classification", _HERE + "families:classification", 50),
    Check("waits: segmentation", _HERE + "families:segmentation", 50),
    Check("waits: detection by regions", _HERE + "families:regions", 50, smoke=False),
    Check("waits: YOLO", _HERE + "families:yolo", 40),
    Check("staging race", _HERE + "staging_race:saves_what_was_there", 40),
    Check("two ranks equal one process", _HERE + "two_ranks:equal_one_process", 40),
    Check("exact sums", _HERE + "two_ranks:exact_sums_are_bitwise_equal", 40, _SAME_BITS),
    Check("sharded equals plain", _HERE + "sharded:equal_the_plain_model", 50),
    Check("deterministic kernels", _HERE + "determinism:bitwise", 90, _SAME_BITS, smoke=False),
    Check("phalanx train, SIGTERM, resume", _HERE + "command:stops_and_resumes", 90, _SAME_BITS),
    Check("speed: ResNet-50", _HERE + "speed:resnet", 50),
    Check("speed: ViT-B/16", _HERE + "speed:vit", 50, smoke=False),
    Check("speed: DeepLabV3+", _HERE + "speed:deeplab", 50, smoke=False),
    Check("speed: YOLOv8m", _HERE + "speed:yolo", 50, smoke=False),
    Check("speed: Mask R-CNN", _HERE + "speed:mask_rcnn", 50, smoke=False),
    Check("compiled equals eager", _HERE + "compiled:equals_eager", 100, smoke=False),
]


def _import_once() -> None:
    """What checks import: processes that are forked have it already. None of it starts CUDA, nor a thread."""
    import accelerate  # noqa: F401
    import torch.utils.flop_counter  # noqa: F401
    import torchvision.models.detection  # noqa: F401

    import phalanx.launch.main
    import phalanx.train.start  # noqa: F401


def _parsed(arguments: Sequence[str] | None, names: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", choices=["cuda", "cpu"], help="default: cuda; for --smoke what there is")
    parser.add_argument("--output", type=Path, metavar="FILE", help="results as JSON lines")
    parser.add_argument("--wheels", type=Path, metavar="FOLDER", help="wheels of packages that this machine lacks")
    parser.add_argument("--only", nargs="+", metavar="NAME", choices=names, help="some of the checks")
    parser.add_argument("--again", action="store_true", help="also checks that ended as they should before")
    parser.add_argument("--minutes", type=float, help="of the whole run (6; without a GPU 20): no check begins later")
    parser.add_argument("--smoke", action="store_true", help="the smallest of each, in seconds, on any device")
    parser.add_argument("--pretend", action="store_true", help="on the pretended CUDA device")
    return parser.parse_args(arguments)


def _way(given: argparse.Namespace, gpu: str | None) -> Way:
    if given.pretend:
        return Way("cuda", True, "smoke" if given.smoke else "small")
    device = given.device or ("cuda" if gpu or not given.smoke else "cpu")
    return Way(device, False, "smoke" if given.smoke else "full" if device == "cuda" else "small")


def main(arguments: Sequence[str] | None = None, checks: Sequence[Check] = CHECKS) -> int:
    begun = time.monotonic()
    given = _parsed(arguments, [check.name for check in checks])
    for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"):  # numpy's threads would be there before a fork
        os.environ[name] = "1"
    unpacked = machine.add_wheels(given.wheels) if given.wheels is not None else None
    if lacking := machine.missing():
        print(f"{', '.join(lacking)} cannot be imported. Bring wheels of them: --wheels FOLDER.", file=sys.stderr)
        return 2
    _import_once()
    from benchmarks.gpu_checks import harness

    gpu = None if given.pretend or given.device == "cpu" else machine.device_name()
    way = _way(given, gpu)
    if way.device == "cuda" and gpu is None and not way.pretended:
        print(
            "torch finds no GPU. Check the driver with nvidia-smi; --pretend and --device cpu try the script.", file=sys.stderr
        )
        return 2
    about: dict[str, Any] = {"on": "the pretended device" if way.pretended else gpu or "CPU", "size": way.size}
    file = given.output or (ROOT / "runs/gpu.jsonl" if way.size == "full" else None)
    results = harness.Results(file, about | {"commit": machine.commit()})
    done = set() if given.again else results.finished()
    todo = [check for check in harness.chosen(checks, given.only, given.smoke) if check.name not in done]
    minutes = given.minutes if given.minutes is not None else 6 if way.size == "full" else 20
    try:
        wrong = harness.run(todo, way, results, begun + 60 * minutes)
        seconds = round(time.monotonic() - begun, 1)
        results.write({"finished": len(todo), "before": sorted(done), "wrong": wrong, "seconds": seconds} | machine.versions())
    finally:
        results.close()
        if unpacked is not None:
            unpacked.cleanup()
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
