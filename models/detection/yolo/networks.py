"""The YOLO networks by name."""

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor, nn

from phalanx.models.detection.batching import padded_size
from phalanx.models.detection.yolo import anchors, shape_matching
from phalanx.models.detection.yolo.anchor_free import YoloX
from phalanx.models.detection.yolo.anchors import AnchorYolo
from phalanx.models.detection.yolo.body import V5, V8, X_DEPTHWISE, Body, X
from phalanx.models.detection.yolo.darknet import Darknet
from phalanx.models.detection.yolo.detector import Yolo
from phalanx.models.detection.yolo.distributions import YoloV8
from phalanx.models.detection.yolo.heads import AnchorHead, DecoupledHead, DistributionHead
from phalanx.models.detection.yolo.scaling import SCALES
from phalanx.models.detection.yolo.table import ANCHORS
from phalanx.models.options import BadOption, Options

CHANNELS = 32  # of v3's first convolution


def known_weights(
    name: str, targets: Sequence[Mapping[str, Any]], images: Tensor | Sequence[Tensor], own: Mapping[str, Any]
) -> dict[str, float]:
    """Of v3 and v5 all; the others' objects choose their cells by what is predicted."""
    if not name.startswith(("yolov3", "yolov5")):
        return {}
    return anchors.known_weights(targets, padded_size(images), _anchors(own))


def _anchors(own: Mapping[str, Any]) -> shape_matching.Anchors:
    """The option `anchors` as `AnchorYolo` has them."""
    flat = own.get("anchors", ANCHORS)
    if len(flat) != len(ANCHORS):
        raise BadOption(
            f"model.options.anchors: {len(flat)} numbers, but nine anchors have {len(ANCHORS)}: width and height of three "
            "a map, the finest map's first. `phalanx data CONFIG --anchors` fits some."
        )
    return shape_matching.in_maps(flat)


def build(name: str, options: Options) -> Yolo:
    """A YOLO network; `channels`, v3's own option, scales all of its channels."""
    width = options.options.get("channels", CHANNELS) / CHANNELS
    l1_from_epoch, factor = options.options.get("l1_from_epoch"), options.options.get("loss_factor", 1.0)
    return network(name, options.num_classes, options.in_channels, width, _anchors(options.options), l1_from_epoch, factor)


def network(
    name: str,
    classes: int,
    in_channels: int = 3,
    width: float = 1.0,
    shapes: shape_matching.Anchors = shape_matching.ANCHORS,
    l1_from_epoch: int | None = None,
    loss_factor: float = 1.0,
) -> Yolo:
    """A network with freshly drawn weights.

    Args:
        width: factor of the channels, of v3 alone.
        shapes: anchors, of v3 and v5 alone.
        l1_from_epoch: of X alone.
        loss_factor: of v8 alone.
    """
    body: nn.Module
    if name == "yolov3":
        body = Darknet(in_channels, width)
        return AnchorYolo(body, AnchorHead(body.channels, classes), classes, shapes)
    scale = SCALES[name]
    if name.startswith("yolov5"):
        body = Body(V5, scale, in_channels)
        return AnchorYolo(body, AnchorHead(body.channels, classes), classes, shapes)
    if name.startswith("yolox"):
        plan = X_DEPTHWISE if name == "yolox_nano" else X
        body = Body(plan, scale, in_channels)
        return YoloX(body, DecoupledHead(body.channels, classes, scale.channels(256), plan.conv), classes, l1_from_epoch)
    body = Body(V8, scale, in_channels)
    return YoloV8(body, DistributionHead(body.channels, classes), classes, loss_factor)
