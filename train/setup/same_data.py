"""Whether the data is still what the run was trained on: its classes by name, its samples by number and names."""

from collections.abc import Sequence

from phalanx.configs.errors import UserError
from phalanx.configs.schema import RunConfig, digest
from phalanx.data.dataset import Dataset, Split
from phalanx.data.identity import Identity, identity
from phalanx.dist.storage.run_directory import RunDirectory
from phalanx.train.setup.recorded import Recorded, recorded

_NAMED = 5


def refuse_other_classes(run: RunDirectory, config: RunConfig, training: Dataset) -> None:
    """
    Raises:
        UserError: if the classes, which are numbered by their order, differ from those of the run.
    """
    known = recorded(run)
    problem = None if known is None else other_classes(known, tuple(training.classes))
    if problem is not None:
        raise UserError(
            f"{run.data}: {problem} (data.name={config.data.name}, data.root={config.data.root}), so that one would be "
            "taken for another. Restore the names of the classes and their order, or train another run.",
        )


def other_classes(known: Recorded, now: Sequence[str]) -> str | None:
    """How the classes differ from those of a run; None if they are the same."""
    before = known.facts.classes
    if tuple(now) == before:
        return None
    gone, new = [name for name in before if name not in now], [name for name in now if name not in before]
    if not gone and not new:
        place = next(n for n, pair in enumerate(zip(before, now, strict=False)) if pair[0] != pair[1])
        return f"the data has the run's classes in another order: class {place} was {before[place]}, and is {now[place]} now"
    parts = [f"lacks {_listed(gone)}"] if gone else []
    parts += [f"has {_listed(new)}, on which the run was not trained"] if new else []
    return f"the run was trained on {len(before)} classes, and the data now {' and '.join(parts)}"


def _listed(names: Sequence[str]) -> str:
    more = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
    return ", ".join(names[:_NAMED]) + more


def held_for_training(run: RunDirectory, config: RunConfig, training: Dataset, validation: Dataset) -> list[str]:
    """Warnings before a run is resumed: accepted changes of its data.

    Raises:
        UserError: if its classes have changed, or its samples without `data.changed=accept`.
    """
    refuse_other_classes(run, config, training)
    known = recorded(run)
    if known is None:
        return []
    said = []
    before = known.splits.get("train", Identity(known.facts.samples))
    difference = before.difference(identity(training)) if before.samples else None
    if difference is not None:
        which = f"{run.data}: the training data is no longer what the run started with: {difference}"
        if config.data.changed == "refuse":
            raise UserError(
                f"{which}. Samples would come twice in this epoch, or not at all, or with another class. Restore the "
                "data, or set data.changed=accept to resume with it as it is now."
            )
        said.append(f"{which}; data.changed=accept: some may come twice in this epoch, or not at all")
    return said + held_for_evaluation(run, validation)


def held_for_evaluation(run: RunDirectory, validation: Dataset) -> list[str]:
    """A warning that the validation split differs from that of the run's log."""
    known = recorded(run)
    before = None if known is None else known.splits.get("val")
    difference = None if before is None else before.difference(identity(validation))
    if difference is None:
        return []
    return [f"{run.data}: the validation split is no longer what it was: {difference}; metrics are not comparable"]


def changes(config: RunConfig, split: Split, dataset: Dataset) -> list[str]:
    """Warnings on data that differs from that of an existing run of this name and experiment."""
    run = RunDirectory.of(config)
    known = recorded(run) if run.exists() and digest(run.read_config()) == digest(config) else None
    if known is None:
        return []
    before = known.splits.get(split)
    problems = [other_classes(known, dataset.classes) if split == "train" else None]
    problems.append(None if before is None else before.difference(identity(dataset)))
    return [f"{run.data}: {problem}" for problem in problems if problem is not None]
