"""The quick tests on the oldest torch, torchvision and accelerate that pyproject.toml allows.

    python -m tests.oldest [--install-only]

They are installed into .oldest/, before the environment's own, whose other packages serve both: half a gigabyte to load once.
"""

import argparse
import os
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
FOLDER = ROOT / ".oldest"
_PACKAGES = ("torch", "torchvision", "accelerate")


def oldest() -> list[str]:
    """The requirements, such as `torch==2.11.*`, from the lower bounds in pyproject.toml."""
    listed = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["dependencies"]
    bounds = dict(re.fullmatch(r"([\w-]+)>=([\d.]+)", each).groups() for each in listed)  # type: ignore[union-attr]
    return [f"{name}=={bounds[name]}.*" for name in _PACKAGES]


def install() -> None:
    """Installs them without what they need: the environment has it, CUDA's libraries included."""
    wanted, marker = oldest(), FOLDER / "installed.txt"
    if marker.exists() and marker.read_text().split() == wanted:
        return
    shutil.rmtree(FOLDER, ignore_errors=True)
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target", str(FOLDER)]
    subprocess.run([*pip, *wanted], check=True)
    marker.write_text("\n".join(wanted))


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--install-only", action="store_true", help="for the tests to start at once later")
    given = parser.parse_args(arguments)
    install()
    if given.install_only:
        return 0
    environment = os.environ | {"PYTHONPATH": str(FOLDER)}
    # What another compiled for another torch must not be taken.
    environment["TORCHINDUCTOR_CACHE_DIR"] = str(FOLDER / "inductor")
    versions = "import torch, torchvision, accelerate as a; print(torch.__version__, torchvision.__version__, a.__version__)"
    subprocess.run([sys.executable, "-c", versions], env=environment, check=True)
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "-m", "quick and not slurm", "--durations=5"]
    return subprocess.run(command, env=environment, cwd=ROOT).returncode


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
