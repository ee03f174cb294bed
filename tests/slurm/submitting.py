"""Submitting runs to a virtual cluster as users do, and waiting for what becomes of them."""

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from phalanx.dist.storage.durable_files import write_atomically
from phalanx.dist.storage.run_directory import RunDirectory
from phalanx.slurm import failures
from tests.support.running import DIGITS, lines, phalanx
from tests.support.slurm_cluster import VirtualCluster

TIMEOUT_S = 200

# Steps of milliseconds; BatchNorm, dropout and augmentation are there.
RECIPE = [DIGITS, "model.stem=small", "data.image_size=8", "data.workers=0", "data.ledger=true", "data.augment.flip=0.5"]
RECIPE += ["model.dropout=0.2", "train.global_batch=16", "train.micro_batch=4", "train.log_every=1", "dist.reduce=exact"]
RECIPE += ["task.name=./my_task.py:Told"]

# A task that the test tells what to do, by files in a folder: to pause a while in each forward, or to come to harm at a step.
OWN_TASK = """
import os, signal, time
from pathlib import Path
from phalanx.train.tasks.classification import Classification

TOLD = Path(os.environ.get("TOLD", "told"))

class Told(Classification):
    armed = False

    def weights(self, batch):
        type(self).armed = True  # not in the warm-up
        return super().weights(batch)

    def losses(self, model, batch):
        rank = os.environ.get("SLURM_PROCID", "0")
        while self.armed and (TOLD / f"pause-{rank}").exists():
            time.sleep(0.01)
        if self.armed and (TOLD / "slowly").exists():
            time.sleep(float((TOLD / "slowly").read_text()))
        harm = TOLD / f"harm-{rank}"
        if self.armed and harm.exists():
            what = harm.read_text()
            if what == "raise":
                raise ZeroDivisionError(f"rank {rank} breaks")
            if what == "ecc":
                raise RuntimeError("CUDA error: uncorrectable ECC error encountered")
            if what == "kill":
                os.kill(os.getpid(), signal.SIGKILL)
            if what == "memory":
                hoard = [bytearray(os.urandom(1 << 20)) * 100 for _ in range(60)]
                time.sleep(60)
            if what == "hang":
                time.sleep(1000)
        return super().losses(model, batch)
"""


class Job:
    """A run that was submitted.

    Args:
        folder: where it is submitted; `told` in it tells its task what to do.
    """

    def __init__(self, cluster: VirtualCluster, folder: Path, name: str, *overrides: str):
        self.cluster, self.folder, self.name = cluster, folder, name
        self.path, self.told = folder / "runs" / name, folder / "told"
        self.told.mkdir(exist_ok=True)
        (folder / "my_task.py").write_text(OWN_TASK)
        self.id = self._submit("submit", *RECIPE, f"name={name}", *overrides)

    def _submit(self, *arguments: str) -> str:
        variables = {"SLURM_CONF": self.cluster.conf, "TOLD": str(self.told)}
        printed = phalanx(*arguments, "--json", cwd=self.folder, **variables).output
        return str(json.loads(printed)["job"])

    def resume(self, *overrides: str) -> None:
        """`phalanx resume RUN --submit`."""
        self.id = self._submit("resume", str(self.path), "--submit", *overrides)

    def ask(self, *arguments: str, expect: int = 0) -> str:
        """What a verb says about the run."""
        verb, *further = arguments
        return phalanx(verb, str(self.path), *further, cwd=self.folder, expect=expect, SLURM_CONF=self.cluster.conf).output

    def tell(self, what: str, word: str = "") -> None:
        write_atomically(self.told / what, word)

    def forget(self, what: str) -> None:
        (self.told / what).unlink()

    @property
    def state(self) -> str:
        """In SLURM's word."""
        shown = self.cluster.ask("scontrol", "show", "job", "--oneliner", self.id)
        return shown.split("JobState=")[1].split()[0]

    @property
    def over(self) -> bool:
        return self.state not in ("PENDING", "RUNNING", "COMPLETING", "CONFIGURING", "SUSPENDED")

    @property
    def events(self) -> list[dict[str, Any]]:
        return lines(self.path / "events.jsonl")

    def count(self, event: str) -> int:
        return [e["event"] for e in self.events].count(event)

    @property
    def step(self) -> int:
        """Steps of the ledger."""
        return max((line["step"] for line in lines(self.path / "ledger/rank-0.jsonl")), default=0)

    @property
    def log(self) -> str:
        return "\n".join(failures.last_attempt(failures.batch_log(RunDirectory(self.path), self.id)))

    def until(self, condition: Callable[[], bool], what: str, timeout: float = TIMEOUT_S) -> float:
        """Waits for something; returns how long it took.

        Raises:
            AssertionError: with what the job said, where it does not come true in time.
        """
        begun = time.monotonic()
        while not condition():
            if time.monotonic() - begun > timeout:
                told = [f"{e['event']} at {e['step']}" for e in self.events]
                said = "".join(f"{p.name}:\n{p.read_text()[-3000:]}\n" for p in sorted((self.path / "logs").glob("*.log")))
                self.cluster.ask("scancel", "--quiet", self.id)
                raise AssertionError(f"not {what} within {timeout} s: {self.state}, {told}\n{self.log}\n{said}")
            time.sleep(0.1)
        return time.monotonic() - begun

    def until_over(self, timeout: float = TIMEOUT_S) -> str:
        """Waits for the job to end; returns its state."""
        self.until(lambda: self.over, "over", timeout)
        return self.state
