"""Exports a trained network: chooses the format, examples to check it with, and writes a script that uses it."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from phalanx.configs.errors import UserError
from phalanx.configs.schema import RunConfig
from phalanx.data.open import open_split
from phalanx.data.transforms.fit import evaluated
from phalanx.dist.checkpoint.tools.consolidate import recipe_of
from phalanx.dist.storage.durable_files import write_atomically
from phalanx.dist.storage.run_directory import RunDirectory
from phalanx.train.evaluation.predict import Predictor, predictor
from phalanx.train.exporting import graph_files, usage_script
from phalanx.train.exporting.exportable import exportable
from phalanx.train.setup.recorded import Recorded, recorded

_EXAMPLES = 3


def export(config: RunConfig, weights: Path, output: Path, described: Recorded | None = None) -> list[str]:
    """Writes a network into a file, in the format of its suffix, and for a graph a script beside it that uses it.

    Args:
        config: the run's, or that of a described file of weights.
        weights: a checkpoint's folder, or a file of weights.
        described: the training data; None for what the run has recorded.

    Returns:
        Sentences on what was written and checked.

    Raises:
        UserError: if the network cannot be exported in this format, or a package is missing.
        TrainingFailed: if torch cannot export it, or the file computes other numbers.
    """
    dist = config.dist.model_copy(update={"precision": "fp32", "device": "cpu"})
    config = config.model_copy(update={"dist": dist})
    if output.suffix == ".safetensors":
        return _weights(predictor(config, weights, described, fuse=False), config, output, described)
    config = of_one_size(config)
    asked = predictor(config, weights, described)
    model = exportable(asked, config)
    examples, origin = _examples(asked, config, model.batch)
    usage_script.refuse_other(output.with_suffix(".py"))
    write = graph_files.write_onnx if output.suffix == ".onnx" else graph_files.write_program
    worst = write(model, output, examples)
    script = output.with_suffix(".py")
    write_atomically(script, usage_script.script(output.name, model, asked, config))
    shape = ", ".join(map(str, examples[0].shape[1:]))
    return [
        f"{output}: image [{model.batch or 'B'}, {shape}], pixels between 0 and 1, to {', '.join(model.names)}",
        f"checked on {len(examples)} batches of {origin}: the largest difference from torch is {worst:.1g}",
        f"{script} uses it without Phalanx",
    ]


def of_one_size(config: RunConfig) -> RunConfig:
    """A recipe whose evaluation takes images of one size: training's where it takes each in its own size or aspect."""
    if config.evaluate.size != "original" and evaluated(config.data, config.evaluate).fit != "short_side":
        return config
    return config.model_copy(update={"evaluate": config.evaluate.model_copy(update={"size": None, "fit": None})})


def _weights(asked: Predictor, config: RunConfig, output: Path, described: Recorded | None) -> list[str]:
    data = described or recorded(RunDirectory.of(config))
    if data is None:
        raise UserError(f"{config.name}: this run has not recorded its data. Resume it once, or export a graph (.onnx, .pt2).")
    data_facts = dataclasses.asdict(dataclasses.replace(data, splits={}))
    description: dict[str, Any] = {"recipe": recipe_of(config), "data": data_facts, "classes": list(asked.classes)}
    description |= {"mean": list(asked.pipeline.mean), "std": list(asked.pipeline.std)}
    tensors = asked.network.state_dict()
    graph_files.write_weights(tensors, output, description)
    return [f"{output}: {len(tensors)} tensors, with recipe, classes and normalisation; phalanx.load and predict take it"]


def _examples(asked: Predictor, config: RunConfig, batch: int | None) -> tuple[list[Tensor], str]:
    """Batches of the network's input between 0 and 1: of validation images if they are here, else of random pixels."""
    images, origin = list(_images(asked, config)), "validation images"
    if not images:
        generator = torch.Generator().manual_seed(0)
        blank = asked.transformed(torch.zeros(asked.channels, 64, 64, dtype=torch.uint8), 0)["image"]
        images, origin = [torch.rand(blank.shape, generator=generator) for _ in range(_EXAMPLES)], "random pixels"
    if batch == 1:
        return [image[None] for image in images], origin
    together = torch.stack(images)
    return [together[:2] if len(together) > 1 else together, together, together[:1]], origin


def _images(asked: Predictor, config: RunConfig) -> Sequence[Tensor]:
    try:
        dataset = open_split(config.data, "val", config.seed)
        places = [place * len(dataset) // _EXAMPLES for place in range(min(_EXAMPLES, len(dataset)))]
        images = [torch.as_tensor(dataset[place]["image"]) for place in places]
    except (UserError, OSError):
        return []
    return [asked.pipeline.pixels(asked.transformed(image, 0)["image"]) for image in images]
