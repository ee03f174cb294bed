"""What the scripts of this folder train: a small network on scikit-learn's digits."""

import torch
from sklearn.datasets import load_digits
from torch import nn


class Digits(torch.utils.data.Dataset):
    def __init__(self):
        data = load_digits()
        self.images, self.targets = torch.from_numpy(data.images).float()[:, None] / 16, torch.from_numpy(data.target)

    def __len__(self):
        return len(self.targets)

    def __getitem__(self, i):
        return self.images[i], self.targets[i]


def network():
    torch.manual_seed(0)
    layers = nn.Conv2d(1, 16, 3), nn.BatchNorm2d(16), nn.ReLU(), nn.Flatten(), nn.Linear(576, 10)
    return nn.Sequential(*layers)


def accuracy(model):
    """Over all digits."""
    data = Digits()
    with torch.no_grad():
        return (model.eval()(data.images).argmax(1) == data.targets).float().mean().item()
