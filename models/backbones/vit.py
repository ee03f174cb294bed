"""Vision Transformer: Dosovitskiy et al., An Image is Worth 16x16 Words, ICLR 2021 (arXiv:2010.11929).

The layers are torchvision's: Glorot's initialisation in the MLPs, N(0, 0.02) for the embedding of positions, LeCun's for the
embedding of patches, and a head of zeros (appendix D.1.1 has zeros for fine-tuning).
"""

from collections import OrderedDict
from functools import partial
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
import torchvision
from torch import Tensor, nn

from phalanx.models.backbones.first_layer import for_channels
from phalanx.models.backbones.pyramid import Pyramid
from phalanx.models.options import Options


class _Size(NamedTuple):
    """Table 1 of the paper: Base, Large, Huge, with the side of a patch."""

    patch: int
    layers: int
    heads: int
    hidden: int
    mlp: int


SIZES = {
    "vit_b_16": _Size(16, 12, 12, 768, 3072),
    "vit_b_32": _Size(32, 12, 12, 768, 3072),
    "vit_l_16": _Size(16, 24, 16, 1024, 4096),
    "vit_l_32": _Size(32, 24, 16, 1024, 4096),
    "vit_h_14": _Size(14, 32, 16, 1280, 5120),
}


class VisionTransformer(torchvision.models.VisionTransformer):
    """torchvision's, for images of any shape whose sides are multiples of the patch.

    Args:
        size: the network's.
        num_classes: outputs.
        image_size: height and width of the images, which fix the number of positions.

    Attributes:
        grid: patches along height and width.

    Shape: [B, in_channels, H, W] to [B, num_classes].
    """

    def __init__(self, size: _Size, num_classes: int, image_size: tuple[int, int]):
        patch, layers, heads, hidden, mlp = size
        super().__init__(patch, patch, layers, heads, hidden, mlp, num_classes=num_classes)
        self.grid = (image_size[0] // patch, image_size[1] // patch)
        self.seq_length = 1 + self.grid[0] * self.grid[1]
        self.encoder.pos_embedding = nn.Parameter(torch.empty(1, self.seq_length, hidden).normal_(std=0.02))

    def _process_input(self, image: Tensor) -> Tensor:
        """Patches in rows. Shape: [B, C, H, W] to [B, patches, hidden]."""
        return _patches(self, image, self.patch_size).flatten(2).transpose(1, 2)


def build(name: str, options: Options) -> Any:
    """A Vision Transformer; `image_size` fixes the number of positions, 224 by 224 pixels where it is not given.

    Shape: [B, in_channels, H, W] to [B, num_classes].
    """
    size = SIZES[name]
    network = VisionTransformer(size, options.num_classes, options.image_size or (224, 224))
    if options.in_channels != 3:
        initialise = partial(nn.init.trunc_normal_, std=(1 / (options.in_channels * size.patch**2)) ** 0.5)
        network.conv_proj = for_channels(network.conv_proj, options.in_channels, initialise)
    if options.dropout:
        network.heads = nn.Sequential(OrderedDict(dropout=nn.Dropout(options.dropout), head=network.heads.head))
    network.block_names = tuple(f"encoder.layers.encoder_layer_{i}" for i in range(size.layers))
    network.input_weight = "conv_proj.weight"
    return network


def pyramid(name: str, options: Options, channels: tuple[int, ...]) -> Pyramid:
    """One map, of the patches after the last normalisation; the class token is dropped.

    Images of another size than `image_size` get an embedding of positions that is interpolated to theirs.
    """
    network = build(name, options)
    patch = SIZES[name].patch
    return Pyramid(network, ("heads",), partial(_maps, patch=patch, grid=network.grid), channels, (patch,))


def _patches(network: Any, image: Tensor, patch: int) -> Tensor:
    """Shape: [B, C, H, W] to [B, hidden, H / patch, W / patch]."""
    height, width = image.shape[-2:]
    if height % patch or width % patch:
        raise ValueError(
            f"images of {height} x {width} pixels: sides must be multiples of the patch, {patch}. Resize or pad them."
        )
    return network.conv_proj(image)


def _maps(network: Any, image: Tensor, patch: int, grid: tuple[int, int]) -> list[Tensor]:
    x = _patches(network, image, patch)
    height, width = x.shape[-2:]
    x = torch.cat([network.class_token.expand(len(x), -1, -1), x.flatten(2).transpose(1, 2)], dim=1)
    encoder = network.encoder
    positions = interpolated(encoder.pos_embedding, grid, (height, width))
    x = encoder.ln(encoder.layers(encoder.dropout(x + positions)))[:, 1:]
    return [x.transpose(1, 2).unflatten(2, (height, width))]


def interpolated(embedding: Tensor, grid: tuple[int, int], wanted: tuple[int, int]) -> Tensor:
    """An embedding of positions for another number of patches: the class token's is kept, the others bicubically interpolated.

    As `torchvision.models.vision_transformer.interpolate_embeddings`, which knows squares alone.

    Shape: [1, 1 + rows * columns, hidden], rows and columns of `grid`, to those of `wanted`.
    """
    if grid == wanted:
        return embedding
    token, patches = embedding[:, :1], embedding[:, 1:]
    patches = patches.transpose(1, 2).unflatten(2, grid)
    patches = F.interpolate(patches, size=wanted, mode="bicubic", align_corners=True)
    return torch.cat([token, patches.flatten(2).transpose(1, 2)], dim=1)
