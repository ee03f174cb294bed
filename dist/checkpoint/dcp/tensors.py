"""Tensors of a DCP folder, read by DCP itself, with no process group and no unpickling."""

import warnings
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.default_planner import DefaultLoadPlanner
from torch.distributed.checkpoint.filesystem import FileSystemReader
from torch.distributed.checkpoint.hf_storage import HuggingFaceStorageReader
from torch.distributed.checkpoint.metadata import Metadata, TensorStorageMetadata
from torch.distributed.checkpoint.state_dict_loader import load

from phalanx.dist.checkpoint.dcp.metadata import read as read_metadata

# Keys under which trainers save the model beside the optimizer.
_USUAL_KEYS = ("state_dict", "model", "model_state_dict", "module")


class _TorchReader(FileSystemReader):
    """DCP's reader of files written by `torch.save`, given their metadata."""

    def __init__(self, path: Path, metadata: Metadata):
        super().__init__(path)
        self._metadata = metadata

    def read_metadata(self, *_: Any, **__: Any) -> Metadata:
        return self._metadata


class _SafetensorsReader(HuggingFaceStorageReader):
    """DCP's reader of each rank's safetensors, given their metadata."""

    def __init__(self, path: Path):
        super().__init__(str(path))
        self._metadata = super().read_metadata()

    def read_metadata(self) -> Metadata:
        return self._metadata


class DistributedFolder:
    """The model's full tensors, assembled from all ranks' shards, one at a time.

    Raises:
        ValueError: if metadata and files do not agree.
    """

    flat = False

    def __init__(self, path: Path):
        self._reader: _TorchReader | _SafetensorsReader
        if (path / ".metadata").is_file():
            metadata = read_metadata(path / ".metadata")
            _check_files(path, metadata)
            self._reader = _TorchReader(path, metadata)
        else:
            self._reader = _SafetensorsReader(path)
            metadata = self._reader.read_metadata()
        self.under, self._names = _model(metadata)
        self.averages = ""
        # Only these are requested: DCP would unpickle what it stored as an object.
        self._stored = {name: _full(stored, metadata) for name, stored in self._names.items()}
        self.shapes = {name: tuple(found.size) for name, found in self._stored.items()}

    def read(self, name: str) -> Tensor:
        stored = self._stored[name]
        tensor = torch.empty(stored.size, dtype=stored.properties.dtype)
        planner = DefaultLoadPlanner(flatten_state_dict=False, flatten_sharded_tensors=False)
        with warnings.catch_warnings():
            # DCP warns that it reads for this process only, which is intended.
            warnings.filterwarnings("ignore", "torch.distributed is disabled")
            try:
                load({self._names[name]: tensor}, storage_reader=self._reader, planner=planner, no_dist=True)
            except CheckpointException as error:  # not an Exception
                raise ValueError(f"{name}: {next(iter(error.failures.values()))[0]}") from None
        return tensor

    def close(self) -> None:
        """Does nothing: no file stays open between two tensors."""


def _check_files(path: Path, metadata: Metadata) -> None:
    for info in metadata.storage_data.values():
        name = info.relative_path
        if Path(name).name != name or not (path / name).is_file():
            raise ValueError(f"the file {name}, which its metadata names, is missing")


def _model(metadata: Metadata) -> tuple[str, dict[str, str]]:
    """The key of the model, and its tensors' names in the folder by their names under that key.

    DCP joins nested keys into one name, such as `model.fc.weight`, and records the keys.
    """
    paths = metadata.planner_data or {}
    found: dict[str, dict[str, str]] = {}
    for name, stored in metadata.state_dict_metadata.items():
        if not isinstance(stored, TensorStorageMetadata):
            continue
        path = [str(part) for part in paths.get(name, (name,))]
        depth = next((i for i, key in enumerate(path[:-1]) if key in _USUAL_KEYS), None)
        if depth is not None:
            found.setdefault(".".join(path[: depth + 1]), {})[".".join(path[depth + 1 :])] = name
        elif len(path) == 1:
            found.setdefault("", {})[name] = name
    named = [key for key in found if key]
    if len(named) > 1:
        raise ValueError(f"tensors are stored under {' and '.join(named)}, and only one of these can be the model")
    key = named[0] if named else ""
    return key, found.get(key, {})


def _full(name: str, metadata: Metadata) -> TensorStorageMetadata:
    stored = metadata.state_dict_metadata[name]
    assert isinstance(stored, TensorStorageMetadata)
    if sum(chunk.sizes.numel() for chunk in stored.chunks) != stored.size.numel():
        raise ValueError(f"shards of {name} are missing")
    return stored
