"""What a run has learnt from, as far as predictions need it: `data.json`, so that they need no data."""

import json
from dataclasses import asdict, dataclass

from phalanx.configs.errors import UserError
from phalanx.data.dataset import Dataset
from phalanx.dist.files import write_atomically
from phalanx.dist.run_directory import RunDirectory
from phalanx.train.tasks import DataFacts

FILE = "data.json"


@dataclass(frozen=True)
class Recorded:
    """The training data's facts, and what its images are normalised by where the recipe does not say."""

    facts: DataFacts
    mean: tuple[float, ...]
    std: tuple[float, ...]

    @property
    def channels(self) -> int:
        return self.facts.channels

    @property
    def kind(self) -> str:
        return self.facts.kind


def record(run: RunDirectory, facts: DataFacts, training: Dataset) -> None:
    """Writes it, where it is not there yet. One rank calls."""
    path = run.path / FILE
    if not path.exists():
        statistics = {"mean": list(training.mean), "std": list(training.std)}
        write_atomically(path, json.dumps({"facts": asdict(facts)} | statistics, allow_nan=False) + "\n")


def recorded(run: RunDirectory) -> Recorded | None:
    """What was written; None where the run is older than that.

    Raises:
        UserError: where the file is broken.
    """
    path = run.path / FILE
    if not path.exists():
        return None
    try:
        said = json.loads(path.read_text())
        facts = said["facts"]
        for key in ("classes", "class_counts", "image_size"):
            facts[key] = None if facts[key] is None else tuple(facts[key])
        return Recorded(DataFacts(**facts), tuple(said["mean"]), tuple(said["std"]))
    except (OSError, ValueError, KeyError, TypeError):
        raise UserError(f"{path}: this file is broken. Remove it, where the data of the run can be read.") from None
