"""A network by its name: what is known of it, what it can be asked for, and how it is built. torch is imported when it is."""

import difflib
import importlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import TYPE_CHECKING, Any

from phalanx.models import own_network, smp_networks, timm_networks
from phalanx.models.backbones.table import BACKBONES
from phalanx.models.card import Family, ModelCard, Statistics
from phalanx.models.options import OPTIONAL, BadOption, Options, square

if TYPE_CHECKING:
    from torch import Tensor, nn

    from phalanx.models.backbones.pyramid import Pyramid

_IMAGENET: Statistics = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
_TIMM = ModelCard(Family(timm_networks.__name__, "timm", OPTIONAL, ()), params=0, params_source="timm", weights=("timm",))
_SMP_FAMILY = Family(smp_networks.__name__, "segmentation_models.pytorch", (), ())
_SMP = ModelCard(_SMP_FAMILY, params=0, params_source="segmentation_models.pytorch", kind="segmentation")
_OWN = ModelCard(Family(own_network.__name__, "your own", OPTIONAL, ()), params=0, params_source="", kind="own")


class UnknownModel(ValueError):
    """There is no network of that name; the message lists the nearest."""


class UnknownBackbone(BadOption):
    """There is no backbone of that name; the message lists the nearest."""


def is_pretrained(weights: str | None) -> bool:
    """Whether `model.weights` means weights that a library publishes, rather than a file."""
    return weights is not None and (weights in ("torchvision", "timm") or weights.startswith("torchvision/"))


@dataclass(frozen=True)
class ModelSpec(ModelCard):
    """One network, under the name that recipes have for it; `phalanx.models.registry.get` gives it."""

    name: str = ""

    @classmethod
    def of(cls, name: str, card: ModelCard) -> "ModelSpec":
        """A network of a table."""
        return cls(**{each.name: getattr(card, each.name) for each in fields(card)}, name=name)

    @classmethod
    def of_timm(cls, name: str) -> "ModelSpec":
        """`timm/NAME`, whether timm has such a network or not; its number of parameters is not known before it is built."""
        return cls.of(name, _TIMM)

    @classmethod
    def of_smp(cls, name: str) -> "ModelSpec":
        """`smp/NAME`, whether segmentation_models.pytorch has such a network or not."""
        return cls.of(name, _SMP)

    @classmethod
    def of_own(cls, name: str) -> "ModelSpec":
        """A user's own network. Nothing of it is known before it is built, and nothing is checked."""
        return cls.of(name, _OWN)

    @property
    def is_own(self) -> bool:
        return own_network.is_one(self.name)

    @property
    def is_smp(self) -> bool:
        return smp_networks.is_one(self.name)

    @property
    def is_unknown(self) -> bool:
        """Whether nothing is known of its modules before a first forward."""
        return self.is_own or self.is_smp

    @property
    def is_timm(self) -> bool:
        return timm_networks.is_one(self.name)

    # -- building it ----------------------------------------------------------------------------------------------------

    def build(self, **options: Any) -> "nn.Module":
        """The network with freshly initialised weights, drawn from torch's global generator.

        It has the attribute `block_names`: the modules that FSDP2 gathers one at a time. One with auxiliary heads gives, while
        it trains, a dictionary of logits (`out`, `aux1`, ...), and has `auxiliary_weight`.

        Shape: [B, in_channels, H, W] to [B, num_classes], for segmentation to [B, num_classes, H, W]; for detection see
            `phalanx.models.detection.rcnn.RegionNetwork`.

        Args:
            options: `num_classes`, `in_channels`, `image_size`, `stem`, `dropout`, `drop_path`, `output_stride`, `backbone`,
                `options`, as `phalanx.models.options.Options` has them.

        Raises:
            UnknownModel: if timm has no such network.
            BadOption: naming the key of the recipe.
        """
        self.check(**options)
        network: nn.Module = self._call("build", self._filled_in(_options({"num_classes": self.classes, **options})))
        return network

    def features(self, **options: Any) -> "Pyramid":
        """The network without its head: maps of features, fine to coarse, with `channels` and `strides`.

        Its parameters have the names that they have in the classification network.

        Args:
            options: as for `build`, but for those of the head.

        Raises:
            UnknownModel: if it is not a backbone, or timm has no such network.
            BadOption: naming the key of the recipe.
        """
        self.check(**options)
        if self.kind != "backbone" and not self.is_own:
            raise UnknownModel(f"{self.name} is not a backbone. `phalanx models --kind backbone` lists the backbones.")
        pyramid: Pyramid = self._call("pyramid", _options(options), self.channels)
        return pyramid

    def _call(self, function: str, *arguments: Any) -> Any:
        try:
            return getattr(importlib.import_module(self.module), function)(self.name, *arguments)
        except timm_networks.NoSuchNetwork as error:
            raise UnknownModel(str(error)) from None

    # -- what it can be asked for ---------------------------------------------------------------------------------------

    def check(self, **options: Any) -> None:
        """Whether the network takes these options. Nothing is imported.

        Args:
            options: as `build` takes them.

        Raises:
            BadOption: naming the key of the recipe.
        """
        if self.is_timm or self.is_unknown:
            return  # checked when they are built: only then is it known what they take
        wanted = _options(options)
        self._check_options(wanted)
        self._check_own_options(wanted)
        backbone = self._filled_in(wanted).backbone
        if backbone is not None:
            self._check_backbone(backbone, wanted)

    def _check_options(self, options: Options) -> None:
        for key, value in options.asked.items():
            if key == "backbone" and key not in self.takes:
                raise BadOption(f"model.backbone={value}: {self.name} takes no backbone. Remove the key.")
            if key not in self.takes:
                takes = ", ".join(f"model.{each}" for each in OPTIONAL if each in self.takes)
                raise BadOption(f"model.{key}={value}: {self.name} has no such option; it takes {takes}. Remove the key.")
        own = self.strides[-1] // (4 if options.stem == "small" else 1) if self.strides else None
        if options.output_stride is not None and own is not None and options.output_stride > own:
            stride = f"model.output_stride={options.output_stride}"
            raise BadOption(f"{stride}: {self.name} has a stride of {own} with this stem. Remove the key.")
        if options.image_size is None:
            return
        height, width = options.image_size
        if height % self.patch or width % self.patch:
            near = [max(1, round(side / self.patch)) * self.patch for side in (height, width)]
            raise BadOption(
                f"data.image_size={_shown(height, width)}: {self.name} cuts images into patches of {self.patch} x {self.patch} "
                f"pixels. Set data.image_size={_shown(*near)}."
            )
        if min(height, width) < self.smallest:
            raise BadOption(
                f"data.image_size={_shown(height, width)}: {self.name} leaves nothing of images below {self.smallest} x "
                f"{self.smallest} pixels. Set data.image_size={self.smallest} or more."
            )

    def _check_own_options(self, options: Options) -> None:
        for key, value in options.options.items():
            if key not in self.own:
                takes = ", ".join(self.own)
                raise BadOption(f"model.options.{key}: {self.name} has no such option; it takes {takes}. Remove it.")
            if not self.own[key].takes(value):
                raise BadOption(f"model.options.{key}={value}: this is not {self.own[key].kind}: {self.own[key].meaning}.")

    def _check_backbone(self, backbone: str, options: Options) -> None:
        if self.backbones and backbone not in self.backbones:
            allowed = ", ".join(self.backbones)
            raise BadOption(f"model.backbone={backbone}: {self.name} has one of {allowed}. Set one of them, or remove the key.")
        if own_network.is_one(backbone):
            return
        if timm_networks.is_one(backbone):
            refuse_without_timm(backbone)
            return
        if backbone not in BACKBONES:
            near = difflib.get_close_matches(backbone, BACKBONES, n=3, cutoff=0.7)
            hint = f"Did you mean {' or '.join(near)}?" if near else "`phalanx models --kind backbone` lists all."
            raise UnknownBackbone(f"model.backbone={backbone}: there is no backbone {backbone!r}. {hint}")
        own = ModelSpec.of(backbone, BACKBONES[backbone])
        own.check(
            image_size=options.image_size, output_stride=options.output_stride, stem=options.stem, drop_path=options.drop_path
        )

    def _filled_in(self, options: Options) -> Options:
        """With the network's own backbone, its stride if the backbone supports it, and all of its own options."""
        if self.is_timm or self.is_unknown:
            return options
        backbone, stride = options.backbone or self.backbone, options.output_stride
        if stride is None and backbone in BACKBONES and "output_stride" in BACKBONES[backbone].takes:
            stride = self.output_stride
        own = {key: option.default for key, option in self.own.items()} | dict(options.options)
        return replace(options, backbone=backbone, output_stride=stride, options=own)

    # -- what others need to know of it ---------------------------------------------------------------------------------

    def backbone_name(self, given: str | None) -> str | None:
        """The name of its backbone: the given one, else the network's own; None where it has none."""
        return self.backbone if given is None else given

    def has_frozen_batchnorm(self, options: Mapping[str, Any]) -> bool:
        """Whether its backbone has frozen BatchNorm, by its own options or by default."""
        return "norm" in self.own and options.get("norm", self.own["norm"].default) == "frozen"

    def known_weights(
        self,
        targets: "Sequence[Mapping[str, Any]]",
        images: "Tensor | Sequence[Tensor]",
        own: Mapping[str, Any] | None = None,
    ) -> dict[str, float]:
        """What the losses of a network for detection will be divided by, as far as predictions do not decide it.

        Args:
            targets: of each image `boxes` and `labels`, on the CPU.
            images: [B, C, H, W], or B of [C, h, w], of which only the sizes count.
            own: the network's own options, `model.options`.
        """
        found: dict[str, float] = importlib.import_module(self.module).known_weights(self.name, targets, images, own or {})
        return found

    # -- published weights ----------------------------------------------------------------------------------------------

    def weights_version(self, weights: str) -> str:
        """The version of weights that a library publishes for this network; nothing is imported.

        Args:
            weights: `torchvision`, `torchvision/VERSION`, or `timm`.

        Returns:
            Their version, empty for timm's.

        Raises:
            BadOption: with those that there are.
        """
        if self.is_timm or weights == "timm":
            if not (self.is_timm and weights == "timm"):
                library = "timm" if self.is_timm else "torchvision"
                raise BadOption(
                    f"model.weights={weights}: {self.name} is not a network of that library. Set model.weights={library}."
                )
            return ""
        version = weights.partition("/")[2]
        if self.is_own:
            raise BadOption(
                f"model.weights={weights}: nobody publishes weights of {self.name}. Remove the key, or name a file."
            )
        if self.is_smp:
            raise BadOption(
                f"model.weights={weights}: {self.name} takes weights of its encoder by model.options.encoder_weights. "
                "Set that, or name a file."
            )
        if not self.weights:
            raise BadOption(
                f"model.weights={weights}: torchvision publishes no weights of {self.name}. Remove the key, or name a file."
            )
        if not version:
            return self.weights[0]
        if version not in self.weights:
            there = ", ".join(self.weights)
            raise BadOption(f"model.weights={weights}: torchvision has no such weights of {self.name}. There are: {there}.")
        return version

    def statistics(self, weights: str | None, channels: int = 3) -> Statistics | None:
        """Mean and standard deviation of each channel, for pixels of 0 to 1, that published weights expect.

        Args:
            channels: of the image. For one channel it is the mean over the three; for other numbers there are none.

        Returns:
            None for weights of one's own, or none.

        Raises:
            BadOption: if there are no such weights.
        """
        if weights is None or not is_pretrained(weights) or channels not in (1, 3):
            return None
        version = self.weights_version(weights)
        found = timm_networks.statistics(self.name) if self.is_timm else self.image_statistics.get(version, _IMAGENET)
        if channels == 3:
            return found
        mean, deviation = (sum(values) / 3 for values in found)
        return (mean,), (deviation,)

    def published_eps(self, weights: str | None) -> float | None:
        """What frozen BatchNorm adds to variances where a network starts from published weights; None: what it always does.

        Raises:
            BadOption: if there are no such weights.
        """
        if weights is None or not is_pretrained(weights):
            return None
        return self.frozen_eps.get(self.weights_version(weights))


def refuse_without_timm(name: str) -> None:
    """
    Raises:
        UnknownModel: if timm is not installed.
    """
    if not timm_networks.is_installed():
        raise UnknownModel(f"{name!r} needs the package timm. Install it: pip install timm.")


def refuse_without_smp(name: str) -> None:
    """
    Raises:
        UnknownModel: if segmentation_models.pytorch is not installed.
    """
    if not smp_networks.is_installed():
        package = "segmentation-models-pytorch"
        raise UnknownModel(f"{name!r} needs the package {package}. Install it: pip install {package}.")


def _options(given: dict[str, Any]) -> Options:
    return Options(**{**given, "image_size": square(given.get("image_size"))})


def _shown(height: int, width: int) -> str:
    return str(height) if height == width else f"[{height}, {width}]"
