"""The whole suite: the tests that need SLURM, which mostly wait for it, beside all others.

    python -m tests [arguments of pytest ...]

What the SLURM tests say is shown when all have ended. Exit code 1 where any test failed.
"""

import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence

_WORSE = 5  # less important than SLURM's daemons, whose timeouts are in seconds


def main(arguments: Sequence[str]) -> int:
    pytest = [sys.executable, "-m", "pytest", *arguments]
    with tempfile.TemporaryFile("w+", encoding="utf-8") as said:
        command = [*pytest, "-m", "slurm", "-p", "no:cacheprovider"]
        with subprocess.Popen(command, stdout=said, stderr=subprocess.STDOUT) as slurm:
            try:
                others = subprocess.call([*pytest, "-m", "not slurm"], preexec_fn=lambda: os.nice(_WORSE))
                slurm.wait()
            finally:
                slurm.terminate()
        said.seek(0)
        print("\n-- the tests that need SLURM\n")
        sys.stdout.writelines(said)
    return int(bool(others or slurm.returncode))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
