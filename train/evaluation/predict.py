"""Predictions on a user's images, as JSON and pictures, by one process, from a checkpoint of any strategy."""

import glob
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol, runtime_checkable

import torch
from PIL import Image
from torch import Tensor, nn
from torchvision.transforms.v2 import functional as F

from phalanx.configs.errors import UserError
from phalanx.configs.own_code import is_own
from phalanx.configs.schema import RunConfig
from phalanx.data.bad_sample import Unreadable, unreadable
from phalanx.data.files.walking import files_below
from phalanx.data.images.decoding import read_image
from phalanx.data.images.image_formats import is_image_name
from phalanx.data.images.modes import CHANNELS, Mode
from phalanx.data.loading.loader import collate
from phalanx.data.open import open_split
from phalanx.data.transforms.pipeline import Pipeline, pipeline
from phalanx.dist.comm.device_choice import choose_device
from phalanx.dist.precision import weights_dtype
from phalanx.dist.processes.environment import Ranks
from phalanx.dist.processes.threads import choose_threads
from phalanx.dist.storage.durable_files import write_json
from phalanx.dist.storage.run_directory import RunDirectory
from phalanx.train import tasks
from phalanx.train.evaluation.trained import trained
from phalanx.train.setup import build
from phalanx.train.setup.recorded import Recorded, recorded
from phalanx.train.tasks import Predicts, Writes

FILE = "predictions.json"
_MODES: dict[int, Mode] = {count: mode for mode, count in CHANNELS.items()}  # type: ignore[misc]


@runtime_checkable
class Fuses(Protocol):
    """A network that can be made faster for inference."""

    def fuse(self) -> nn.Module:
        """Folds normalisation into the preceding convolutions, in place; predictions differ by rounding only."""
        ...


@dataclass(frozen=True)
class Predictor:
    """A trained network with its preprocessing of image files."""

    task: Any  # one that `Predicts`, if `refuse_images` lets it pass
    network: nn.Module
    pipeline: Pipeline
    channels: int
    batch: int
    device: torch.device
    dtype: torch.dtype
    max_pixels: int
    classes: tuple[str, ...] = ()
    kind: str = "classification"
    bands: bool = False

    @property
    def mode(self) -> Mode | Literal["bands"]:
        """Of images from files."""
        return "bands" if self.bands else _MODES[self.channels]

    def prepared(self, path: Path, number: int) -> dict[str, Any]:
        """An image as the network's input, with a number as its `id`.

        Raises:
            Unreadable: if it cannot be read.
        """
        image = read_image(str(path), self.mode, self.max_pixels)
        if len(image) != self.channels:
            raise unreadable(str(path), f"this image has {len(image)} bands, and the network takes {self.channels}")
        return self.transformed(image, number)

    def transformed(self, image: Tensor, number: int) -> dict[str, Any]:
        """An image of the network's channels, [C, H, W], as its input."""
        return self.pipeline({"image": image, "size": torch.tensor(image.shape[-2:]), "id": number})

    def ask(self, samples: list[dict[str, Any]]) -> Iterable[dict[str, Any]]:
        """The predictions on prepared images, possibly one image at a time, without gradients."""
        batch = collate(samples, self.pipeline.ragged)
        if isinstance(batch["image"], Tensor):  # the task moves images of several sizes one at a time
            batch["image"] = batch["image"].to(self.device, self.dtype)
        found: Iterable[dict[str, Any]] = self.task.predict(self.network, batch)
        return found


def refuse_images(config: RunConfig, task: object, channels: int) -> None:
    """
    Raises:
        UserError: if the run's task does not predict, or the network cannot take images from files.
    """
    if not isinstance(task, Predicts):
        remedy = "Give it both, to predict with it" if is_own(config.task.name) else "Call what phalanx.load returns"
        raise UserError(f"task.name={config.task.name} has no methods predict and draw for images. {remedy}.")
    if channels not in _MODES and config.data.mode != "bands":
        raise UserError(f"the network takes {channels} channels, and files have 1, 3 or 4. Predict in Python.")


def predictor(config: RunConfig, checkpoint: Path, described: Recorded | None = None, fuse: bool = True) -> Predictor:
    """The network of a run, from one of its checkpoints, with its validation transforms.

    Args:
        checkpoint: the folder of one, or a file of weights.
        described: the training data; None for what the run has recorded.
        fuse: whether the network may be made faster, under other names of its weights.
    """
    torch.set_num_threads(choose_threads(config.dist))
    device = choose_device(config.dist, Ranks())
    data = described or recorded(RunDirectory.of(config)) or _from_data(config)
    data_info = data.facts
    task = tasks.build(config, data_info)
    network = trained(checkpoint, config, data_info, device)
    if fuse and isinstance(network, Fuses):
        network.fuse()
    wanted = build.statistics(config, data_info.channels)
    prepare = pipeline(config.data, data, "val", wanted, config.evaluate)  # type: ignore[arg-type]
    dtype = weights_dtype(config.dist.precision)
    return Predictor(
        task,
        network,
        prepare,
        data_info.channels,
        config.train.micro_batch,
        device,
        dtype,
        config.data.max_pixels,
        data_info.classes,
        data_info.kind,
        bands=config.data.mode == "bands",
    )


def _from_data(config: RunConfig) -> Recorded:
    training = open_split(config.data, "train", config.seed)
    return Recorded(build.data_info(training, config), tuple(training.mean), tuple(training.std))


def find_images(given: Sequence[str], arrays: bool = False) -> list[tuple[Path, Path]]:
    """Finds images, each with its path in the output: its name, or its path relative to the given folder.

    Args:
        given: files, folders (searched recursively), patterns such as `photos/*.jpg`.
        arrays: whether NumPy arrays in folders are images too.

    Raises:
        UserError: if one of them does not exist, or has no images.
    """
    found: dict[Path, Path] = {}
    for text in given:
        path = Path(text)
        if path.is_dir():
            inside = sorted(Path(name) for name in files_below(path) if is_image_name(os.path.basename(name), arrays))
            images = {path / image: image for image in inside if (path / image).is_file()}
        elif path.exists():
            images = {path: Path(path.name)}
        else:
            images = {Path(p): Path(Path(p).name) for p in sorted(glob.glob(text, recursive=True)) if os.path.isfile(p)}
        if not images:
            why = "there is no image in this folder" if path.is_dir() else "there is no such file, folder or match"
            raise UserError(f"{text}: {why}. Give images, folders of images, or patterns such as 'photos/*.jpg'.")
        found |= {image: place for image, place in images.items() if image not in found}
    return list(zip(found, _apart(list(found.values())), strict=True))


def _apart(places: Sequence[Path]) -> Iterator[Path]:
    """Unique names of pictures: `cat.jpg`, then `cat-2.jpg`."""
    taken: set[Path] = set()
    for place in places:
        picture, number = place.with_suffix(".jpg"), 2
        while picture in taken:
            picture, number = place.with_name(f"{place.stem}-{number}.jpg"), number + 1
        taken.add(picture)
        yield picture


def predict(
    config: RunConfig,
    checkpoint: Path,
    given: Sequence[str],
    output: Path,
    progress: Callable[[int, int], None],
    probabilities: bool = False,
    described: Recorded | None = None,
) -> list[dict[str, Any]]:
    """Predicts images; writes `predictions.json`, a picture of each, and the task's other files into a folder.

    Args:
        progress: called with the number of finished images, and of all.
        probabilities: whether to write those of every class of every pixel too.
        described: the training data; None for what the run has recorded.

    Returns:
        For each image, in order, `file`, `picture` and what the task predicts; or `file` and `error` if it cannot be read.

    Raises:
        UserError: if there are no images, or the folder cannot be written.
    """
    images = find_images(given, config.data.mode == "bands")
    _make(output)
    asked, results = predictor(config, checkpoint, described), list[dict[str, Any]]()
    refuse_images(config, asked.task, asked.channels)
    if probabilities and not isinstance(asked.task, Writes):
        raise UserError(f"--probabilities is for pixels; those of task.name={config.task.name} are in {FILE}. Leave it out.")
    for start in range(0, len(images), asked.batch):
        progress(start, len(images))
        with torch.inference_mode():
            results += _batch(asked, images[start : start + asked.batch], output, probabilities)
    progress(len(images), len(images))
    try:
        write_json(output / FILE, results)
    except OSError as error:
        raise _unwritable(output, error) from None
    return results


def _batch(asked: Predictor, images: Sequence[tuple[Path, Path]], output: Path, probabilities: bool) -> list[dict[str, Any]]:
    results: list[dict[str, Any]] = []
    samples: list[dict[str, Any]] = []
    readable: list[tuple[Path, Path, dict[str, Any]]] = []
    for path, picture in images:
        results.append({"file": str(path)})
        try:
            samples.append(asked.prepared(path, len(samples)))
        except Unreadable as error:
            results[-1]["error"] = error.problem
            continue
        readable.append((path, picture, results[-1]))
    predictions, done = asked.ask(samples) if samples else [], list[dict[str, Any]]()
    for (path, picture, result), prediction in zip(readable, predictions, strict=True):
        drawn = asked.task.draw(_as_read(path, asked), prediction)
        try:
            (output / picture).parent.mkdir(parents=True, exist_ok=True)
            drawn.save(output / picture, quality=92)
            if isinstance(asked.task, Writes):
                prediction = asked.task.write(prediction, output, picture.with_suffix(""), probabilities)
        except OSError as error:
            raise _unwritable(output, error) from None
        height, width = samples[len(done)]["size"].tolist()
        done.append(result)
        result |= {"picture": str(picture), "width": width, "height": height} | prediction
    return results


def _as_read(path: Path, asked: Predictor) -> Image.Image:
    """The image in colour, 8 bits per channel, to draw on; of other bands the first three, or the first."""
    pixels: Tensor = read_image(str(path), "bands" if asked.bands else "rgb", asked.max_pixels)
    if asked.bands:
        pixels = pixels[:3] if len(pixels) >= 3 else pixels[:1].expand(3, -1, -1)
    if pixels.is_floating_point():
        low, high = pixels.min(), pixels.max()
        pixels = ((pixels - low) / (high - low).clamp(min=1e-12) * 255).round().to(torch.uint8)
    elif pixels.dtype != torch.uint8:
        pixels = (pixels.float() / 257).round().to(torch.uint8)  # 65535 / 255
    image: Image.Image = F.to_pil_image(pixels)
    return image


def _make(output: Path) -> None:
    try:
        output.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise _unwritable(output, error) from None


def _unwritable(output: Path, error: OSError) -> UserError:
    return UserError(f"-o {output}: cannot be written: {error.strerror or error}. Choose another folder.")
