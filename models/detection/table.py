"""The networks for detection. No torch here."""

from typing import Any

from phalanx.models.card import Family, ModelCard, OwnOption

_HERE = "phalanx.models.detection."
_FASTER = "Ren et al., NeurIPS 2015, arXiv:1506.01497"
_MASK = "He et al., ICCV 2017, arXiv:1703.06870"
_IMPROVED = "Li et al., 2021, arXiv:2111.11429"
_RETINA = "Lin et al., ICCV 2017, arXiv:1708.02002"
_FCOS = "Tian et al., ICCV 2019, arXiv:1904.01355"
_RCNN, _DENSE = _HERE + "rcnn", _HERE + "dense"
_COCO = ("COCO_V1",)
# Frozen BatchNorm of torchvision's first weights had no eps when they were trained.
_WITHOUT_EPS = {"COCO_V1": 0.0}


def _norm(default: str) -> OwnOption:
    meaning = "batch: the backbone's BatchNorm is trained; frozen: it is constant, for a backbone with weights"
    return OwnOption("a word", default, meaning, ("batch", "frozen"))


_ANCHORS = {
    "anchors": OwnOption(
        "a list of numbers", [32, 64, 128, 256, 512], "side in pixels of the anchors of each map, fine to coarse"
    )
}

_SAMPLES = {"samples": OwnOption("a number", 512, "proposals of an image that are learnt")}
# Not of torchvision's, whose weights would not fit.
_HIDDEN = {"hidden": OwnOption("a number", 1024, "channels of the two layers that look at a proposal")}
_MASK_CHANNELS = {
    "mask_channels": OwnOption("a list of numbers", [256, 256, 256, 256], "channels of the layers that look at its mask")
}


def _card(module: str, paper: str, params: int, norm: str, **more: Any) -> ModelCard:
    """One on any backbone. Parameters are those for 91 classes, the background among them."""
    own = {"norm": _norm(norm)} | ({} if paper == _FCOS else _ANCHORS) | (_SAMPLES if module == _RCNN else {})
    if module == _RCNN and "weights" not in more:
        own |= _HIDDEN | (_MASK_CHANNELS if "masks" in more else {})
    given: dict[str, Any] = {"params_source": "derived", "own": own} | more
    takes = ("options",) if "weights" in given else ("drop_path", "backbone", "options")
    family = Family(module, paper, takes, ())
    return ModelCard(family, params, kind="detection", classes=91, backbone="resnet50", background=True, **given)


def _published(module: str, paper: str, params: int, norm: str, score: float, **more: Any) -> ModelCard:
    """torchvision's own, on a ResNet-50."""
    return _card(module, paper, params, norm, params_source="torchvision", score=score, weights=_COCO, **more)


DETECTION: dict[str, ModelCard] = {
    "faster_rcnn": _card(_RCNN, _FASTER, 41_808_406, "batch"),
    "fasterrcnn_resnet50_fpn": _published(_RCNN, _FASTER, 41_755_286, "frozen", 37.0, frozen_eps=_WITHOUT_EPS),
    "fasterrcnn_resnet50_fpn_v2": _published(_RCNN, _IMPROVED, 43_712_278, "batch", 46.7),
    "mask_rcnn": _card(_RCNN, _MASK, 44_454_513, "batch", masks=True),
    "maskrcnn_resnet50_fpn": _published(_RCNN, _MASK, 44_401_393, "frozen", 37.9, frozen_eps=_WITHOUT_EPS, masks=True),
    "maskrcnn_resnet50_fpn_v2": _published(_RCNN, _IMPROVED, 46_359_409, "batch", 47.4, masks=True),
    "retinanet": _card(_DENSE, _RETINA, 34_068_119, "batch"),
    "retinanet_resnet50_fpn": _published(_DENSE, _RETINA, 34_014_999, "frozen", 36.4, frozen_eps=_WITHOUT_EPS),
    "fcos": _card(_DENSE, _FCOS, 32_322_720, "batch"),
    "fcos_resnet50_fpn": _published(_DENSE, _FCOS, 32_269_600, "frozen", 39.2),
}
