"""A new run from another run's checkpoint, which is unchanged: the two share the shards' files. No torch here."""

import contextlib
import os
import shutil
from dataclasses import replace
from pathlib import Path

from phalanx.configs.errors import UserError
from phalanx.configs.load import differences, to_yaml
from phalanx.configs.schema import RunConfig, digest
from phalanx.dist.checkpoint import directory, manifest
from phalanx.dist.checkpoint.manifest import Manifest
from phalanx.dist.storage.durable_files import fsync_directory, write_atomically, write_json
from phalanx.dist.storage.run_directory import RunDirectory, new_identity

_COUNTS = ("train.global_batch", "train.micro_batch")


def refuse(run: RunDirectory, old: RunConfig, new: RunConfig) -> None:
    """Refuses to resume a checkpoint of one configuration with another, as far as keys show.

    Raises:
        UserError: with what to do instead.
    """
    changed = {key: f"{key} (there {there}, here {here})" for key, there, here in differences(old, new, ["experiment"])}
    weights = f"consolidate the weights (`phalanx checkpoint consolidate {run.path} -o FILE.safetensors`)"
    anew = f"To change it, {weights} and train under another name with model.weights=FILE.safetensors."
    counts = [changed[key] for key in _COUNTS if key in changed]
    if counts:
        raise UserError(
            f"{run.path}: a fork cannot change {', '.join(counts)}: the data's position counts in steps, and BatchNorm's "
            f"statistics in micro-batches. {anew}"
        )
    if "optim.name" in changed:
        raise UserError(
            f"{run.path}: a fork cannot change {changed['optim.name']}, as the optimizer's state would not fit. {anew}"
        )
    for key, given in (("model.weights", new.model.weights), ("model.backbone_weights", new.model.backbone_weights)):
        if key in changed and given is not None:
            raise UserError(
                f"{run.path}: {key}={given} has no effect in a fork, whose weights are the checkpoint's. "
                "Leave it out, or train with it under another name."
            )


def refuse_taken(new: RunDirectory) -> None:
    """
    Raises:
        UserError: if the new run's name is taken.
    """
    if os.path.lexists(new.path):
        resuming = f", or resume it: `phalanx resume {new.path}`" if new.exists() else ""
        raise UserError(f"{new.path} exists already. Fork under another name{resuming}.")


def fork(run: RunDirectory, checkpoint: Path, config: RunConfig) -> RunDirectory:
    """Makes the run directory of `config` with one checkpoint of another run, under the new experiment's digest.

    It is made aside and renamed once: a kill leaves the complete run or none.

    Args:
        checkpoint: a verified one of `run`.

    Raises:
        UserError: if the name is taken, the checkpoint has vanished, or the disk refuses.
    """
    new = RunDirectory.of(config)
    refuse_taken(new)
    aside = new.path.with_name(f".forking-{new.path.name}")
    try:
        _remove(aside)  # left by a kill
        aside.mkdir()
        stored = manifest.read(checkpoint)
        _fill(RunDirectory(aside), run, checkpoint, stored, config)
        refuse_taken(new)  # a rename would replace an empty folder
        aside.rename(new.path)
        fsync_directory(new.path.parent)
    except manifest.BrokenCheckpoint as broken:
        raise UserError(f"{checkpoint} is broken: {broken}. Fork again.") from None
    except OSError as error:
        raise UserError(f"{error.filename or new.path}: the fork cannot be written: {error.strerror or error}.") from None
    finally:
        _remove(aside)
    return new


def _remove(folder: Path) -> None:
    """Removes the links; the files of the other run stay."""
    with contextlib.suppress(FileNotFoundError):
        shutil.rmtree(folder)


def _fill(aside: RunDirectory, run: RunDirectory, checkpoint: Path, stored: Manifest, config: RunConfig) -> None:
    target = directory.step_directory(aside.checkpoints, stored.step)
    (target / "shards").mkdir(parents=True)
    for name in stored.files:
        _link(checkpoint / name, target / name)
    fsync_directory(target / "shards")
    state = stored.state
    if config.dist.precision == "fp16" and "loss_scale" not in state:
        state = state | {"loss_scale": {"value": config.dist.loss_scale, "good_steps": 0}, "skipped": 0}
    write_atomically(target / manifest.NAME, manifest.dumps(replace(stored, experiment=digest(config), state=state)))
    fsync_directory(aside.checkpoints)
    write_atomically(aside.config, to_yaml(config))
    before = run.read_config()
    same_data = before.data.root == config.data.root and not any(
        key.startswith("data.") for key, _, _ in differences(before, config, ["experiment"])
    )
    if same_data and run.data.is_file():  # other data may have other classes and samples
        write_atomically(aside.data, run.data.read_bytes())
    identity = run.read_identity()
    origin = {"run": identity["run"], "step": stored.step, "experiment": stored.experiment}
    # The same number of threads, for the same rounding.
    write_json(aside.identity, new_identity(config, identity.get("threads")) | {"forked_from": origin})


def _link(source: Path, target: Path) -> None:
    """Hard-links a file that is never written again; copies it if the file system has no hard links."""
    try:
        os.link(source, target, follow_symlinks=False)
    except FileNotFoundError:
        raise
    except OSError:
        shutil.copyfile(source, target)
        with open(target, "rb+") as file:
            os.fsync(file.fileno())
