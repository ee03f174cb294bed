"""The YOLO networks by name."""

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor, nn

from phalanx.models.detection.batching import padded_size
from phalanx.models.detection.yolo import anchors
from phalanx.models.detection.yolo.anchor_free import YoloX
from phalanx.models.detection.yolo.anchors import AnchorYolo
from phalanx.models.detection.yolo.body import V5, V8, Body, X
from phalanx.models.detection.yolo.darknet import Darknet
from phalanx.models.detection.yolo.detector import MULTIPLE, Yolo
from phalanx.models.detection.yolo.distributions import YoloV8
from phalanx.models.detection.yolo.heads import AnchorHead, DecoupledHead, DistributionHead
from phalanx.models.detection.yolo.scaling import SCALES
from phalanx.models.options import Options

CHANNELS = 32  # of v3's first convolution


def known_weights(name: str, targets: Sequence[Mapping[str, Any]], images: Tensor | Sequence[Tensor]) -> dict[str, float]:
    """Of v3 and v5 all; the others' objects choose their cells by what is predicted."""
    return anchors.known_weights(targets, padded_size(images, MULTIPLE)) if name.startswith(("yolov3", "yolov5")) else {}


def build(name: str, options: Options) -> Yolo:
    """A YOLO network; `channels`, v3's own option, scales all of its channels."""
    width = options.options.get("channels", CHANNELS) / CHANNELS
    return network(name, options.num_classes, options.in_channels, width)


def network(name: str, classes: int, in_channels: int = 3, width: float = 1.0) -> Yolo:
    """A network with freshly drawn weights.

    Args:
        width: factor of the channels, of v3 alone.
    """
    body: nn.Module
    if name == "yolov3":
        body = Darknet(in_channels, width)
        return AnchorYolo(body, AnchorHead(body.channels, classes), classes)
    scale = SCALES[name]
    if name.startswith("yolov5"):
        body = Body(V5, scale, in_channels)
        return AnchorYolo(body, AnchorHead(body.channels, classes), classes)
    if name.startswith("yolox"):
        body = Body(X, scale, in_channels)
        return YoloX(body, DecoupledHead(body.channels, classes, scale.channels(256)), classes)
    body = Body(V8, scale, in_channels)
    return YoloV8(body, DistributionHead(body.channels, classes), classes)
