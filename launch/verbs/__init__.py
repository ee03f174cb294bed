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
    "init": Verb("looks at a folder of data, and writes a recipe that trains on it", "phalanx.launch.verbs.init"),
    "doctor": Verb("checks whether training works here: GPUs, ranks, disk, SLURM, W&B", "phalanx.launch.verbs.doctor"),
    "train": Verb(
        "trains here, on the GPUs of this machine, or as a rank that a launcher started", "phalanx.launch.verbs.train"
    ),
    "resume": Verb(
        "resumes a run from its newest checkpoint, on any number of ranks; --fork makes a new run of it",
        "phalanx.launch.verbs.resume",
    ),
    "submit": Verb("submits a recipe to SLURM; --dry-run prints the batch script", "phalanx.launch.verbs.job_verbs.submit"),
    "status": Verb("shows the state of a run, or of all in a table", "phalanx.launch.verbs.status"),
    "compare": Verb("compares runs: what differs in their recipes, best and last metrics", "phalanx.launch.verbs.compare_runs"),
    "report": Verb(
        "writes a run, or several, as one HTML page: curves, classes, predictions, time", "phalanx.launch.verbs.report_runs"
    ),
    "logs": Verb("shows the first failure, then the last lines of a rank", "phalanx.launch.verbs.job_verbs.logs"),
    "cancel": Verb("ends the job of a run; its ranks save first", "phalanx.launch.verbs.job_verbs.cancel"),
    "evaluate": Verb(
        "computes the metrics of a run's checkpoint: the newest, the best, or an ensemble", "phalanx.launch.verbs.evaluate"
    ),
    "predict": Verb("runs a network on images; writes JSON and pictures", "phalanx.launch.verbs.predict"),
    "export": Verb(
        "writes a trained network as ONNX, torch.export or safetensors, and a script that uses it",
        "phalanx.launch.verbs.export",
    ),
    "data": Verb("makes a contact sheet of what the network sees, and counts the classes", "phalanx.launch.verbs.data"),
    "checkpoint": Verb(
        "lists, verifies and compares checkpoints, or writes one file of weights", "phalanx.launch.verbs.checkpoint"
    ),
    "verify-exact": Verb(
        "runs a recipe on several numbers of ranks, and compares all bits of every step",
        "phalanx.launch.verbs.experiments.verify_exact",
    ),
    "find-lr": Verb(
        "finds a learning rate: trains some steps while it rises, and says where the loss falls fastest",
        "phalanx.launch.verbs.experiments.find_lr",
    ),
    "cross-validate": Verb(
        "trains a run per fold, and prints the mean and deviation of each metric",
        "phalanx.launch.verbs.experiments.cross_validate",
    ),
    "models": Verb("lists the networks with parameters, source and score, or shows one", "phalanx.launch.verbs.models"),
    "completion": Verb(
        "prints a script by which bash or zsh complete verbs, options and keys", "phalanx.launch.verbs.completion"
    ),
    "config": Verb(
        "prints the resolved recipe; --keys: every key with type, default and meaning", "phalanx.launch.verbs.config"
    ),
}
