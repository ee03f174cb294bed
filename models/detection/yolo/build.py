"""The YOLO networks by name."""

from torch import nn

from phalanx.models.detection.yolo.anchor_free import YoloX
from phalanx.models.detection.yolo.anchors import AnchorYolo
from phalanx.models.detection.yolo.body import V5, V8, Body, X
from phalanx.models.detection.yolo.darknet import Darknet
from phalanx.models.detection.yolo.detector import Yolo
from phalanx.models.detection.yolo.distributions import YoloV8
from phalanx.models.detection.yolo.heads import AnchorHead, DecoupledHead, DistributionHead
from phalanx.models.detection.yolo.scaling import SCALES


def build(name: str, classes: int, in_channels: int = 3, width: float = 1.0) -> Yolo:
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
