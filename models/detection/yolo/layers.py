"""What the YOLO networks are made of: convolutions with BatchNorm, and blocks of them that split and meet again."""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

Activation = Callable[[], nn.Module]


def silu() -> nn.Module:
    """Of v5 and all later ones (Elfwing et al., arXiv:1702.03118)."""
    return nn.SiLU()


def leaky() -> nn.Module:
    """Of Darknet (Redmon and Farhadi, arXiv:1804.02767)."""
    return nn.LeakyReLU(0.1)


class Conv(nn.Module):
    """Convolution without bias, BatchNorm, activation; `same` padding. Shape: [B, C, H, W] to [B, out, H/stride, W/stride].

    `fuse` makes one convolution of it for inference.
    """

    def __init__(
        self,
        channels: int,
        out: int,
        kernel: int = 1,
        stride: int = 1,
        padding: int | None = None,
        act: Activation = silu,
        groups: int = 1,
    ):
        super().__init__()
        padding = kernel // 2 if padding is None else padding
        self.conv = nn.Conv2d(channels, out, kernel, stride, padding, groups=groups, bias=False)
        self.norm: nn.Module = nn.BatchNorm2d(out, eps=1e-3, momentum=0.03)
        self.act = act()

    def forward(self, x: Tensor) -> Tensor:
        activated: Tensor = self.act(self.norm(self.conv(x)))
        return activated

    @torch.no_grad()
    def fuse(self) -> None:
        """Folds BatchNorm's running statistics and its scale into the convolution, which gets a bias; once."""
        norm = self.norm
        if not isinstance(norm, nn.BatchNorm2d):
            return
        assert norm.running_mean is not None and norm.running_var is not None
        scale = norm.weight * torch.rsqrt(norm.running_var + norm.eps)
        self.conv.weight.copy_(self.conv.weight * scale.view(-1, 1, 1, 1))
        self.conv.bias = nn.Parameter(norm.bias - norm.running_mean * scale, requires_grad=False)
        self.norm = nn.Identity()


class DepthwiseConv(nn.Module):
    """A convolution of each channel by itself, then one of single pixels (Howard et al., MobileNets, arXiv:1704.04861).

    Shape: [B, C, H, W] to [B, out, H/stride, W/stride].
    """

    def __init__(self, channels: int, out: int, kernel: int = 1, stride: int = 1):
        super().__init__()
        self.depthwise = Conv(channels, channels, kernel, stride, groups=channels)
        self.pointwise = Conv(channels, out)

    def forward(self, x: Tensor) -> Tensor:
        mixed: Tensor = self.pointwise(self.depthwise(x))
        return mixed


ConvOf = Callable[[int, int, int, int], nn.Module]  # channels, out, kernel, stride


class Bottleneck(nn.Module):
    """Two convolutions, and a shortcut where `add` is set. Shape: [B, C, H, W] to itself."""

    def __init__(
        self,
        channels: int,
        hidden: int,
        kernels: tuple[int, int],
        add: bool,
        act: Activation = silu,
        second: ConvOf | None = None,
    ):
        super().__init__()
        self.conv1 = Conv(channels, hidden, kernels[0], act=act)
        self.conv2 = second(hidden, channels, kernels[1], 1) if second else Conv(hidden, channels, kernels[1], act=act)
        self.add = add

    def forward(self, x: Tensor) -> Tensor:
        through: Tensor = self.conv2(self.conv1(x))
        return x + through if self.add else through


class C3(nn.Module):
    """`C3`: half of the channels go through bottlenecks, half around them (Wang et al., CSPNet, arXiv:1911.11929).

    Shape: [B, C, H, W] to [B, out, H, W].
    """

    def __init__(self, channels: int, out: int, depth: int, add: bool = True, conv: ConvOf | None = None):
        super().__init__()
        half = out // 2
        self.conv1, self.conv2, self.conv3 = Conv(channels, half), Conv(channels, half), Conv(2 * half, out)
        self.blocks = nn.Sequential(*(Bottleneck(half, half, (1, 3), add, second=conv) for _ in range(depth)))

    def forward(self, x: Tensor) -> Tensor:
        met: Tensor = self.conv3(torch.cat([self.blocks(self.conv1(x)), self.conv2(x)], dim=1))
        return met


class C2f(nn.Module):
    """`C2f`: as `CrossStage`, but the output of every bottleneck is kept (Terven et al., arXiv:2304.00501, section 12).

    Shape: [B, C, H, W] to [B, out, H, W].
    """

    def __init__(self, channels: int, out: int, depth: int, add: bool = True):
        super().__init__()
        half = out // 2
        self.conv1, self.conv2 = Conv(channels, 2 * half), Conv((2 + depth) * half, out)
        self.blocks = nn.ModuleList(Bottleneck(half, half, (3, 3), add) for _ in range(depth))

    def forward(self, x: Tensor) -> Tensor:
        parts = list(self.conv1(x).chunk(2, dim=1))
        for block in self.blocks:
            parts.append(block(parts[-1]))
        met: Tensor = self.conv2(torch.cat(parts, dim=1))
        return met


class SPPF(nn.Module):
    """Spatial pyramid pooling: the largest of neighbourhoods of 5, 9 and 13 pixels (He et al., arXiv:1406.4729).

    Pools of 5 one after another have these sizes too. Shape: [B, C, H, W] to [B, out, H, W].
    """

    def __init__(self, channels: int, out: int):
        super().__init__()
        half = channels // 2
        self.conv1, self.conv2 = Conv(channels, half), Conv(4 * half, out)

    def forward(self, x: Tensor) -> Tensor:
        pooled = [self.conv1(x)]
        for _ in range(3):
            pooled.append(F.max_pool2d(pooled[-1], 5, stride=1, padding=2))
        met: Tensor = self.conv2(torch.cat(pooled, dim=1))
        return met


def twice_as_large(x: Tensor) -> Tensor:
    """Each pixel four times. Shape: [B, C, H, W] to [B, C, 2H, 2W]."""
    return F.interpolate(x, scale_factor=2.0, mode="nearest")
