"""The GPUs of this machine, without importing torch."""

import os
import re
import shutil
import subprocess
from collections.abc import Mapping
from itertools import takewhile
from pathlib import Path

_DEVICE = re.compile(r"nvidia\d+")
_NONE = ("", "-1", "NoDevFiles")
_MIG = "MIG-"
_WSL_FOLDER = "/usr/lib/wsl/lib"
_TIMEOUT_S = 30.0


def visible_names(environment: Mapping[str, str] = os.environ) -> list[str] | None:
    """The numbers or ids of GPUs in CUDA_VISIBLE_DEVICES, up to the first that is none, as CUDA reads it; None if unset."""
    if (visible := environment.get("CUDA_VISIBLE_DEVICES")) is None:
        return None
    return list(takewhile(lambda name: name not in _NONE, (part.strip() for part in visible.split(","))))


def mig_instance(environment: Mapping[str, str] = os.environ) -> str | None:
    """The id of the MIG instance that this process sees; CUDA shows a process one of them, and no other GPU."""
    names = visible_names(environment)
    return names[0] if names and names[0].startswith(_MIG) else None


def count_gpus(environment: Mapping[str, str] = os.environ, devices: Path = Path("/dev")) -> int:
    """GPUs that this process may use.

    Args:
        devices: the folder of device files.
    """
    there = sum(_DEVICE.fullmatch(path.name) is not None for path in devices.glob("nvidia*"))
    if not there and (devices / "dxg").exists():
        there = _listed(environment)  # WSL2 has one file for all GPUs
    if (names := visible_names(environment)) is None:
        return there
    return min(there, 1 if mig_instance(environment) else len(names))


def _listed(environment: Mapping[str, str]) -> int:
    """The number of GPUs that nvidia-smi lists."""
    program = shutil.which("nvidia-smi", path=f"{environment.get('PATH', '')}{os.pathsep}{_WSL_FOLDER}")
    if program is None:
        return 0
    try:
        done = subprocess.run([program, "-L"], stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=_TIMEOUT_S)
    except (OSError, subprocess.TimeoutExpired):
        return 0
    return sum(line.startswith("GPU ") for line in done.stdout.splitlines()) if done.returncode == 0 else 0
