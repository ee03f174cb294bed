"""Consolidates a checkpoint's shards into one safetensors file of weights. No torch here."""

import json
import os
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

from phalanx.configs.errors import UserError
from phalanx.configs.schema import RunConfig
from phalanx.dist.checkpoint import manifest, shard_file
from phalanx.dist.checkpoint.manifest import Manifest, scalars_to_json
from phalanx.dist.checkpoint.reader import Readers
from phalanx.dist.checkpoint.tools import contents
from phalanx.dist.storage.durable_files import create_aside, fsync_directory, read_json_object
from phalanx.dist.storage.run_directory import RunDirectory

FORMAT = "phalanx.weights"
# If the recipe leaves these to the data, they are read from the weights, by the usual names of first and last layers.
_LAST = ("fc.weight", "head.weight", "heads.head.weight", "classifier.6.weight", "classifier.2.weight")
_FIRST = (
    "conv1.weight",
    "conv1.conv.weight",
    "Conv2d_1a_3x3.conv.weight",
    "conv_proj.weight",
    "features.0.weight",
    "features.0.0.weight",
)
_SHOWN_BY = {"num_classes": (_LAST, 0), "in_channels": (_FIRST, 1)}
# Keys that set how a network is initialized and trained, not its architecture.
_LEFT_OUT = {"weights", "backbone_weights", "fresh", "freeze", "freeze_statistics", "init"}
_NOT_OF_THE_EXPERIMENT = {"runs", "slurm", "checkpoint", "track"}


def description_file(output: Path) -> Path:
    """The JSON that describes a file of weights."""
    return output.with_suffix(".json")


def consolidate(
    checkpoint: Path,
    output: Path,
    with_optimizer: bool = False,
    averaged: bool = False,
    model: Mapping[str, Any] | None = None,
    origin: Mapping[str, Any] | None = None,
) -> int:
    """Writes parameters and buffers under their plain names, BatchNorm's statistics as their mean over micro-batches.

    Memory holds one tensor. A JSON beside the file records the weights' origin. Both are written aside, then renamed.

    Args:
        with_optimizer: also the optimizer's tensors, as `NAME@exp_avg`.
        averaged: the averaged weights (EMA) instead of the trained ones.
        model: the result of `model_keys`, for the JSON.
        origin: the result of `origin_of`, for the JSON.

    Returns:
        The number of tensors written.

    Raises:
        BrokenCheckpoint: if the checkpoint is broken.
        NoAverages: if averaged weights are requested and there are none.
        OSError: if the output cannot be written; an older file of that name is then unchanged.
    """
    stored = manifest.read(checkpoint)
    chosen = contents.as_loaded(stored, averaged, with_optimizer)
    weights = "averaged" if averaged else "trained"
    description = {"format": FORMAT, "version": 1, "file": output.name, **_origin(stored), "model": dict(model or {})}
    description |= origin or {}
    description |= {"weights": weights, "optimizer": with_optimizer}
    metadata = {"format": "pt", "step": str(stored.step), "samples": str(stored.samples), "experiment": stored.experiment}
    metadata |= {"weights": weights, "optimizer": "true" if with_optimizer else "false"}
    aside, description_aside = map(_new_beside, (output, description_file(output)))
    try:
        with Readers(checkpoint, stored) as readers:
            segments = [
                shard_file.Segment(name, content.dtype, content.shape, partial(contents.read, readers, content))
                for name, content in chosen.items()
            ]
            shard_file.write(aside, segments, metadata)
        _write(description_aside, json.dumps(description, indent=1, allow_nan=False) + "\n")
        aside.rename(output)
        description_aside.rename(description_file(output))
        fsync_directory(output.parent)
    finally:
        aside.unlink(missing_ok=True)
        description_aside.unlink(missing_ok=True)
    return len(chosen)


def _origin(stored: Manifest) -> dict[str, Any]:
    description = {"step": stored.step, "samples": stored.samples, "experiment": stored.experiment}
    return description | {"metrics": scalars_to_json(stored.metrics), "versions": stored.versions}


def _new_beside(path: Path) -> Path:
    """An empty file under an unpredictable name, so that no link can be planted there."""
    descriptor, aside = create_aside(path)
    os.close(descriptor)
    return aside


def _write(path: Path, text: str) -> None:
    with open(path, "w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())


def model_keys(config: RunConfig, stored: Manifest) -> dict[str, Any]:
    """The keyword arguments with which the registry builds a run's network; unknown ones are left out."""
    keys = config.model.model_dump(mode="json", exclude=_LEFT_OUT, exclude_none=True)
    for key, (names, dimension) in _SHOWN_BY.items():
        shapes = [stored.tensors[name].shape for name in names if name in stored.tensors]
        if key not in keys and shapes and len(shapes[0]) > dimension:
            keys[key] = shapes[0][dimension]
    return keys | {"image_size": config.data.image_size}


def origin_of(run: RunDirectory) -> dict[str, Any]:
    """The recipe, as far as it describes the experiment, and what is known of the data: `phalanx.load` needs both."""
    recipe = recipe_of(run.read_config())
    try:
        data = read_json_object(run.data)
    except (OSError, ValueError):
        return {"recipe": recipe}  # an older run has none
    return {"recipe": recipe, "data": {key: value for key, value in data.items() if key != "splits"}}


def recipe_of(config: RunConfig) -> dict[str, Any]:
    """A recipe as far as it describes the experiment."""
    return config.model_dump(mode="json", exclude=_NOT_OF_THE_EXPERIMENT)


def refuse_output(output: Path, checkpoints: Path) -> None:
    """Refuses an output that cannot be written, before anything is read.

    Raises:
        UserError: if it cannot be written, or would overwrite another kind of file.
    """
    description = description_file(output)
    if output.suffix != ".safetensors":
        raise UserError(f"{output}: a file of weights ends in .safetensors. Name it {output.with_suffix('.safetensors')}.")
    if not output.parent.is_dir():
        raise UserError(f"{output}: there is no folder {output.parent}. Make it, or choose another folder.")
    if output.is_dir() or description.is_dir():
        raise UserError(f"{output if output.is_dir() else description}: this is a folder. Choose another name.")
    if checkpoints.resolve() in output.resolve().parents:
        raise UserError(f"{output}: this is inside the checkpoints' folder, which only `train` writes. Choose another folder.")
    if not os.access(output.parent, os.W_OK | os.X_OK):
        raise UserError(f"{output}: cannot be written: {output.parent} is read-only. Choose another folder.")
    if description.exists() and not _is_ours(description):
        raise UserError(f"{description}: `consolidate` did not write this file, and would overwrite it. Choose another name.")


def _is_ours(path: Path) -> bool:
    try:
        description = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError):
        return False
    return isinstance(description, dict) and description.get("format") == FORMAT
