"""Networks of torchvision's families, a few channels wide and few blocks deep: for tests that are not about their size."""

from torch import nn
from torchvision.models.convnext import CNBlockConfig, ConvNeXt
from torchvision.models.swin_transformer import SwinTransformer
from torchvision.models.vgg import VGG, make_layers
from torchvision.models.vision_transformer import VisionTransformer


def vgg(num_classes: int, in_channels: int = 3) -> nn.Module:
    network = VGG(make_layers([8, "M", 16, "M", 32, 32, "M", 32, "M", 32, "M"]), num_classes=1, init_weights=False)
    network.avgpool = nn.AdaptiveAvgPool2d((7, 7))
    network.classifier = nn.Sequential(
        *(nn.Linear(32 * 7 * 7, 32), nn.ReLU(True), nn.Dropout(0.5), nn.Linear(32, num_classes)),
    )
    return network


def vit(num_classes: int) -> nn.Module:
    return VisionTransformer(64, 32, num_layers=2, num_heads=2, hidden_dim=32, mlp_dim=64, num_classes=num_classes)


def swin(num_classes: int) -> nn.Module:
    return SwinTransformer([4, 4], 16, [2, 2], [2, 4], [7, 7], stochastic_depth_prob=0.2, num_classes=num_classes)


def convnext(num_classes: int) -> nn.Module:
    settings = [CNBlockConfig(16, 32, 2), CNBlockConfig(32, 64, 2), CNBlockConfig(64, None, 2)]
    return ConvNeXt(settings, stochastic_depth_prob=0.1, num_classes=num_classes)
