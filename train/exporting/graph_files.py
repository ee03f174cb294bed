"""Writes an exportable network into a file, and checks what the file computes against torch before it gets its name."""

import json
import os
import warnings
from collections.abc import Callable, Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from phalanx.configs.errors import TrainingFailed, UserError
from phalanx.dist.storage.durable_files import create_aside, fsync_directory
from phalanx.train.exporting.exportable import Exportable, YoloDetections

TOLERANCE = 1e-4
OF_DETECTIONS = 1e-3
ALONE = 0.02  # share of detections that may have no partner
Compute = Callable[[Tensor], Sequence[Tensor]]


def write_onnx(model: Exportable, path: Path, examples: Sequence[Tensor]) -> float:
    """Writes ONNX; its batch is dynamic where the model takes any.

    Args:
        examples: images [B, C, H, W] between 0 and 1, on which the file is compared with torch.

    Returns:
        The largest difference, relative as in `difference`.

    Raises:
        UserError: if onnx, onnxscript or onnxruntime is missing.
        TrainingFailed: if the network cannot be written, or the file computes something else.
    """
    lacking = [name for name in ("onnx", "onnxscript", "onnxruntime") if find_spec(name) is None]
    if lacking:
        raise UserError(
            f"export to ONNX needs the package {lacking[0]}, which is not installed. Run: pip install 'phalanx[export]'."
        )
    import onnxruntime

    def write(aside: Path) -> Compute:
        program = torch.onnx.export(
            model,
            (examples[0],),
            dynamo=True,
            verbose=False,
            input_names=["image"],
            output_names=list(model.names),
            dynamic_shapes=_shapes(model),
        )
        assert program is not None
        program.save(str(aside), external_data=False)
        session = onnxruntime.InferenceSession(str(aside), providers=["CPUExecutionProvider"])
        return lambda image: [torch.from_numpy(each) for each in session.run(None, {"image": image.numpy()})]

    return _written(model, path, examples, write)


def write_program(model: Exportable, path: Path, examples: Sequence[Tensor]) -> float:
    """Writes a program of `torch.export`; otherwise as `write_onnx`."""

    def write(aside: Path) -> Compute:
        program = torch.export.export(model, (examples[0],), dynamic_shapes=_shapes(model))
        with open(aside, "wb") as file:
            torch.export.save(program, file)
        with open(aside, "rb") as file:
            loaded = torch.export.load(file).module()
        return lambda image: _several(loaded(image))

    return _written(model, path, examples, write)


def write_weights(tensors: Mapping[str, Tensor], path: Path, description: Mapping[str, Any]) -> None:
    """Writes weights that describe themselves: recipe, classes and normalisation as JSON in the file's header."""
    from safetensors.torch import save_file

    metadata = {"format": "pt", "phalanx": json.dumps(description, allow_nan=False)}
    with _aside(path) as aside:
        # Copies, as the format refuses weights that several layers share.
        save_file({name: tensor.clone().contiguous() for name, tensor in tensors.items()}, str(aside), metadata)


class _aside:
    """A file beside a path, which gets its name when all is well, and is removed otherwise."""

    def __init__(self, path: Path):
        self._path = path

    def __enter__(self) -> Path:
        descriptor, self._aside = create_aside(self._path)
        os.close(descriptor)
        return self._aside

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is None:
            with open(self._aside, "rb") as file:
                os.fsync(file.fileno())
            self._aside.rename(self._path)
            fsync_directory(self._path.parent)
        else:
            self._aside.unlink(missing_ok=True)


def _written(model: Exportable, path: Path, examples: Sequence[Tensor], write: Callable[[Path], Compute]) -> float:
    with _aside(path) as aside, torch.no_grad():
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # torch's and onnxscript's own, about each other
                compute = write(aside)
        except (UserError, OSError):
            raise
        except Exception as error:
            first = next((line for line in str(error).splitlines() if line.strip()), "")
            raise TrainingFailed(f"{path}: torch cannot export this network ({type(error).__name__}: {first[:200]})") from error
        detects = isinstance(model, YoloDetections)
        compare = of_detections if detects else difference
        worst = max(compare(_several(model(image)), compute(image)) for image in examples)
        if not worst <= (OF_DETECTIONS if detects else TOLERANCE):
            raise TrainingFailed(f"{path}: the file computes other numbers than torch, by {worst:.2g}. Nothing was written.")
    return worst


def difference(own: Sequence[Tensor], other: Sequence[Tensor]) -> float:
    """The largest difference, relative to the largest value where that is above 1; infinite where shapes differ."""
    worst = 0.0
    for a, b in zip(own, other, strict=True):
        if a.shape != b.shape:
            return float("inf")
        if a.numel():
            worst = max(worst, float((a - b).abs().max() / a.abs().max().clamp(min=1)))
    return worst


def of_detections(own: Sequence[Tensor], other: Sequence[Tensor]) -> float:
    """The largest difference between detections of either and their nearest of the same class in the other.

    Two of nearly the same score may come in another order, and the last of them be another one: some may lack a partner.

    Args:
        own, other: `boxes` [n, 4], `scores` [n], `labels` [n] each.

    Returns:
        That of scores, and of boxes relative to their largest coordinate; infinite if more than `ALONE` have no partner.
    """
    largest = max((float(boxes.max()) for boxes, *_ in (own, other) if len(boxes)), default=1.0)
    found = [
        torch.cat([boxes / max(largest, 1.0), scores[:, None], labels[:, None].to(boxes)], dim=1)
        for boxes, scores, labels in (own, other)
    ]
    worst, count, alone = 0.0, sum(map(len, found)), 0
    for one, another in (found, found[::-1]):
        if not len(one) or not len(another):
            alone += len(one)
            continue
        nearest = torch.cdist(one, another, p=float("inf")).amin(dim=1)
        with_partner = nearest <= OF_DETECTIONS
        alone += int((~with_partner).sum())
        worst = max(worst, float(nearest[with_partner].amax()) if with_partner.any() else 0.0)
    return worst if alone <= ALONE * count else float("inf")


def _several(outputs: Tensor | Sequence[Tensor]) -> Sequence[Tensor]:
    return [outputs] if isinstance(outputs, Tensor) else outputs


def _shapes(model: Exportable) -> tuple[dict[int, Any]]:
    return ({} if model.batch is not None else {0: torch.export.Dim("batch", min=1)},)
