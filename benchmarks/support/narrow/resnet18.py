"""A ResNet-18 of an eighth of the channels, with torchvision's names: what most tests train is not what they are about."""

from torch import Tensor, nn
from torchvision.models.resnet import BasicBlock, ResNet

_WIDTH = 8


class Narrow(ResNet):
    """As `resnet18` of the registry, for the options that tests set."""

    input_weight = "conv1.weight"

    def __init__(self, num_classes: int, in_channels: int, stem: str = "standard", dropout: float = 0.0):
        nn.Module.__init__(self)
        self._norm_layer, self.inplanes, self.dilation, self.groups, self.base_width = nn.BatchNorm2d, _WIDTH, 1, 1, 64
        small = stem == "small"
        size, stride, padding = (3, 1, 1) if small else (7, 2, 3)
        self.conv1 = nn.Conv2d(in_channels, _WIDTH, size, stride, padding, bias=False)
        self.bn1, self.relu = nn.BatchNorm2d(_WIDTH), nn.ReLU(inplace=True)
        self.maxpool = nn.Identity() if small else nn.MaxPool2d(3, stride=2, padding=1)  # type: ignore[assignment]
        for number in range(4):
            layer = self._make_layer(BasicBlock, _WIDTH << number, 2, stride=1 if number == 0 else 2)
            setattr(self, f"layer{number + 1}", layer)
        self.avgpool = nn.Sequential(nn.AdaptiveAvgPool2d((1, 1)), nn.Dropout(dropout))  # type: ignore[assignment]
        self.fc = nn.Linear(_WIDTH << 3, num_classes)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")


class Backbone(Narrow):
    """Its four stages, as a backbone."""

    def __init__(self, in_channels: int):
        super().__init__(1, in_channels)
        self.avgpool = self.fc = None  # type: ignore[assignment]
        self.channels, self.strides = tuple(_WIDTH << number for number in range(4)), (4, 8, 16, 32)

    def forward(self, x: Tensor) -> list[Tensor]:  # type: ignore[override]
        x = self.maxpool(self.relu(self.bn1(self.conv1(x))))
        found = []
        for layer in (self.layer1, self.layer2, self.layer3, self.layer4):
            x = layer(x)
            found.append(x)
        return found
