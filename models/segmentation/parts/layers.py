"""Layers that several networks share."""

from torch import nn


def convolution(
    channels: int, outputs: int, kernel: int = 3, dilation: int = 1, separable: bool = False, norm_between: bool = False
) -> nn.Sequential:
    """A convolution that keeps the size, BatchNorm, ReLU.

    Args:
        separable: one kernel a channel, then 1x1 over the channels (Chollet, CVPR 2017, arXiv:1610.02357).
        norm_between: BatchNorm and ReLU between these two as well.

    Shape: [B, channels, H, W] to [B, outputs, H, W].
    """
    padding = dilation * (kernel // 2)
    if not separable:
        layer: nn.Module = nn.Conv2d(channels, outputs, kernel, padding=padding, dilation=dilation, bias=False)
    else:
        depthwise = nn.Conv2d(channels, channels, kernel, padding=padding, dilation=dilation, groups=channels, bias=False)
        between = [nn.BatchNorm2d(channels), nn.ReLU(inplace=True)] if norm_between else []
        layer = nn.Sequential(depthwise, *between, nn.Conv2d(channels, outputs, 1, bias=False))
    return nn.Sequential(layer, nn.BatchNorm2d(outputs), nn.ReLU(inplace=True))


def initialise_as_mmsegmentation(*heads: nn.Module | None) -> None:
    """The first weights of decoders in mmsegmentation: He's normal distribution for N outgoing values, and N(0, 0.01) for the
    classifiers, which are the convolutions with a bias; biases of zero.
    """
    for head in heads:
        for layer in () if head is None else head.modules():
            if isinstance(layer, nn.Conv2d):
                if layer.bias is None:
                    nn.init.kaiming_normal_(layer.weight, mode="fan_out", nonlinearity="relu")
                else:
                    nn.init.normal_(layer.weight, std=0.01)
                    nn.init.zeros_(layer.bias)


def initialise(network: nn.Module) -> None:
    """He's initialisation of convolutions, N(0, sqrt(2 / N)) for N incoming values (arXiv:1502.01852); biases of zero."""
    for layer in network.modules():
        if isinstance(layer, nn.ConvTranspose2d):
            # Kernels as large as their stride do not overlap: a value comes from one position, of all channels.
            nn.init.normal_(layer.weight, std=(2 / layer.in_channels) ** 0.5)
        elif isinstance(layer, nn.Conv2d):
            nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
        else:
            continue
        if layer.bias is not None:
            nn.init.zeros_(layer.bias)
