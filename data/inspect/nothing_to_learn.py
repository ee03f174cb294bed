"""Checks that there is anything to learn: a run without a single object or label would succeed without learning anything."""

from phalanx.configs.errors import UserError
from phalanx.data import dataset_info
from phalanx.data.dataset import Dataset


def refuse_nothing(training: Dataset) -> None:
    """Refuses a training split of which no image has an object, or one of several labels.

    Raises:
        UserError: with the searched files, and counts.
    """
    if not _is_empty(training):
        return
    what = "object" if dataset_info.kind(training) == "detection" else "label"
    notes = f" {' '.join(dataset_info.notes(training))}" if dataset_info.notes(training) else ""
    never = getattr(_below(training), "never_learnt", 0)
    besides = f" besides {never} that are crowds or difficult, which are never learnt" if never else ""
    raise UserError(
        f"{_looked(training)} give the training split no {what}{besides}, so that nothing can be learnt.{notes} "
        "Check these files, data.root and data.train_split.",
        shared=True,
    )


def nothing_in_validation(validation: Dataset) -> list[str]:
    """A message, if no image of the validation split has an object or a label."""
    if not _is_empty(validation):
        return []
    what = "object" if dataset_info.kind(validation) == "detection" else "label"
    return [f"{_looked(validation)} give the validation split no {what}: an evaluation has nothing to measure."]


def _is_empty(dataset: Dataset) -> bool:
    if not hasattr(_below(dataset), "looked"):  # other datasets may have to read all files to count
        return False
    counts = dataset_info.class_counts(dataset)
    return counts is not None and sum(counts) == 0


def _below(dataset: Dataset) -> Dataset:
    while isinstance(dataset, dataset_info.DatasetView):
        dataset = dataset.dataset
    return dataset


def _looked(dataset: Dataset) -> str:
    looked: str = _below(dataset).looked  # type: ignore[attr-defined]
    return looked
