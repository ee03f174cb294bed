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
    "evaluate": Verb("metrics of a run's newest checkpoint", "phalanx.launch.verbs.evaluate"),
    "checkpoint": Verb("ls, verify, diff: what is on disk; consolidate: a file of weights", "phalanx.launch.verbs.checkpoint"),
    "config": Verb("the resolved recipe; --keys: every key with type, default and meaning", "phalanx.launch.verbs.config"),
}
