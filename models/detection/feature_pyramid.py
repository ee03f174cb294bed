"""A backbone's maps as a pyramid of equal channels, coarse features added to fine ones.

Lin et al., Feature Pyramid Networks for Object Detection, CVPR 2017 (arXiv:1612.03144). The modules are torchvision's, with its
names of parameters and its initialisation: He's, uniform, for its convolutions.
"""

from collections import OrderedDict
from collections.abc import Callable, Sequence

from torch import Tensor, nn
from torchvision.ops.feature_pyramid_network import ExtraFPNBlock, FeaturePyramidNetwork

from phalanx.models import registry
from phalanx.models.backbones.pyramid import Pyramid
from phalanx.models.detection.frozen import freeze
from phalanx.models.options import BadOption, Options

CHANNELS = 256


class FeaturePyramid(nn.Module):
    """Maps of `CHANNELS` channels, fine to coarse, by name, as torchvision names them: `0`, `1`, ..., then the extra ones.

    Args:
        body: the backbone.
        places: of those of its maps that go in.
        extra: makes coarser maps of the last.
        norm: layers after each convolution; None: none, and biases.

    Attributes:
        block_names: what FSDP2 gathers at a time.

    Shape: [B, in_channels, H, W] to a dictionary of [B, CHANNELS, h, w].
    """

    def __init__(
        self, body: Pyramid, places: Sequence[int], extra: ExtraFPNBlock, norm: Callable[[int], nn.Module] | None = None
    ):
        super().__init__()
        self.body = body
        self.fpn = FeaturePyramidNetwork([body.channels[place] for place in places], CHANNELS, extra, norm)
        self.block_names = (*(f"body.{name}" for name in body.block_names), "fpn")
        self._places = tuple(places)
        self.out_channels = CHANNELS  # torchvision's detectors ask for it

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        maps = self.body(images)
        pyramid: dict[str, Tensor] = self.fpn(OrderedDict((str(i), maps[place]) for i, place in enumerate(self._places)))
        return pyramid


def feature_pyramid(
    options: Options, strides: Sequence[int], extra: ExtraFPNBlock, norm: Callable[[int], nn.Module] | None = None
) -> FeaturePyramid:
    """The pyramid on the backbone that the options name.

    Args:
        options: its option `norm=frozen` freezes the backbone's BatchNorm.
        strides: of the maps that go in.

    Raises:
        BadOption: for what this backbone does not take, or does not have.
    """
    assert options.backbone is not None
    body = registry.get(options.backbone).features(
        in_channels=options.in_channels,
        image_size=options.image_size,
        drop_path=options.drop_path,
    )
    missing = [stride for stride in strides if stride not in body.strides]
    if missing:
        raise BadOption(
            f"model.backbone={options.backbone}: its maps have strides of {', '.join(map(str, body.strides))}, but this "
            f"detector needs {', '.join(map(str, strides))}. Set another, such as model.backbone=resnet50."
        )
    if options.own("norm") == "frozen":
        freeze(body)
    deepest = [max(place for place, own in enumerate(body.strides) if own == stride) for stride in strides]
    return FeaturePyramid(body, deepest, extra, norm)


def anchor_sizes(options: Options, levels: int) -> tuple[int, ...]:
    """Of each map of the pyramid, the side of its anchors in pixels.

    Raises:
        BadOption: if there are not as many as maps.
    """
    sizes = tuple(options.own("anchors"))
    if len(sizes) != levels:
        raise BadOption(
            f"model.options.anchors={list(sizes)}: the pyramid has {levels} maps. Give the side of the anchors of each, in "
            "pixels, such as [32, 64, 128, 256, 512]."
        )
    return sizes
