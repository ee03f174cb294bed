"""`data.json` describes the training data of a run: predictions need no data with it, and changed data is noticed."""

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
    """The training data's metadata, and its images' normalisation if the recipe does not set it.

    Attributes:
        splits: the samples of `train` and `val`; empty for older runs.
    """

    facts: DataInfo  # its name in data.json
    mean: tuple[float, ...]
    std: tuple[float, ...]
    splits: Mapping[str, Identity] = field(default_factory=dict)

    @property
    def channels(self) -> int:
        return self.facts.channels

    @property
    def kind(self) -> str:
        return self.facts.kind


def record(run: RunDirectory, data_info: DataInfo, training: Dataset, validation: Dataset) -> None:
    """Writes the file unless it is up to date. One rank calls."""
    path = run.data
    statistics = {"mean": list(training.mean), "std": list(training.std)}
    splits = {"train": asdict(identity(training)), "val": asdict(identity(validation))}
    content = json.dumps({"facts": asdict(data_info)} | statistics | {"splits": splits}, allow_nan=False) + "\n"
    if not path.is_file() or path.read_bytes() != content.encode():
        write_atomically(path, content)


def recorded(run: RunDirectory) -> Recorded | None:
    """The content of the file; None for older runs.

    Raises:
        UserError: if the file is broken.
    """
    path = run.data
    if not path.exists():
        return None
    try:
        return TypeAdapter(Recorded).validate_python(read_json_object(path))
    except (OSError, ValueError):
        raise UserError(f"{path}: this file is broken. If the run's data can be read, remove it.") from None
