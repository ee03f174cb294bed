"""A script with a loop of its own: `python train.py`, `torchrun --nproc-per-node 2 train.py`, `accelerate launch train.py`."""

import sys

import torch
from sklearn.datasets import load_digits
from torch import nn
from torch.nn.functional import cross_entropy

import phalanx


class Digits:
    """Scikit-learn's digits; every fifth is validated."""

    def __init__(self, split):
        data = load_digits()
        chosen = (torch.arange(len(data.target)) % 5 == 0) == (split == "val")
        self.images = torch.from_numpy(data.images).float()[chosen, None] / 16
        self.targets = torch.from_numpy(data.target)[chosen]

    def __len__(self):
        return len(self.targets)

    def __getitem__(self, i):
        return self.images[i], self.targets[i]


def network():
    torch.manual_seed(0)
    layers = nn.Conv2d(1, 32, 3), nn.BatchNorm2d(32), nn.ReLU(), nn.Conv2d(32, 64, 3), nn.ReLU(), nn.Flatten()
    return nn.Sequential(*layers, nn.Dropout(0.3), nn.Linear(1024, 10))


def losses(model, batch):
    return cross_entropy(model(batch["input"]), batch["target"], reduction="sum"), len(batch["target"])


def accuracy(model, batch):
    return {"accuracy": ((model(batch["input"]).argmax(1) == batch["target"]).sum(), len(batch["target"]))}


def optimizer(parameters):
    return torch.optim.SGD(parameters, lr=0.02, momentum=0.9)


with phalanx.Training(
    "runs/own_loop", network(), losses, Digits("train"), optimizer, steps=200, global_batch=64, micro_batch=8,
    validation=Digits("val"), measure=accuracy, overrides=sys.argv[1:],
) as training:  # fmt: skip
    for step in training:
        for batch in step:
            training.backward(losses(training.model, batch))
        training.update()
