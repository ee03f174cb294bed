"""The contract of a backbone: maps of features, fine to coarse, with stated channels and strides."""

from collections.abc import Callable, Sequence
from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

# From the pyramid itself, whose layers have the names that the classification network gave them, and images [B, C, H, W].
MapsOf = Callable[[Any, Tensor], list[Tensor]]


class Pyramid(nn.Module):
    """A classification network without its head, under the same names of parameters: weights fit both.

    Args:
        network: the classification network; its layers are taken over, not copied.
        head: the network's children that only classification needs.
        maps: runs the layers.

    Attributes:
        channels: of each map.
        strides: pixels of the image to one of the map, along height and width.
        block_names: what FSDP2 gathers at a time.
        left_out: names of the head's children.
        input_weight: the name of the first convolution's weight, if the network has it.

    Shape: [B, in_channels, H, W] to a list of [B, channels[i], ceil(H / strides[i]), ceil(W / strides[i])].
    """

    def __init__(
        self, network: nn.Module, head: Sequence[str], maps: MapsOf, channels: tuple[int, ...], strides: tuple[int, ...]
    ):
        super().__init__()
        for name, parameter in network.named_parameters(recurse=False):
            self.register_parameter(name, parameter)
        for name, child in network.named_children():
            if name not in head:
                self.add_module(name, child)
        names: tuple[str, ...] = network.block_names  # type: ignore[assignment]
        self.block_names = tuple(name for name in names if name.partition(".")[0] not in head)
        self.channels, self.strides, self._maps = channels, strides, maps
        self.left_out = tuple(head)
        self.input_weight = getattr(network, "input_weight", None)

    def forward(self, image: Tensor) -> list[Tensor]:
        return self._maps(self, image)


def pad_to_multiple(x: Tensor, multiple: int, value: float = 0.0) -> Tensor:
    """Pads at the right and below, so that height and width are multiples. Shape: [B, C, H, W]."""
    height, width = x.shape[-2:]
    below, right = -height % multiple, -width % multiple
    return F.pad(x, (0, right, 0, below), value=value) if below or right else x
