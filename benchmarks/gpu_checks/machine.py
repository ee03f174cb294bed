"""The machine that results are from, and packages that it lacks."""

import importlib
import importlib.util
import os
import platform
import subprocess
import sys
import tempfile
import zipfile
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from benchmarks.gpu_checks.check import Bench

ROOT = Path(__file__).resolve().parents[2]
_PACKAGES = ("torch", "torchvision", "accelerate", "timm", "triton", "pydantic")
_NEEDED = ("torch", "torchvision", "accelerate", "pydantic", "xxhash", "yaml", "safetensors", "numpy", "PIL")


def add_wheels(folder: Path) -> tempfile.TemporaryDirectory[str]:
    """Unpacks the wheels of a folder, and has this process and its children import what is in them.

    Native modules cannot be imported from a wheel itself. They come first on the path: an old package of the machine, such as
    typing_extensions, might not do for what is in a wheel.
    """
    unpacked = tempfile.TemporaryDirectory(prefix="gpu-wheels-")
    for wheel in sorted(folder.glob("*.whl")):
        with zipfile.ZipFile(wheel) as content:
            content.extractall(unpacked.name)
    sys.path.insert(0, unpacked.name)
    for_commands()
    importlib.invalidate_caches()
    return unpacked


def for_commands() -> None:
    """What this process imports, commands that it starts can import too."""
    os.environ["PYTHONPATH"] = os.pathsep.join(path for path in sys.path if path)


def missing() -> list[str]:
    """Packages that cannot be imported, and must be."""
    return [name for name in _NEEDED if importlib.util.find_spec(name) is None]


def commit() -> str | None:
    """With `+` if files were changed; None where there is no git."""
    commands = (["git", "rev-parse", "--short", "HEAD"], ["git", "status", "--porcelain", "--untracked-files=no"])
    try:
        head, changes = (
            subprocess.run(c, cwd=ROOT, capture_output=True, text=True, check=True, timeout=20).stdout.strip() for c in commands
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return head + ("+" if changes else "")


def versions() -> dict[str, str | None]:
    found: dict[str, str | None] = {"python": platform.python_version()}
    for package in _PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = None
    return found


def look(bench: Bench) -> tuple[bool, dict[str, Any]]:
    """A check: the device is there, and computes. Says what it is."""
    import torch

    figures: dict[str, Any] = versions() | {"cpus": os.cpu_count()}
    if bench.device == "cuda":
        if not torch.cuda.is_available():
            return False, figures | {"problem": "torch finds no GPU. Check the driver with nvidia-smi."}
        figures["device"] = torch.cuda.get_device_name(0)
        figures["capability"] = list(torch.cuda.get_device_capability(0))
    if bench.on_gpu:
        about = torch.cuda.get_device_properties(0)
        figures |= {"memory_gib": round(about.total_memory / 2**30, 1), "processors": about.multi_processor_count}
        figures |= {"cuda": torch.version.cuda, "cudnn": torch.backends.cudnn.version()}
        figures["nccl"] = ".".join(map(str, torch.cuda.nccl.version()))
    found = torch.ones(64, 64, device=bench.device) @ torch.ones(64, 64, device=bench.device)
    return bool((found == 64).all()), figures


def device_name() -> str | None:
    """What torch calls the first GPU; None where it finds none. Asked in a process of its own: CUDA does not survive a fork."""
    reading, writing = os.pipe()
    process = os.fork()
    if process == 0:
        try:
            import torch

            if torch.cuda.is_available():
                os.write(writing, torch.cuda.get_device_name(0).encode())
        finally:
            os._exit(0)
    os.close(writing)
    with os.fdopen(reading) as told:
        name = told.read()
    os.waitpid(process, 0)
    return name or None
