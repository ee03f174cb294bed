"""A trained network for Python: with its classes, its preprocessing, and predictions on images from anywhere."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypeAlias

import numpy
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor, nn

from phalanx.configs.errors import UserError
from phalanx.configs.schema import RunConfig
from phalanx.data.images.modes import in_mode
from phalanx.train.evaluation.described_file import described
from phalanx.train.evaluation.predict import Predictor, predictor, refuse_images
from phalanx.train.setup.recorded import Recorded

Array: TypeAlias = NDArray[Any]
AnImage: TypeAlias = str | Path | Image.Image | Tensor | Array


def loaded(config: RunConfig, checkpoint: Path, described: Recorded | None = None) -> nn.Module:
    """As `phalanx.load`, from a run's checkpoint or a file of weights."""
    asked = predictor(config, checkpoint, described)
    network: Any = asked.network
    network.classes = asked.classes

    def preprocess(image: AnImage) -> Tensor:
        refuse_images(config, asked.task, asked.channels)
        sample: Tensor = _sample(asked, image, 0)["image"]
        return sample

    def predict(images: AnImage | Sequence[AnImage]) -> Any:
        refuse_images(config, asked.task, asked.channels)
        return _predict(asked, images)

    network.preprocess, network.predict = preprocess, predict
    found: nn.Module = network
    return found


def loaded_file(file: Path) -> nn.Module:
    """As `phalanx.load`, from a file of `phalanx checkpoint consolidate` or `phalanx export`.

    Raises:
        UserError: if it is not described, or by an older version.
    """
    config, data = described(file)
    return loaded(config, file, data)


def _predict(asked: Predictor, images: AnImage | Sequence[AnImage]) -> Any:
    """The prediction of one image, or a list of those of several."""
    several = images if isinstance(images, list | tuple) else [images]
    found: list[dict[str, Any]] = []
    for start in range(0, len(several), asked.batch):
        samples = [_sample(asked, image, number) for number, image in enumerate(several[start : start + asked.batch])]
        with torch.inference_mode():
            found += asked.ask(samples)
    return found if isinstance(images, list | tuple) else found[0]


def _sample(asked: Predictor, image: AnImage, number: int) -> dict[str, Any]:
    if isinstance(image, str | Path):
        return asked.prepared(Path(image), number)
    tensor = _tensor(image, asked.channels)
    return asked.transformed(tensor if asked.mode == "bands" else in_mode(tensor, asked.mode), number)


def _tensor(image: Image.Image | Tensor | Array, channels: int) -> Tensor:
    """An image as [C, H, W], with integers over their whole range or floating point numbers from 0 to 1.

    Raises:
        UserError: for another shape.
    """
    if isinstance(image, Image.Image):
        image = numpy.asarray(image.convert("RGB") if image.mode in ("P", "CMYK", "YCbCr", "HSV", "LAB") else image)
    if isinstance(image, numpy.ndarray):
        tensor = torch.from_numpy(numpy.array(image))
        tensor = tensor.unsqueeze(0) if tensor.dim() == 2 else tensor.permute(2, 0, 1) if tensor.dim() == 3 else tensor
    else:
        tensor = image
    if tensor.dim() != 3 or len(tensor) not in (1, 2, 3, 4, channels):
        raise UserError(
            f"an image of shape {list(image.shape)}: give [H, W] or [H, W, C] as an array, or [C, H, W] as a tensor."
        )
    return tensor
