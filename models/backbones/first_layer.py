"""The first convolution for images of other channels than three."""

from collections.abc import Callable

from torch import Tensor, nn


def for_channels(layer: nn.Conv2d, channels: int, initialise: Callable[[Tensor], object] | None) -> nn.Conv2d:
    """A convolution like another one, with fresh weights.

    Args:
        layer: the network's own.
        channels: of the image.
        initialise: fills the weights in place, and the bias becomes zero; None leaves both to torch.
    """
    bias = layer.bias is not None
    made = nn.Conv2d(channels, layer.out_channels, layer.kernel_size, layer.stride, layer.padding, bias=bias)  # type: ignore[arg-type]
    if initialise is not None:
        initialise(made.weight)
        if made.bias is not None:
            nn.init.zeros_(made.bias)
    return made
