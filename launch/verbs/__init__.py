"""The verbs of the `phalanx` command, each in its own file, imported when it is used."""

import importlib
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Verb:
    """A verb: what it does in a few words, and the module whose `main` does it."""

    meaning: str
    module: str

    def run(self, arguments: Sequence[str]) -> int:
        code: int = importlib.import_module(self.module).main(arguments)
        return code


VERBS = {
    "train": Verb("trains here, on the GPUs of this machine or as the ranks it finds itself in", "phalanx.launch.verbs.train"),
    "resume": Verb(
        "goes on with a run from its newest checkpoint, on any number of ranks; --fork: as a new run",
        "phalanx.launch.verbs.resume",
    ),
    "submit": Verb("puts a recipe into SLURM's queue; --dry-run prints the batch script", "phalanx.launch.verbs.submit"),
    "status": Verb("where a run stands: its job, its step, its last checkpoint", "phalanx.launch.verbs.status"),
    "logs": Verb("what went wrong first, then the last lines of a rank", "phalanx.launch.verbs.logs"),
    "cancel": Verb("ends a run's job; its ranks save first", "phalanx.launch.verbs.cancel"),
    "evaluate": Verb(
        "metrics of a run's checkpoint: the newest, the best, or several together", "phalanx.launch.verbs.evaluate"
    ),
    "predict": Verb("what a run's network sees in images: JSON, and pictures", "phalanx.launch.verbs.predict"),
    "data": Verb("a contact sheet of what the network sees, and how many of each class", "phalanx.launch.verbs.data"),
    "checkpoint": Verb("ls, verify, diff: what is on disk; consolidate: a file of weights", "phalanx.launch.verbs.checkpoint"),
    "models": Verb(
        "the networks there are, with parameters, source and score; or all about one", "phalanx.launch.verbs.models"
    ),
    "config": Verb("the resolved recipe; --keys: every key with type, default and meaning", "phalanx.launch.verbs.config"),
}
