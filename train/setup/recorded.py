"""What a run has learnt from: `data.json`. Predictions need no data by it, and data that has changed since is noticed by it."""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field

from pydantic import TypeAdapter

from phalanx.configs.errors import UserError
from phalanx.data.dataset import Dataset
from phalanx.data.identity import Identity, identity
from phalanx.dist.storage.durable_files import read_json_object, write_atomically
from phalanx.dist.storage.run_directory import RunDirectory
from phalanx.train.tasks import DataInfo


@dataclass(frozen=True)
class Recorded:
    """The training data's facts, and what its images are normalised by where the recipe does not say.

    Attributes:
        splits: the samples of `train` and `val`; empty where the run is older than that.
    """

    facts: DataInfo
    mean: tuple[float, ...]
    std: tuple[float, ...]
    splits: Mapping[str, Identity] = field(default_factory=dict)

    @property
    def channels(self) -> int:
        return self.facts.channels

    @property
    def kind(self) -> str:
        return self.facts.kind


def record(run: RunDirectory, facts: DataInfo, training: Dataset, validation: Dataset) -> None:
    """Writes it, where that is not what the file says already. One rank calls."""
    path = run.data
    statistics = {"mean": list(training.mean), "std": list(training.std)}
    splits = {"train": asdict(identity(training)), "val": asdict(identity(validation))}
    content = json.dumps({"facts": asdict(facts)} | statistics | {"splits": splits}, allow_nan=False) + "\n"
    if not path.is_file() or path.read_bytes() != content.encode():
        write_atomically(path, content)


def recorded(run: RunDirectory) -> Recorded | None:
    """What was written; None where the run is older than that.

    Raises:
        UserError: where the file is broken.
    """
    path = run.data
    if not path.exists():
        return None
    try:
        return TypeAdapter(Recorded).validate_python(read_json_object(path))
    except (OSError, ValueError):
        raise UserError(f"{path}: this file is broken. Remove it, where the data of the run can be read.") from None
