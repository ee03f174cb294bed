"""An autoencoder of handwritten digits: 64 pixels through a code of 8 numbers, and back."""

import torch
from sklearn.datasets import load_digits
from torch import nn


class Digits:
    """Scikit-learn's digits, each its own target; every fifth is validated."""

    channels, mean, std = 1, (0.0,), (1.0,)
    classes, kind = (), "regression"

    def __init__(self, root, split):
        images = torch.from_numpy(load_digits().images).float() / 16
        validated = torch.arange(len(images)) % 5 == 0
        self.images = images[validated if split == "val" else ~validated]

    def __len__(self):
        return len(self.images)

    def __getitem__(self, i):
        return {"input": self.images[i], "target": self.images[i]}


class Autoencoder(nn.Module):
    def __init__(self, code=8, hidden=64):
        super().__init__()
        self.encoder = nn.Sequential(nn.Linear(64, hidden), nn.ReLU(), nn.Linear(hidden, code))
        self.decoder = nn.Sequential(nn.Linear(code, hidden), nn.ReLU(), nn.Linear(hidden, 64), nn.Sigmoid())

    def forward(self, images):  # [B, 8, 8]
        return self.decoder(self.encoder(images.flatten(1))).unflatten(1, (8, 8))
