"""The pretended CUDA device, of `benchmarks/support/fake_cuda`, for checks."""

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager


def install() -> None:
    """This process, and what it forks, has a CUDA device from now on."""
    from benchmarks.support.fake_cuda import install

    install.install()


@contextmanager
def waits() -> Iterator[Counter[str]]:
    """Counts what waits for the device, as `torch.cuda.set_sync_debug_mode` would: with its place."""
    from benchmarks.support.fake_cuda.ledger import LEDGER

    found: Counter[str] = Counter()
    LEDGER.clear()
    with LEDGER.counting():
        yield found
    found.update({f"{what} at {where}": count for (what, where), count in LEDGER.syncs.items()})
