"""Linear and logistic regression on a table: CSV, or CSV.gz, with a line of names."""

import csv
import gzip
from pathlib import Path

import torch
from torch import nn

_VALIDATED = 5  # every fifth row


class Csv:
    """A table's rows: all columns but the target are the input, standardised by the training rows.

    Args:
        root: the file.
        target: name of the column that is learnt: numbers for regression, words for classification.
    """

    def __init__(self, root, split, target):
        with (gzip.open if str(root).endswith(".gz") else open)(root, "rt", newline="") as file:
            rows = list(csv.DictReader(file))
        names = [name for name in rows[0] if name != target]
        features = torch.tensor([[float(row[name]) for name in names] for row in rows])
        validated = torch.arange(len(rows)) % _VALIDATED == 0
        own = validated if split == "val" else ~validated
        center, spread = features[~validated].mean(0), features[~validated].std(0)
        self.features = ((features - center) / spread.clamp(min=1e-6))[own]
        self.channels = len(names)  # a model's in_channels
        values = [row[target] for row, chosen in zip(rows, own.tolist(), strict=True) if chosen]
        try:
            self.targets, self.classes, self.kind = torch.tensor([float(value) for value in values]), (), "regression"
        except ValueError:
            self.classes = tuple(sorted({row[target] for row in rows}))
            self.labels = self.targets = torch.tensor([self.classes.index(value) for value in values])

    def __len__(self):
        return len(self.targets)

    def __getitem__(self, i):
        return {"input": self.features[i], "target": self.targets[i] if self.classes == () else int(self.targets[i])}


class Linear(nn.Module):
    """One layer: linear regression; with cross-entropy, logistic regression."""

    def __init__(self, num_classes, in_channels):
        super().__init__()
        self.layer = nn.Linear(in_channels, num_classes)

    def forward(self, x):  # [B, features]
        return self.layer(x)


def write_tables(folder):
    """Two tables that scikit-learn ships: diabetes.csv (numbers), cancer.csv.gz (two classes)."""
    from sklearn.datasets import load_breast_cancer, load_diabetes

    for name, found in (("diabetes.csv", load_diabetes()), ("cancer.csv.gz", load_breast_cancer())):
        with (gzip.open if name.endswith(".gz") else open)(Path(folder) / name, "wt", newline="") as file:
            writer = csv.writer(file)
            writer.writerow([*map(str, found.feature_names), "target"])
            words = [str(each) for each in getattr(found, "target_names", [])]
            for row, value in zip(found.data.tolist(), found.target.tolist(), strict=True):
                writer.writerow([*row, words[value] if words else value])


if __name__ == "__main__":
    write_tables(".")
