"""A checkpoint is saved while training goes on; its copy races with what training does to the device's memory.

Two ranks share the device and save weights in channels_last, of which one is cut between them. Its flattened part is memory of
its own, which must not be given back, and filled anew, before the copy has read it.
"""

import shutil
import tempfile
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from benchmarks.gpu_checks import gloo_ranks
from benchmarks.gpu_checks.check import Bench
from phalanx.dist.checkpoint import manifest
from phalanx.dist.checkpoint.entries import full_entry
from phalanx.dist.checkpoint.layout import Range
from phalanx.dist.checkpoint.reader import Readers
from phalanx.dist.checkpoint.retention import Retention
from phalanx.dist.checkpoint.save import CheckpointInfo
from phalanx.dist.checkpoint.saver import Saver
from phalanx.dist.comm.process_group import World

_WEIGHTS = 5  # an odd number: one is cut in half


def saves_what_was_there(bench: Bench) -> tuple[bool, dict[str, Any]]:
    """In both memory formats."""
    channels, rounds = (512, 4) if bench.full else (32, 2)
    figures = {}
    for name, memory in (("contiguous", torch.contiguous_format), ("channels_last", torch.channels_last)):
        with tempfile.TemporaryDirectory(dir=bench.folder) as folder:
            found = gloo_ranks.run(bench.device, _saved_while_training, Path(folder), channels, memory, rounds)
        figures[name] = {"saves": rounds, "wrong": found[0]}
    return not any(found["wrong"] for found in figures.values()), figures


def _saved_while_training(world: World, folder: Path, channels: int, memory: torch.memory_format, rounds: int) -> list[str]:
    """The tensors that a checkpoint holds otherwise than they were, of all saves."""
    saver = Saver(world, folder, Retention(1, None, None, "auto"), asynchronous=True)
    generator, wrong = torch.Generator().manual_seed(0), []
    for step in range(1, rounds + 1):
        there = [torch.randn(channels, channels, 3, 3, generator=generator) for _ in range(_WEIGHTS)]
        weights = [one.clone().to(world.device).contiguous(memory_format=memory) for one in there]
        entries = [full_entry(f"w{number}", "model", one) for number, one in enumerate(weights)]
        saver.start(entries, CheckpointInfo(step, step, "ddp", "race", {}, {}))
        _train(weights, channels)
        saver.wait_for_copy()
        for one in weights:
            one.fill_(-1.0)  # the optimizer's update
        (saved,) = saver.wait()
        if saved.path is None:
            raise RuntimeError(f"the checkpoint was not saved: {saved.problem}")
        if world.ranks.is_main:
            wrong += [f"{name} of save {step}" for name in _differing(saved.path, there)]
    if world.ranks.is_main:
        shutil.rmtree(folder)
    return wrong


def _train(weights: list[Tensor], channels: int) -> None:
    """A forward: it reads the weights, and takes and fills all memory that is free."""
    x = torch.full((2, channels, 16, 16), -2.0, device=weights[0].device)
    for weight in weights:
        x = torch.nn.functional.conv2d(x, weight, padding=1).clamp_(-2.0, -1.0)
        for _ in range(4):
            torch.full_like(weight, -3.0)


def _differing(path: Path, expected: list[Tensor]) -> list[str]:
    """Names of the tensors of a checkpoint that are not what is expected, to the last bit."""
    stored, wrong = manifest.read(path), []
    with Readers(path, stored) as readers:
        for name, tensor in stored.tensors.items():
            content = bytearray(4 * tensor.elements)
            readers.fill(name, Range(0, tensor.elements), memoryview(content))
            if content != expected[int(name[1:])].numpy().tobytes():
                wrong.append(name)
    return wrong
