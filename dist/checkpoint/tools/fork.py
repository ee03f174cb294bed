"""A new run from another run's checkpoint, which stays as it is: the two share the shards' files. No torch here."""

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
    """Whether a run with one configuration can go on with another's checkpoint, as far as keys tell.

    Raises:
        UserError: saying what to do instead.
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
                f"{run.path}: {key}={given} would do nothing in a fork, whose weights are the checkpoint's. "
                "Leave it out, or train with it under another name."
            )


def refuse_taken(new: RunDirectory) -> None:
    """
    Raises:
        UserError: where something of the new run's name is there.
    """
    if os.path.lexists(new.path):
        going_on = f", or go on with it: `phalanx resume {new.path}`" if new.exists() else ""
        raise UserError(f"{new.path} is there already. Fork under another name{going_on}.")


def fork(run: RunDirectory, checkpoint: Path, config: RunConfig) -> RunDirectory:
    """Makes the run directory of `config` with one checkpoint of another run, under the new experiment's digest.

    It is made aside and gets its name in one rename: a kill leaves the whole run or none.

    Args:
        checkpoint: of `run`, verified.

    Raises:
        UserError: where the name is taken, the checkpoint vanished meanwhile, or the disk refuses.
    """
    new = RunDirectory.of(config)
    refuse_taken(new)
    aside = new.path.with_name(f".forking-{new.path.name}")
    try:
        _remove(aside)  # what a kill left behind
        aside.mkdir()
        stored = manifest.read(checkpoint)
        _fill(RunDirectory(aside), run, checkpoint, stored, config)
        refuse_taken(new)  # a rename would replace an empty folder
        aside.rename(new.path)
        fsync_directory(new.path.parent)
    except manifest.BrokenCheckpoint as broken:
        raise UserError(f"{checkpoint} is not whole any more: {broken}. Fork again.") from None
    except OSError as error:
        raise UserError(f"{error.filename or new.path}: the fork cannot be written: {error.strerror or error}.") from None
    finally:
        _remove(aside)
    return new


def _remove(folder: Path) -> None:
    """Its links go; the files of the other run stay."""
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
    if same_data and run.data.is_file():  # on other data the fork has other classes and samples, as was asked for
        write_atomically(aside.data, run.data.read_bytes())
    identity = run.read_identity()
    origin = {"run": identity["run"], "step": stored.step, "experiment": stored.experiment}
    # As many threads as there, which round alike.
    write_json(aside.identity, new_identity(config, identity.get("threads")) | {"forked_from": origin})


def _link(source: Path, target: Path) -> None:
    """A second name for a file, which nobody writes to again; a copy where the file system has no such names."""
    try:
        os.link(source, target, follow_symlinks=False)
    except FileNotFoundError:
        raise
    except OSError:
        shutil.copyfile(source, target)
        with open(target, "rb+") as file:
            os.fsync(file.fileno())
