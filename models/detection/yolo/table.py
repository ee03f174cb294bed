"""The YOLO networks. No torch here."""

from phalanx.models.card import Family, ModelCard, OwnOption
from phalanx.models.detection.yolo.scaling import SCALES

_BUILD = "phalanx.models.detection.yolo.networks"
_REVIEW = "Terven et al., 2023, arXiv:2304.00501"
_V3 = Family(_BUILD, "Redmon and Farhadi, 2018, arXiv:1804.02767", ("options",), (), smallest=32)
_V5 = Family(_BUILD, f"no paper; {_REVIEW}, section 9", ("options",), (), smallest=32)
_X = Family(_BUILD, "Ge et al., 2021, arXiv:2107.08430", ("options",), (), smallest=32)
_V8 = Family(_BUILD, f"no paper; {_REVIEW}, section 12", ("options",), (), smallest=32)
_PAPER, _AUTHORS = "the paper's code", "as their authors publish them"
# Width and height in pixels, three a map, the finest first: those of v3's paper, section 2.3, which v5 has too.
ANCHORS = [10, 13, 16, 30, 33, 23, 30, 61, 62, 45, 59, 119, 116, 90, 156, 198, 373, 326]
_ANCHORS = OwnOption(
    "a list of numbers", ANCHORS, "width and height of nine anchors in pixels, three a map, the finest map's first"
)
_CHANNELS = OwnOption("a number", 32, "channels of the first convolution; all others are in proportion")

_LOSS_FACTOR = OwnOption(
    "a number", 1.0, "factor of all losses; in Ultralytics' code the number of a step's samples, such as 64"
)
_L1 = OwnOption("a number", None, "the epoch, counted from 0, from which an L1 loss of boxes is added, such as 285 of 300")

# Of 80 classes.
_PARAMS = {
    "yolov5n": 1_872_157,
    "yolov5s": 7_235_389,
    "yolov5m": 21_190_557,
    "yolov5l": 46_563_709,
    "yolov5x": 86_749_405,
    "yolox_nano": 912_159,
    "yolox_tiny": 5_055_855,
    "yolox_s": 8_968_255,
    "yolox_m": 25_326_495,
    "yolox_l": 54_208_895,
    "yolox_x": 99_071_455,
    "yolov8n": 3_157_200,
    "yolov8s": 11_166_560,
    "yolov8m": 25_902_640,
    "yolov8l": 43_691_520,
    "yolov8x": 68_229_648,
}


def _card(family: Family, params: int, source: str, own: dict[str, OwnOption] | None = None) -> ModelCard:
    return ModelCard(family, params, kind="detection", classes=80, params_source=source, own=own or {})


def _of(name: str) -> ModelCard:
    if name == "yolox_nano":
        return _card(_X, _PARAMS[name], "derived; the paper says 0.91 million", {"l1_from_epoch": _L1})
    if name.startswith("yolox"):
        return _card(_X, _PARAMS[name], _PAPER, {"l1_from_epoch": _L1})
    if name.startswith("yolov5"):
        return _card(_V5, _PARAMS[name], _AUTHORS, {"anchors": _ANCHORS})
    return _card(_V8, _PARAMS[name], _AUTHORS, {"loss_factor": _LOSS_FACTOR})


YOLO: dict[str, ModelCard] = {
    "yolov3": _card(_V3, 61_949_149, _PAPER, {"channels": _CHANNELS, "anchors": _ANCHORS}),
    **{name: _of(name) for name in SCALES},
}
