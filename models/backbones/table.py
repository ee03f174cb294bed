"""The backbones: figures as torchvision documents them with its weights. No torch here."""

from phalanx.models.card import Family, ModelCard

_V1, _V2 = ("IMAGENET1K_V1",), ("IMAGENET1K_V2", "IMAGENET1K_V1")
_SWAG = ("IMAGENET1K_SWAG_E2E_V1", "IMAGENET1K_SWAG_LINEAR_V1")

_FOUR, _FIVE = (4, 8, 16, 32), (2, 4, 8, 16, 32)
_HERE = "phalanx.models.backbones."
_RESIDUAL = ("stem", "dropout", "output_stride")
_RESNET = Family(_HERE + "resnet", "He et al., CVPR 2016, arXiv:1512.03385", _RESIDUAL, _FOUR)
_RESNEXT = Family(_HERE + "resnet", "Xie et al., CVPR 2017, arXiv:1611.05431", _RESIDUAL, _FOUR)
_WIDE = Family(_HERE + "resnet", "Zagoruyko and Komodakis, BMVC 2016, arXiv:1605.07146", _RESIDUAL, _FOUR)
_VGG = Family(
    _HERE + "vgg", "Simonyan and Zisserman, ICLR 2015, arXiv:1409.1556", ("dropout", "output_stride"), _FIVE, smallest=32
)
_GOOGLENET = Family(_HERE + "googlenet", "Szegedy et al., CVPR 2015, arXiv:1409.4842", ("dropout",), _FIVE, smallest=15)
_INCEPTION = Family(_HERE + "inception", "Szegedy et al., CVPR 2016, arXiv:1512.00567", ("dropout",), _FIVE, smallest=75)
_SWIN = Family(_HERE + "swin", "Liu et al., ICCV 2021, arXiv:2103.14030", ("dropout", "drop_path"), _FOUR)
_SWIN_V2 = Family(_HERE + "swin", "Liu et al., CVPR 2022, arXiv:2111.09883", ("dropout", "drop_path"), _FOUR)
_CONVNEXT = Family(
    _HERE + "convnext", "Liu et al., CVPR 2022, arXiv:2201.03545", ("dropout", "drop_path", "output_stride"), _FOUR, smallest=32
)
_VIT = Family(_HERE + "vit", "Dosovitskiy et al., ICLR 2021, arXiv:2010.11929", ("dropout",), ())

_BASIC, _BOTTLENECK = (64, 128, 256, 512), (256, 512, 1024, 2048)
_POOLED = (64, 128, 256, 512, 512)
_96, _128, _192 = (96, 192, 384, 768), (128, 256, 512, 1024), (192, 384, 768, 1536)

# How some published weights want images normalised, as torchvision documents it; the latter want pixels of 0 to 255.
_HALVES = ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
_CAFFE = ((0.48235, 0.45882, 0.40784), (1 / 255, 1 / 255, 1 / 255))

BACKBONES: dict[str, ModelCard] = {
    "resnet18": ModelCard(_RESNET, 11_689_512, 69.758, _V1, _BASIC),
    "resnet34": ModelCard(_RESNET, 21_797_672, 73.314, _V1, _BASIC),
    "resnet50": ModelCard(_RESNET, 25_557_032, 80.858, _V2, _BOTTLENECK),
    "resnet101": ModelCard(_RESNET, 44_549_160, 81.886, _V2, _BOTTLENECK),
    "resnet152": ModelCard(_RESNET, 60_192_808, 82.284, _V2, _BOTTLENECK),
    "resnext50_32x4d": ModelCard(_RESNEXT, 25_028_904, 81.198, _V2, _BOTTLENECK),
    "resnext101_32x8d": ModelCard(_RESNEXT, 88_791_336, 82.834, _V2, _BOTTLENECK),
    "resnext101_64x4d": ModelCard(_RESNEXT, 83_455_272, 83.246, _V1, _BOTTLENECK),
    "wide_resnet50_2": ModelCard(_WIDE, 68_883_240, 81.602, _V2, _BOTTLENECK),
    "wide_resnet101_2": ModelCard(_WIDE, 126_886_696, 82.510, _V2, _BOTTLENECK),
    "vgg11": ModelCard(_VGG, 132_863_336, 69.020, _V1, _POOLED),
    "vgg11_bn": ModelCard(_VGG, 132_868_840, 70.370, _V1, _POOLED),
    "vgg13": ModelCard(_VGG, 133_047_848, 69.928, _V1, _POOLED),
    "vgg13_bn": ModelCard(_VGG, 133_053_736, 71.586, _V1, _POOLED),
    "vgg16": ModelCard(
        _VGG, 138_357_544, 71.592, (*_V1, "IMAGENET1K_FEATURES"), _POOLED, image_statistics={"IMAGENET1K_FEATURES": _CAFFE}
    ),
    "vgg16_bn": ModelCard(_VGG, 138_365_992, 73.360, _V1, _POOLED),
    "vgg19": ModelCard(_VGG, 143_667_240, 72.376, _V1, _POOLED),
    "vgg19_bn": ModelCard(_VGG, 143_678_248, 74.218, _V1, _POOLED),
    # Published without its auxiliary heads, which are there while it trains.
    "googlenet": ModelCard(
        _GOOGLENET, 6_624_904, 69.778, _V1, (64, 192, 480, 832, 1024), 13_004_888, image_statistics={_V1[0]: _HALVES}
    ),
    "inception_v3": ModelCard(
        _INCEPTION, 27_161_264, 77.294, _V1, (64, 192, 288, 768, 2048), image_statistics={_V1[0]: _HALVES}
    ),
    "swin_t": ModelCard(_SWIN, 28_288_354, 81.474, _V1, _96),
    "swin_s": ModelCard(_SWIN, 49_606_258, 83.196, _V1, _96),
    "swin_b": ModelCard(_SWIN, 87_768_224, 83.582, _V1, _128),
    "swin_v2_t": ModelCard(_SWIN_V2, 28_351_570, 82.072, _V1, _96),
    "swin_v2_s": ModelCard(_SWIN_V2, 49_737_442, 83.712, _V1, _96),
    "swin_v2_b": ModelCard(_SWIN_V2, 87_930_848, 84.112, _V1, _128),
    "convnext_tiny": ModelCard(_CONVNEXT, 28_589_128, 82.520, _V1, _96),
    "convnext_small": ModelCard(_CONVNEXT, 50_223_688, 83.616, _V1, _96),
    "convnext_base": ModelCard(_CONVNEXT, 88_591_464, 84.062, _V1, _128),
    "convnext_large": ModelCard(_CONVNEXT, 197_767_336, 84.414, _V1, _192),
    # Parameters for images of 224 pixels; the weights E2E are for larger ones.
    "vit_b_16": ModelCard(_VIT, 86_567_656, 81.072, (*_V1, *_SWAG), (768,), patch=16),
    "vit_b_32": ModelCard(_VIT, 88_224_232, 75.912, _V1, (768,), patch=32),
    "vit_l_16": ModelCard(_VIT, 304_326_632, 79.662, (*_V1, *_SWAG), (1024,), patch=16),
    "vit_l_32": ModelCard(_VIT, 306_535_400, 76.972, _V1, (1024,), patch=32),
    "vit_h_14": ModelCard(_VIT, 632_045_800, 88.552, _SWAG, (1280,), patch=14),
}
