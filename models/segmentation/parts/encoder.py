"""The backbone within a network for segmentation."""

from phalanx.models import registry
from phalanx.models.backbones.pyramid import Pyramid
from phalanx.models.options import BadOption, Options


def encoder(options: Options) -> Pyramid:
    """The backbone that the options name, without its head.

    Raises:
        BadOption: for what this backbone does not take.
    """
    assert options.backbone is not None
    return registry.get(options.backbone).features(
        in_channels=options.in_channels,
        image_size=options.image_size,
        output_stride=options.output_stride,
        stem=options.stem,
        drop_path=options.drop_path,
    )


def blocks_of(backbone: Pyramid) -> tuple[str, ...]:
    """The names of its blocks within a network that calls it `backbone`."""
    return tuple(f"backbone.{name}" for name in backbone.block_names)


def four_maps(backbone: Pyramid, options: Options, decoder: str) -> Pyramid:
    """The backbone.

    Raises:
        BadOption: if it has other than four maps.
    """
    if len(backbone.strides) != 4:
        raise BadOption(
            f"model.backbone={options.backbone}: it has {len(backbone.strides)} maps, and {decoder} needs four. Set another, "
            "such as model.backbone=resnet50."
        )
    return backbone


def fine_map(backbone: Pyramid, options: Options) -> int:
    """The place of the deepest map with a stride of 4.

    Raises:
        BadOption: if the backbone has none.
    """
    places = [place for place, stride in enumerate(backbone.strides) if stride == 4]
    if not places:
        raise BadOption(
            f"model.backbone={options.backbone}: its maps have strides of {', '.join(map(str, backbone.strides))}, "
            "but this decoder needs one of 4. Set another, such as model.backbone=resnet50."
        )
    return places[-1]
