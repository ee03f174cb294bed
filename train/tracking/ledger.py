"""The ledger: which samples every step took, in one file per rank. It proves that none was lost or repeated."""

from pathlib import Path

from phalanx.data.loading.loader import Batch
from phalanx.dist.processes.environment import Ranks
from phalanx.dist.storage.json_lines import JsonLines, cut_back


class Ledger:
    """`ledger/rank-N.jsonl`: one line `{"step", "epoch", "ids"}` per step.

    `step` is the number of the step, from 1; `epoch` that of this rank's first sample in it, from 0. Mosaics have `others`:
    for each id, the other samples in it.
    """

    def __init__(self, folder: Path, ranks: Ranks, wanted: bool):
        self._lines: JsonLines | None = None
        if wanted:
            folder.mkdir(exist_ok=True)
            self._lines = JsonLines(folder / f"rank-{ranks.rank}.jsonl")

    def write(self, step: int, batch: Batch) -> None:
        if self._lines is not None:
            epoch = int(batch.micro_batches[0]["epoch"][0])
            others = batch.others
            more = {} if others is None else {"others": others}
            self._lines.append({"step": step, "epoch": epoch, "ids": batch.ids} | more)

    def sync(self) -> None:
        if self._lines is not None:
            self._lines.sync()

    def close(self) -> None:
        if self._lines is not None:
            self._lines.close()


def cut_ledgers(folder: Path, last_step: int) -> None:
    """Drops the lines after `last_step` from every rank's file, also of ranks that no longer exist."""
    for path in sorted(folder.glob("rank-*.jsonl")):
        cut_back(path, last_step)
