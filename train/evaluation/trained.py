"""A trained network on this process alone, from a checkpoint of any strategy: for predictions and ensembles."""

from pathlib import Path

import torch
from torch import Tensor, nn

from phalanx.configs.errors import UserError
from phalanx.configs.schema import RunConfig
from phalanx.data.open import open_split
from phalanx.dist import precision
from phalanx.dist.checkpoint import manifest
from phalanx.dist.checkpoint.entries import DTYPES
from phalanx.dist.checkpoint.manifest import BrokenCheckpoint
from phalanx.dist.checkpoint.reader import Readers
from phalanx.dist.checkpoint.tools import choose, contents
from phalanx.dist.storage.run_directory import RunDirectory
from phalanx.models import weights
from phalanx.train.setup import build
from phalanx.train.setup.recorded import recorded
from phalanx.train.tasks import DataInfo

_TORCH = {name: dtype for dtype, name in DTYPES.items()}


def trained(checkpoint: Path, config: RunConfig, data_info: DataInfo, device: torch.device) -> nn.Module:
    """The network as evaluation uses it: averaged weights if there are any, BatchNorm's mean statistics, in its precision.

    Args:
        checkpoint: a verified one, or a file of weights.
        config: the configuration of the run that wrote it.

    Raises:
        UserError: if the configured network and the checkpoint do not hold the same tensors.
    """
    if checkpoint.is_file():
        return _from_file(checkpoint, config, data_info, device)
    network = build.network(config, data_info).to(precision.weights_dtype(config.dist.precision))
    own, found = network.state_dict(), _tensors(checkpoint, averaged=config.train.averages)
    differing = sorted(own.keys() ^ found.keys()) or [n for n in own if own[n].shape != found[n].shape]
    if differing:
        raise UserError(
            f"{checkpoint} and the network of its recipe differ in the tensor {differing[0]}. "
            "Use the code that wrote it, and data with as many classes."
        )
    network.load_state_dict(found)
    return ready(network, config, device)


def _from_file(file: Path, config: RunConfig, data_info: DataInfo, device: torch.device) -> nn.Module:
    network = build.network(config, data_info)
    try:
        weights.load(network, file)
    except weights.BadWeights as error:
        raise UserError(str(error)) from None
    return ready(network, config, device)


def ready(network: nn.Module, config: RunConfig, device: torch.device) -> nn.Module:
    """The network on a device, for inference."""
    precision.check(config.dist.precision, device)
    network = network.to(device, precision.weights_dtype(config.dist.precision)).eval()
    precision.apply(network, config.dist.precision, device)
    return network


def another(text: str, config: RunConfig, data_info: DataInfo, device: torch.device) -> tuple[Path, nn.Module]:
    """Another member of an ensemble with a run's network.

    Args:
        text: a run (its newest checkpoint), `RUN@STEP`, a checkpoint's folder; or a safetensors file of the run's own network.
        config, data_info: the run's.

    Returns:
        Its origin, and the network.

    Raises:
        UserError: if there is none, it is broken, or its classes differ.
    """
    chosen = choose.any_of(text).path
    if chosen.is_file():
        return chosen, _from_file(chosen, config, data_info, device)
    own = RunDirectory(chosen.parent.parent).read_config()
    known = recorded(RunDirectory(chosen.parent.parent))
    if known is not None or own.data != config.data:
        there = build.data_info(open_split(own.data, "train", own.seed), own) if known is None else known.facts
        if (there.classes, there.channels, there.kind) != (data_info.classes, data_info.channels, data_info.kind):
            raise UserError(f"{text}: this network was trained on other classes, or on other images. Leave it out.")
    return chosen, trained(chosen, own, data_info, device)


def _tensors(checkpoint: Path, averaged: bool) -> dict[str, Tensor]:
    """A network's tensors by its own names."""
    try:
        stored = manifest.read(checkpoint)
        averaged = averaged and any(tensor.kind == "ema" for tensor in stored.tensors.values())
        found = {}
        with Readers(checkpoint, stored) as readers:
            for name, content in contents.as_loaded(stored, averaged).items():
                tensor = torch.empty(content.shape, dtype=_TORCH[content.dtype])
                if content.elements:
                    raw = bytearray(contents.read(readers, content))
                    tensor.copy_(torch.frombuffer(raw, dtype=tensor.dtype).reshape(content.shape))
                found[name] = tensor
        return found
    except BrokenCheckpoint as broken:
        raise UserError(f"{checkpoint} is broken: {broken}. Choose another.") from None
