"""Networks as users write them: each does something that a shipped one does not. Recipes name them by this file."""

import random

import torch
import torch.nn.functional as F
from torch import Tensor, nn

_OWN_NUMBERS = random.Random(0)


class ConvNet(nn.Module):
    """BatchNorm and dropout."""

    def __init__(self, num_classes: int, in_channels: int = 1, width: int = 8, dropout: float = 0.1):
        super().__init__()
        self.features = nn.Sequential(
            *(nn.Conv2d(in_channels, width, 3, padding=1), nn.BatchNorm2d(width), nn.ReLU(), nn.MaxPool2d(2)),
            *(nn.Conv2d(width, 2 * width, 3, padding=1), nn.BatchNorm2d(2 * width), nn.ReLU()),
        )
        self.dropout = nn.Dropout(dropout)
        self.head = nn.Linear(2 * width, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.dropout(self.features(x).mean((2, 3))))


class Transformer(nn.Module):
    """Reads rows; the layers are in a list, and one weight is used outside of its module's forward."""

    def __init__(self, num_classes: int, side: int = 8, width: int = 16):
        super().__init__()
        self.embed = nn.Linear(side, width)
        self.layers = nn.ModuleList(nn.TransformerEncoderLayer(width, 2, 32, batch_first=True) for _ in range(2))
        self.gate = nn.Sequential(nn.Linear(width, width), nn.Linear(width, width))
        self.head = nn.Linear(width, num_classes)
        self.side = side

    def forward(self, x: Tensor) -> Tensor:
        x = self.embed(F.adaptive_avg_pool2d(x, self.side).mean(1))
        for layer in self.layers:
            x = layer(x)
        x = self.gate[1](F.linear(x, self.gate[0].weight))
        return self.head(x.mean(1)) + self.gate[0].bias.sum()


class ReturnsDictionary(ConvNet):
    """Logits among other things, and an auxiliary head."""

    auxiliary_weight = 0.4

    def __init__(self, num_classes: int, in_channels: int = 1):
        super().__init__(num_classes, in_channels)
        self.early = nn.Linear(16, num_classes)

    def forward(self, x: Tensor) -> dict[str, Tensor]:  # type: ignore[override]
        features = self.features(x).mean((2, 3))
        found = {"logits": self.head(features), "features": features}
        return found | {"aux": self.early(features)} if self.training else found


class UnusedHead(ConvNet):
    """A head that no output depends on."""

    def __init__(self, num_classes: int, in_channels: int = 1):
        super().__init__(num_classes, in_channels)
        self.unused = nn.Sequential(nn.Linear(16, 16), nn.Linear(16, 4))


class Temperature(ConvNet):
    """A parameter without dimensions."""

    def __init__(self, num_classes: int, in_channels: int = 1):
        super().__init__(num_classes, in_channels)
        self.temperature = nn.Parameter(torch.tensor(1.5))

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) * self.temperature


class Tied(nn.Module):
    """One weight in two modules."""

    def __init__(self, num_classes: int):
        super().__init__()
        self.encoder = nn.Sequential(nn.Linear(64, 16), nn.ReLU())
        self.decoder = nn.Sequential(nn.Linear(16, 64), nn.ReLU(), nn.Linear(64, 16))
        self.decoder[2].weight = self.encoder[0].weight
        self.head = nn.Linear(16, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        x = F.adaptive_avg_pool2d(x, 8).mean(1).flatten(1)
        return self.head(self.decoder(self.encoder(x)))


class Nested(nn.Module):
    """Its input is a dictionary in a dictionary."""

    def __init__(self, num_classes: int):
        super().__init__()
        self.table, self.series, self.head = nn.Linear(4, 8), nn.LSTM(3, 8, batch_first=True), nn.Linear(16, num_classes)

    def forward(self, inputs: dict) -> Tensor:  # type: ignore[type-arg]
        series, _ = self.series(inputs["series"]["values"])
        return self.head(torch.cat([self.table(inputs["table"]), series[:, -1]], dim=1))


class Mixes(ConvNet):
    """Normalises over the micro-batch by itself, and draws from a generator of its own."""

    def forward(self, x: Tensor) -> Tensor:
        features = self.features(x).mean((2, 3))
        return self.head(features - features.mean(0)) * (1 + 1e-3 * _OWN_NUMBERS.random())


def make(kind: str, num_classes: int) -> nn.Module:
    """A function that makes a network."""
    return nn.Sequential(nn.Flatten(), nn.LazyLinear(num_classes)) if kind == "lazy" else ConvNet(num_classes)


class NoModule:
    """No network."""


class NestedData:
    """Tables and series; the class is a function of both."""

    classes = ("below", "above")

    def __init__(self, root: object, split: str, count: int = 64):
        generator = torch.Generator().manual_seed(0 if split == "train" else 1)
        self._table = torch.randn(count, 4, generator=generator)
        self._series = torch.randn(count, 5, 3, generator=generator)
        self.labels = (self._table.sum(1) + self._series.sum((1, 2)) > 0).long()

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> dict[str, object]:
        given = {"table": self._table[index], "series": {"values": self._series[index]}}
        return {"input": given, "target": int(self.labels[index])}
