"""Ranks on this machine: do they meet, and how fast do they sum."""

import json
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from phalanx.configs.errors import ExitCode
from phalanx.configs.sections.dist import DistConfig
from phalanx.dist.processes.spawn import spawn
from phalanx.launch.doctor_checks.diagnosis import Diagnosis

_ELEMENTS, _SMALL = 8 << 20, 1  # of float32
_TIMES, _SMALL_TIMES = 5, 50
_TIMEOUT_S = 60


def ranks(processes: int) -> Iterator[Diagnosis]:
    """Starts ranks as `phalanx train --nproc` does."""
    with tempfile.TemporaryDirectory(prefix="phalanx-doctor-") as folder:
        code = spawn(__name__, [folder], processes, DistConfig(timeout_s=_TIMEOUT_S))
        result = Path(folder, "result.json")
        if code != ExitCode.DONE or not result.exists():
            remedy = "The lines above say why. Between nodes, name the network interface: dist.interface=eth0."
            yield Diagnosis("ranks", "red", f"{processes} ranks could not meet or sum", remedy)
            return
        found = json.loads(result.read_text())
    sums = f"{found['mb_s']:.0f} MB/s in sums of 32 MB, {found['us']:.0f} us for a small one"
    said = f"{processes} ranks over {found['backend']}: {sums}"
    yield Diagnosis("ranks", "green", said)


def main(arguments: Sequence[str]) -> int:
    """One rank; rank 0 writes what was measured."""
    import torch
    import torch.distributed

    from phalanx.dist.comm.process_group import join, leave
    from phalanx.dist.processes import rank_status
    from phalanx.dist.processes.environment import find

    folder, own = Path(arguments[0]), find()
    rank_status.arrived(own.rank)
    world = join(own, DistConfig(timeout_s=_TIMEOUT_S), folder, threads=1)
    seconds = {}
    for name, elements, times in (("large", _ELEMENTS, _TIMES), ("small", _SMALL, _SMALL_TIMES)):
        values = torch.ones(elements, device=world.device)
        torch.distributed.all_reduce(values)
        _wait(world.device)
        begun = time.perf_counter()
        for _ in range(times):
            torch.distributed.all_reduce(values)
        _wait(world.device)
        seconds[name] = (time.perf_counter() - begun) / times
    if world.ranks.is_main:
        measured = {"backend": torch.distributed.get_backend(), "mb_s": 4 * _ELEMENTS / 1e6 / seconds["large"]}
        Path(folder, "result.json").write_text(json.dumps(measured | {"us": 1e6 * seconds["small"]}))
    leave()
    rank_status.ended(own.rank, ExitCode.DONE)
    return ExitCode.DONE


def _wait(device: "torch.device") -> None:  # type: ignore[name-defined]  # noqa: F821
    import torch

    if device.type == "cuda":
        torch.cuda.synchronize(device)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
