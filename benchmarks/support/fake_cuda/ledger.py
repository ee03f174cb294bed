"""What happened on the pretended device: where the host waited for it, and what would have gone wrong on a real one."""

import sys
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType

_HERE = Path(__file__).resolve().parent
ROOT = _HERE.parents[2]
_LIBRARIES = ("torchvision", "timm", "torch/nn", "torch/optim", "torch/utils", "accelerate")

Place = tuple[str, str]  # what it was, and file and line


@dataclass
class Ledger:
    """Counts of one thread, between two ends of `counting`; faults of all, since the last `clear`.

    Attributes:
        syncs: operations that wait for the device, those that `torch.cuda.set_sync_debug_mode` would report.
        waits: waits for an event, which cost nothing where it is old.
        pageable: copies to the device from memory that is not pinned, which wait for the copy.
        pinned: copies into pinned memory by the training thread itself.
        mixed: CPU numbers among operands on the device: no wait, but a launch that no CUDA graph can hold.
        faults: what would have been wrong on a GPU, though it went well here.
    """

    syncs: Counter[Place] = field(default_factory=Counter)
    waits: Counter[Place] = field(default_factory=Counter)
    pageable: Counter[Place] = field(default_factory=Counter)
    pinned: Counter[Place] = field(default_factory=Counter)
    mixed: Counter[Place] = field(default_factory=Counter)
    faults: list[str] = field(default_factory=list)
    _thread: int | None = None

    def clear(self) -> None:
        for counts in (self.syncs, self.waits, self.pageable, self.pinned, self.mixed):
            counts.clear()
        self.faults.clear()

    @contextmanager
    def counting(self) -> Iterator[None]:
        """Counts what this thread does; a writing thread may wait for the device as long as it likes."""
        self._thread = threading.get_ident()
        try:
            yield
        finally:
            self._thread = None

    def count(self, counts: Counter[Place], what: str) -> None:
        if self._thread == threading.get_ident():
            counts[what, place()] += 1

    def fault(self, what: str) -> None:
        self.faults.append(f"{what}, at {place()}")


LEDGER = Ledger()


def place() -> str:
    """File and line of Phalanx that runs, and that of the library through which it came here."""
    frame: FrameType | None = sys._getframe(2)
    library = ""
    while frame is not None:
        file = frame.f_code.co_filename
        if "site-packages/" in file:
            inside = file.rpartition("site-packages/")[2]
            if not library and inside.startswith(_LIBRARIES):
                library = f"{inside}:{frame.f_lineno}"
        elif file.startswith(f"{ROOT}/") and not file.startswith(f"{_HERE}/"):
            own = f"{file.removeprefix(f'{ROOT}/').removeprefix('src/phalanx/')}:{frame.f_lineno}"
            return f"{own} ({library})" if library else own
        frame = frame.f_back
    return library or "a place outside Phalanx"
