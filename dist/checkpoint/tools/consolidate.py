"""One plain safetensors file out of a checkpoint's shards, for whoever wants just the weights. No torch here."""

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
from phalanx.dist.storage.durable_files import create_aside, fsync_directory

FORMAT = "phalanx.weights"
# Where the recipe leaves these to the data, the weights tell, by the names that the last and first layers of networks have.
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
# Keys that say how a network starts and is trained, not what it is.
_LEFT_OUT = {"weights", "backbone_weights", "fresh", "freeze"}


def facts_file(output: Path) -> Path:
    """The JSON beside a file of weights."""
    return output.with_suffix(".json")


def consolidate(
    checkpoint: Path,
    output: Path,
    with_optimizer: bool = False,
    averaged: bool = False,
    model: Mapping[str, Any] | None = None,
) -> int:
    """Writes parameters and buffers under their plain names, BatchNorm's statistics as their mean over micro-batches.

    Memory is one tensor's. A JSON beside the file says where the weights come from. Both are written aside, then renamed.

    Args:
        with_optimizer: the optimizer's tensors too, as `NAME@exp_avg`.
        averaged: the averaged weights (EMA) in place of those they are the averages of.
        model: what `model_keys` gives, for the JSON.

    Returns:
        The number of tensors written.

    Raises:
        BrokenCheckpoint: where the checkpoint is not whole.
        NoAverages: where averaged weights are asked for and there are none.
        OSError: where the output cannot be written; an older file of that name is then as it was.
    """
    stored = manifest.read(checkpoint)
    chosen = contents.as_loaded(stored, averaged, with_optimizer)
    weights = "averaged" if averaged else "trained"
    facts = {"format": FORMAT, "version": 1, "file": output.name, **_origin(stored), "model": dict(model or {})}
    facts |= {"weights": weights, "optimizer": with_optimizer}
    metadata = {"format": "pt", "step": str(stored.step), "samples": str(stored.samples), "experiment": stored.experiment}
    metadata |= {"weights": weights, "optimizer": "true" if with_optimizer else "false"}
    aside, facts_aside = map(_new_beside, (output, facts_file(output)))
    try:
        with Readers(checkpoint, stored) as readers:
            segments = [
                shard_file.Segment(name, content.dtype, content.shape, partial(contents.read, readers, content))
                for name, content in chosen.items()
            ]
            shard_file.write(aside, segments, metadata)
        _write(facts_aside, json.dumps(facts, indent=1, allow_nan=False) + "\n")
        aside.rename(output)
        facts_aside.rename(facts_file(output))
        fsync_directory(output.parent)
    finally:
        aside.unlink(missing_ok=True)
        facts_aside.unlink(missing_ok=True)
    return len(chosen)


def _origin(stored: Manifest) -> dict[str, Any]:
    facts = {"step": stored.step, "samples": stored.samples, "experiment": stored.experiment}
    return facts | {"metrics": scalars_to_json(stored.metrics), "versions": stored.versions}


def _new_beside(path: Path) -> Path:
    """An empty file of ours under a name that nobody could have put a link under."""
    descriptor, aside = create_aside(path)
    os.close(descriptor)
    return aside


def _write(path: Path, text: str) -> None:
    with open(path, "w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())


def model_keys(config: RunConfig, stored: Manifest) -> dict[str, Any]:
    """The keyword arguments with which the registry builds the network of a run; what cannot be known is left out."""
    keys = config.model.model_dump(mode="json", exclude=_LEFT_OUT, exclude_none=True)
    for key, (names, dimension) in _SHOWN_BY.items():
        shapes = [stored.tensors[name].shape for name in names if name in stored.tensors]
        if key not in keys and shapes and len(shapes[0]) > dimension:
            keys[key] = shapes[0][dimension]
    return keys | {"image_size": config.data.image_size}


def refuse_output(output: Path, checkpoints: Path) -> None:
    """Whether a file of weights may be written, before anything is read for it.

    Raises:
        UserError: where it cannot be written, or would take the place of something of another kind.
    """
    facts = facts_file(output)
    if output.suffix != ".safetensors":
        raise UserError(f"{output}: a file of weights is known by its ending. Name it {output.with_suffix('.safetensors')}.")
    if not output.parent.is_dir():
        raise UserError(f"{output}: there is no folder {output.parent}. Make it, or choose another place.")
    if output.is_dir() or facts.is_dir():
        raise UserError(f"{output if output.is_dir() else facts}: this is a folder. Choose another name.")
    if checkpoints.resolve() in output.resolve().parents:
        raise UserError(f"{output}: this lies among the checkpoints, which are for `train` alone. Choose another place.")
    if not os.access(output.parent, os.W_OK | os.X_OK):
        raise UserError(f"{output}: cannot be written: {output.parent} is read-only. Choose another place.")
    if facts.exists() and not _is_ours(facts):
        raise UserError(f"{facts}: this file is none that `consolidate` wrote, and would be overwritten. Choose another name.")


def _is_ours(path: Path) -> bool:
    try:
        facts = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError):
        return False
    return isinstance(facts, dict) and facts.get("format") == FORMAT
