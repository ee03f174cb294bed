"""Metrics against other definitions of them, and by hand."""

import pytest
import torch
from sklearn.metrics import average_precision_score, balanced_accuracy_score, confusion_matrix
from torch import Tensor, nn

from phalanx.configs.load import load
from phalanx.train import tasks
from phalanx.train.metrics.average_precision import average_precision, average_precisions, mean_average_precision
from phalanx.train.metrics.calibration import count_bins, expected_error
from phalanx.train.tasks import DataInfo, Details
from phalanx.train.tasks.ensemble import MeanProbability
from tests.support.running import DIGITS


class Given(nn.Module):
    """A network that is sure of what its image says: the image is the logits."""

    def forward(self, images: Tensor) -> Tensor:
        return images


def sums_of(logits: Tensor, target: Tensor, task: tasks.Task) -> dict[str, object]:
    measured = task.measure(Given(), {"image": logits, "target": target})
    assert all(isinstance(value, Tensor) for value in measured.values())
    return {name: value if value.shape else float(value) for name, value in measured.items()}  # type: ignore[union-attr]


def test_accuracies_and_the_confusion_matrix_are_scikit_learn_s() -> None:
    g = torch.Generator().manual_seed(0)
    target = torch.randint(5, (200,), generator=g)
    logits = torch.randn(200, 6, generator=g) + 2 * nn.functional.one_hot(target, 6)
    target[target == 1] = 0  # a class without samples
    task = tasks.build(load([DIGITS], ["model.num_classes=6"]), DataInfo(tuple("abcde"), 1))
    with_unknown = torch.cat([target, torch.tensor([-1, -1])]), torch.cat([logits, torch.randn(2, 6, generator=g)])
    sums = sums_of(with_unknown[1], with_unknown[0], task)
    metrics, predicted = task.metrics(sums), logits.argmax(1)
    assert metrics["top1"] == pytest.approx(float((predicted == target).float().mean()))
    in_best_five = (logits.topk(5, 1).indices == target[:, None]).any(1)
    assert metrics["top5"] == pytest.approx(float(in_best_five.float().mean())) and metrics["top5"] < 1
    assert metrics["loss"] == pytest.approx(float(nn.functional.cross_entropy(logits, target)))
    with pytest.warns(UserWarning, match="y_pred contains classes not in y_true"):
        assert metrics["top1_mean_class"] == pytest.approx(balanced_accuracy_score(target, predicted))
    assert isinstance(task, Details)
    details = task.details(sums)
    assert details["confusion"] == confusion_matrix(target, predicted, labels=range(6)).tolist()
    assert [row["class"] for row in details["per_class"]] == ["a", "b", "c", "d", "e", "5"]
    assert details["per_class"][1] == {"class": "b", "samples": 0, "top1": None}


def test_average_precision_is_scikit_learn_s_with_equal_scores_too() -> None:
    g = torch.Generator().manual_seed(0)
    scores = (torch.rand(300, 4, generator=g) * 20).round() / 20
    labels = (torch.rand(300, 4, generator=g) < scores).float()
    labels[:, 3] = 0
    labels[::7, 0] = -1
    found = average_precisions(scores, labels)
    for c in range(3):
        known = labels[:, c] >= 0
        assert found[c] == pytest.approx(average_precision_score(labels[known, c], scores[known, c]), rel=1e-12)
    assert found[3] is None and mean_average_precision(found) == pytest.approx(sum(found[:3]) / 3)  # type: ignore[arg-type]
    order = torch.randperm(300, generator=g)
    assert average_precision(scores[order, 1], labels[order, 1]) == found[1]


def test_calibration_error_is_the_gap_between_confidence_and_accuracy() -> None:
    confidence = torch.tensor([0.95, 0.95, 0.95, 0.95, 0.45, 0.45, 0.06, 1.0])
    hit = torch.tensor([True, True, True, False, True, False, False, True])
    counted = torch.tensor([True] * 7 + [False])
    bins = count_bins(confidence, hit, counted)
    assert bins["bin_samples"].tolist() == [1, *[0] * 5, 2, *[0] * 7, 4]
    # |3 - 3.8|, |1 - 0.9| and |0 - 0.06|, of seven samples
    wanted = (0.8 + 0.1 + 0.06) / 7
    assert expected_error(bins["bin_samples"], bins["bin_hits"], bins["bin_confidence"]) == pytest.approx(wanted, rel=1e-6)


@pytest.mark.parametrize("kind", ["softmax", "sigmoid"])
def test_networks_together_give_the_mean_of_their_probabilities(kind: str) -> None:
    class Scaled(nn.Module):
        def __init__(self, by: float):
            super().__init__()
            self.by = by

        def forward(self, images: Tensor) -> Tensor:
            return self.by * images

    logits = torch.randn(6, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    probabilities = (lambda x: x.softmax(1)) if kind == "softmax" else torch.sigmoid
    together = MeanProbability([Scaled(1.0), Scaled(-2.0), Scaled(300.0)], kind)(logits)  # type: ignore[arg-type]
    wanted = (probabilities(logits) + probabilities(-2 * logits) + probabilities(300 * logits)) / 3
    assert together.isfinite().all() and torch.allclose(probabilities(together), wanted, rtol=1e-10, atol=1e-14)
