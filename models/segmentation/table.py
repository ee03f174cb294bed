"""The networks for segmentation. No torch here."""

from typing import Any

from phalanx.models.backbones.table import BACKBONES
from phalanx.models.card import Family, ModelCard, OwnOption

_HERE = "phalanx.models.segmentation."
_LONG = "Long et al., CVPR 2015, arXiv:1411.4038"
_FCN_VGG = Family(_HERE + "fcn_vgg", _LONG, ("dropout", "backbone", "options"), ())
_FCN = Family(_HERE + "fcn", _LONG, ("stem", "dropout", "output_stride", "backbone", "options"), ())
_FCN_RESNET = Family(_HERE + "fcn", _LONG, ("dropout", "output_stride", "options"), ())
_SEGNET = Family(_HERE + "segnet", "Badrinarayanan et al., TPAMI 2017, arXiv:1511.00561", ("backbone",), ())
_RONNEBERGER = "Ronneberger et al., MICCAI 2015, arXiv:1505.04597"
_UNET = Family(_HERE + "unet", _RONNEBERGER, ("stem", "dropout", "output_stride", "backbone", "options"), ())
_UNETPP = Family(_HERE + "unetpp", "Zhou et al., DLMIA 2018, arXiv:1807.10165", ("dropout", "options"), ())
_ATTENTION_UNET = Family(_HERE + "attention_unet", "Oktay et al., MIDL 2018, arXiv:1804.03999", ("dropout", "options"), ())
_ANY = ("stem", "dropout", "output_stride", "backbone", "options")
_PSPNET = Family(_HERE + "pspnet", "Zhao et al., CVPR 2017, arXiv:1612.01105", _ANY, ())
_DEEPLABV1 = Family(_HERE + "deeplabv1", "Chen et al., ICLR 2015, arXiv:1412.7062", _ANY, ())
_DEEPLABV2 = Family(_HERE + "deeplabv2", "Chen et al., TPAMI 2018, arXiv:1606.00915", _ANY, ())
_CHEN_2017 = "Chen et al., 2017, arXiv:1706.05587"
_DEEPLABV3 = Family(_HERE + "deeplabv3", _CHEN_2017, _ANY, ())
_DEEPLABV3_RESNET = Family(_HERE + "deeplabv3", _CHEN_2017, ("dropout", "output_stride", "options"), ())
_WITH_PATHS = ("drop_path", *_ANY)
_UPERNET = Family(_HERE + "upernet", "Xiao et al., ECCV 2018, arXiv:1807.10221", _WITH_PATHS, ())
_SEMANTIC_FPN = Family(_HERE + "semantic_fpn", "Kirillov et al., CVPR 2019, arXiv:1901.02446", _WITH_PATHS[:-1], ())
_SEGFORMER = Family(_HERE + "segformer_head", "Xie et al., NeurIPS 2021, arXiv:2105.15203", _WITH_PATHS, ())
_DEEPLABV3PLUS = Family(_HERE + "deeplabv3plus", "Chen et al., ECCV 2018, arXiv:1802.02611", _ANY, ())

_VGG = tuple(name for name in BACKBONES if name.startswith("vgg"))
_COCO = ("COCO_WITH_VOC_LABELS_V1",)

_AUXILIARY = OwnOption("true or false", True, "an auxiliary head while training")
_BATCH_NORM = OwnOption("true or false", False, "BatchNorm after each 3x3 convolution")
_MULTI_GRID = OwnOption("a list of numbers", None, "factors of the dilations of a ResNet's last blocks, such as [1, 2, 4]")
_FCN_VGG_OWN = {"hidden": OwnOption("a number", 4096, "channels of the two large convolutions")}
_FIRST_WEIGHTS = {"mmsegmentation": OwnOption("true or false", False, "the head's first weights as in mmsegmentation")}
_FCN_OWN = {"auxiliary": _AUXILIARY}
_DEEPLABV3_OWN = {"auxiliary": _AUXILIARY, "multi_grid": _MULTI_GRID}


def _width(channels: int) -> OwnOption:
    return OwnOption("a number", channels, "channels of the first level, doubled at each below")


def _multi_scale(meaning: str) -> OwnOption:
    return OwnOption("true or false", False, meaning)


def _card(family: Family, params: int, params_source: str = "derived", **more: Any) -> ModelCard:
    """Parameters are those for 21 classes."""
    return ModelCard(family, params, kind="segmentation", classes=21, params_source=params_source, **more)


SEGMENTATION: dict[str, ModelCard] = {
    "fcn32s": _card(_FCN_VGG, 134_346_581, "the paper's 134M", backbone="vgg16", backbones=_VGG, own=_FCN_VGG_OWN),
    "fcn16s": _card(_FCN_VGG, 134_364_410, backbone="vgg16", backbones=_VGG, own=_FCN_VGG_OWN),
    "fcn8s": _card(_FCN_VGG, 134_376_863, backbone="vgg16", backbones=_VGG, own=_FCN_VGG_OWN),
    "fcn": _card(_FCN, 35_322_218, "torchvision", backbone="resnet50", output_stride=8, own=_FCN_OWN),
    "fcn_resnet50": _card(
        _FCN_RESNET, 35_322_218, "torchvision", score=60.5, weights=_COCO, backbone="resnet50", output_stride=8, own=_FCN_OWN
    ),
    "fcn_resnet101": _card(
        _FCN_RESNET, 54_314_346, "torchvision", score=63.7, weights=_COCO, backbone="resnet101", output_stride=8, own=_FCN_OWN
    ),
    "segnet": _card(_SEGNET, 29_451_413, backbone="vgg16_bn", backbones=_VGG),
    "unet": _card(_UNET, 31_033_045, own={"width": _width(64), "batch_norm": _BATCH_NORM}),
    "unetpp": _card(
        _UNETPP,
        9_042_837,
        "the paper's 9.04M",
        own={
            "width": _width(32),
            "batch_norm": _BATCH_NORM,
            "deep_supervision": OwnOption("true or false", False, "a head and a loss on each of the four finest nodes"),
        },
    ),
    "attention_unet": _card(
        _ATTENTION_UNET,
        33_450_968,
        own={"width": _width(64), "batch_norm": OwnOption("true or false", True, "BatchNorm after each 3x3 convolution")},
    ),
    "pspnet": _card(_PSPNET, 48_957_802, backbone="resnet50", output_stride=8, own=_FCN_OWN | _FIRST_WEIGHTS),
    "deeplabv1": _card(
        _DEEPLABV1,
        20_505_429,
        "the paper's 20.5M",
        backbone="vgg16",
        backbones=_VGG,
        output_stride=8,
        own={"multi_scale": _multi_scale("features of the image and of the first four poolings beside the last")},
    ),
    "deeplabv2": _card(
        _DEEPLABV2,
        44_048_532,
        backbone="resnet101",
        output_stride=8,
        own={"multi_scale": _multi_scale("the image at 0.5, 0.75 and 1 times its size, and the largest score")},
    ),
    "deeplabv3": _card(_DEEPLABV3, 42_004_074, "torchvision", backbone="resnet50", output_stride=8, own=_DEEPLABV3_OWN),
    "deeplabv3_resnet50": _card(
        _DEEPLABV3_RESNET,
        42_004_074,
        "torchvision",
        score=66.4,
        weights=_COCO,
        backbone="resnet50",
        output_stride=8,
        own=_DEEPLABV3_OWN,
    ),
    "deeplabv3_resnet101": _card(
        _DEEPLABV3_RESNET,
        60_996_202,
        "torchvision",
        score=67.4,
        weights=_COCO,
        backbone="resnet101",
        output_stride=8,
        own=_DEEPLABV3_OWN,
    ),
    "deeplabv3plus": _card(
        _DEEPLABV3PLUS,
        26_682_725,
        backbone="resnet50",
        output_stride=16,
        own={
            "separable": OwnOption("true or false", True, "depthwise separable convolutions in pyramid and decoder"),
            "auxiliary": OwnOption("true or false", False, "an auxiliary head while training"),
            "norm_between": OwnOption(
                "true or false", False, "separable: BatchNorm and ReLU between a depthwise convolution and its 1x1 too"
            ),
            "mmsegmentation": OwnOption(
                "true or false",
                False,
                "512 channels, 3x3 after the pyramid, dropout before the classifier, and first weights as in mmsegmentation",
            ),
        },
    ),
    "upernet": _card(
        _UPERNET,
        59_841_188,
        backbone="swin_t",
        own={
            "auxiliary": _AUXILIARY,
            "hidden": OwnOption("a number", 512, "channels of the feature pyramid"),
            "norm_maps": OwnOption("true or false", False, "a new LayerNorm of each map, as in mmsegmentation"),
            **_FIRST_WEIGHTS,
        },
    ),
    "semantic_fpn": _card(_SEMANTIC_FPN, 28_478_933, backbone="resnet50"),
    "segformer_head": _card(
        _SEGFORMER, 28_157_071, backbone="swin_t", own={"hidden": OwnOption("a number", 256, "channels of the decoder")}
    ),
}
