"""An LSTM that makes a cosine of a sine: from each value of a wave to the value of another, a quarter period later."""

import math

import torch
from torch import nn


class Waves:
    """Sines of any phase and period, and the cosines of the same."""

    classes, kind = (), "regression"

    def __init__(self, root, split, count=1024, length=40):
        generator = torch.Generator().manual_seed(0 if split == "train" else 1)
        phase = 2 * math.pi * torch.rand(count if split == "train" else count // 4, 1, generator=generator)
        period = 15 + 10 * torch.rand(len(phase), 1, generator=generator)
        angles = phase + 2 * math.pi * torch.arange(length) / period
        self.sines, self.cosines = angles.sin().unsqueeze(2), angles.cos().unsqueeze(2)
        self.cosines[:, :3] = math.nan  # of so few values the direction is not known: these do not count

    def __len__(self):
        return len(self.sines)

    def __getitem__(self, i):
        return {"input": self.sines[i], "target": self.cosines[i]}


class Translator(nn.Module):
    def __init__(self, hidden=32):
        super().__init__()
        self.reader, self.head = nn.LSTM(1, hidden, batch_first=True), nn.Linear(hidden, 1)

    def forward(self, x):  # [B, length, 1]
        return self.head(self.reader(x)[0])
