"""Which runs there are: every family of networks, narrow and on small images, in every precision and memory format."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import product

STEPS, SIDE = 3, 64  # pixels
TARGETS = {"classification": "class", "segmentation": "mask", "detection": "boxes", "instance": "boxes"}
# Two micro-batches of two images a step.
RECIPE = [
    "seed=1", "name=run", "data.name=shapes", "data.workers=0", f"data.image_size={SIDE}", "dist.device=cuda",
    "optim.name=sgd", "optim.lr=0.01", "optim.momentum=0.9",
    f"train.steps={STEPS}", "train.global_batch=4", "train.micro_batch=2",
]  # fmt: skip
_FUNCTIONS = {"vgg11": "vgg", "vit_b_32": "vit", "swin_t": "swin", "convnext_tiny": "convnext"}
PRECISIONS = ("fp32", "bf16", "fp16")
FORMATS = ("contiguous", "channels_last")


@dataclass(frozen=True)
class Network:
    """A network as a recipe names it.

    Attributes:
        task: `task.name`.
        overrides: further keys of the recipe.
    """

    task: str
    overrides: tuple[str, ...]


@dataclass(frozen=True)
class Case:
    """A run."""

    network: str
    precision: str
    format: str

    def __str__(self) -> str:
        return f"{self.network} {self.precision} {self.format}"

    @property
    def overrides(self) -> list[str]:
        """Keys of the recipe that are this case's."""
        channels_last = str(self.format == "channels_last").lower()
        keys = [f"dist.precision={self.precision}", f"dist.channels_last={channels_last}"]
        return [*NETWORKS[self.network].overrides, *keys]


# Networks of tests by the names of those of recipes: the same operations on a hundredth of the numbers.
_NARROW_NETWORKS = {
    "model.name=resnet18": "model.name=./resnet18.py:Narrow",
    "model.backbone=resnet18": "model.backbone=./resnet18.py:Backbone",
    **{f"model.name={name}": f"model.name=./backbones.py:{function}" for name, function in _FUNCTIONS.items()},
}


def narrow(overrides: Sequence[str]) -> list[str]:
    """Keys of a recipe with a narrow network, found where PHALANX_OWN_CODE is benchmarks/support/narrow."""
    return [_NARROW_NETWORKS.get(each, each) for each in overrides]


def recipe(task: str, images: int) -> list[str]:
    """`RECIPE` with a task, and with `images` to evaluate."""
    options = f"data.options={{target: {TARGETS[task]}, size: {SIDE}, train: 12, val: {images}}}"
    return [*RECIPE, f"task.name={task}", options]


def _model(task: str, name: str, backbone: str | None = None, options: str | None = None, *more: str) -> Network:
    given = [f"model.name={name}"]
    given += [] if backbone is None else [f"model.backbone={backbone}"]
    given += [] if options is None else [f"model.options={options}"]
    return Network(task, (*given, *more))


_NO_STATE = ("optim.momentum=0",)  # of those with a hundred million parameters
_NARROW = "{anchors: [8, 16, 24, 32, 48], samples: 16, hidden: 64}"
_NARROW_MASKS = "{anchors: [8, 16, 24, 32, 48], samples: 16, hidden: 64, mask_channels: [32]}"

NETWORKS: Mapping[str, Network] = {
    "resnet": _model("classification", "resnet18"),
    "vgg": _model("classification", "vgg11", None, None, *_NO_STATE),
    "googlenet": _model("classification", "googlenet"),
    "swin": _model("classification", "swin_t"),
    "convnext": _model("classification", "convnext_tiny"),
    "vit": _model("classification", "vit_b_32", None, None, *_NO_STATE),
    "fcn32s": _model("segmentation", "fcn32s", "vgg11", "{hidden: 64}"),
    "fcn16s": _model("segmentation", "fcn16s", "vgg11", "{hidden: 64}"),
    "fcn8s": _model("segmentation", "fcn8s", "vgg11", "{hidden: 64}"),
    "fcn": _model("segmentation", "fcn", "resnet18"),
    "segnet": _model("segmentation", "segnet", "vgg11_bn"),
    "unet": _model("segmentation", "unet", None, "{width: 8, batch_norm: true}"),
    "unetpp": _model("segmentation", "unetpp", None, "{width: 8, deep_supervision: true}"),
    "attention_unet": _model("segmentation", "attention_unet", None, "{width: 8}"),
    "pspnet": _model("segmentation", "pspnet", "resnet18"),
    "deeplabv1": _model("segmentation", "deeplabv1", "vgg11", "{multi_scale: true}"),
    "deeplabv2": _model("segmentation", "deeplabv2", "resnet18"),
    "deeplabv3": _model("segmentation", "deeplabv3", "resnet18"),
    "deeplabv3plus": _model("segmentation", "deeplabv3plus", "resnet18"),
    "retinanet": _model("detection", "retinanet", "resnet18", "{anchors: [8, 16, 24, 32, 48]}"),
    "fcos": _model("detection", "fcos", "resnet18"),
    "faster_rcnn": _model("detection", "faster_rcnn", "resnet18", _NARROW),
    "mask_rcnn": _model("instance", "mask_rcnn", "resnet18", _NARROW_MASKS),
    "yolov3": _model("detection", "yolov3", None, "{channels: 8}"),
    "yolov5": _model("detection", "yolov5n"),
    "yolox": _model("detection", "yolox_nano"),
    "yolov8": _model("detection", "yolov8n"),
    "upernet": _model("segmentation", "upernet", "resnet18", "{hidden: 32}"),
    "semantic_fpn": _model("segmentation", "semantic_fpn", "resnet18"),
    "segformer_head": _model("segmentation", "segformer_head", "resnet18", "{hidden: 32}"),
}

ALL = [Case(*of) for of in product(NETWORKS, PRECISIONS, FORMATS)]

_PAIRS = list(product(PRECISIONS, FORMATS))
# Every network once, and in each task every precision with every format as far as its networks go.
CHOSEN = [Case(network, *_PAIRS[number % len(_PAIRS)]) for number, network in enumerate(NETWORKS)]


def named(name: str) -> Case:
    """The case that `str` gives this name."""
    return next(case for case in ALL if str(case) == name)
