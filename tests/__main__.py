"""The whole suite in three parts at once: tests that need SLURM, tests that start commands, and all others.

    python -m tests [arguments of pytest ...]

The first two mostly wait for what they have started. What they say is shown when all have ended; that of the others at once.
Exit code 1 where any test failed, or there is none.
"""

import contextlib
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from typing import IO

_WORSE = 5  # less important than SLURM's daemons, whose timeouts are in seconds
_NOTHING_CHOSEN = 5  # pytest's exit code
_BESIDE = {"that need SLURM": "slurm", "that start commands": "commands and not slurm"}
_OTHERS = "not slurm and not commands"


def _nice() -> None:
    os.nice(_WORSE)


def main(arguments: Sequence[str]) -> int:
    pytest = [sys.executable, "-m", "pytest", *arguments]
    begun: list[tuple[str, IO[str], subprocess.Popen[str]]] = []
    with contextlib.ExitStack() as stack:
        for name, chosen in _BESIDE.items():
            said = stack.enter_context(tempfile.TemporaryFile("w+", encoding="utf-8"))
            command = [*pytest, "-m", chosen, "-p", "no:cacheprovider"]
            started = subprocess.Popen(
                command, stdout=said, stderr=subprocess.STDOUT, text=True, preexec_fn=None if chosen == "slurm" else _nice
            )
            stack.callback(started.wait)
            stack.callback(started.terminate)
            begun.append((name, said, started))
        codes = [subprocess.call([*pytest, "-m", _OTHERS], preexec_fn=_nice)]
        for name, said, started in begun:
            codes.append(started.wait())
            said.seek(0)
            print(f"\n-- the tests {name}\n")
            sys.stdout.writelines(said)
            sys.stdout.flush()
    return int(any(code != 0 for code in codes if code != _NOTHING_CHOSEN) or set(codes) == {_NOTHING_CHOSEN})


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
