"""Random numbers as functions of their purpose: never of a rank, a worker, or what ran before."""

import hashlib
import random
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy
import torch

CPU = torch.device("cpu")


def key(*parts: int | str) -> int:
    """A 63-bit seed that is a function of its parts, such as (seed, "augment", epoch, sample)."""
    return int.from_bytes(hashlib.blake2b(repr(parts).encode(), digest_size=8).digest(), "little") >> 1


def seed_everything(seed: int) -> None:
    """Sets the generators of torch (CPU, and this rank's GPU if it uses one), numpy and Python.

    Without a GPU in use `torch.manual_seed` would queue every call for later, for ever.
    """
    if torch.cuda.is_initialized():
        torch.cuda.manual_seed(seed)
    seed_loading(seed)


def seed_loading(seed: int) -> None:
    """Sets the generators that loading and augmentation use: CPU only, so that a loader process never touches a GPU."""
    torch.default_generator.manual_seed(seed)
    numpy.random.seed(seed & 0xFFFFFFFF)
    random.seed(seed)


@dataclass(frozen=True)
class _GeneratorStates:
    """Where every generator stands, a GPU's too if one is named."""

    torch_cpu: torch.Tensor
    numpy_generator: Any  # another one may stand in its place
    numpy: Any
    python: Any
    accelerator: torch.Tensor | None

    @classmethod
    def now(cls, device: torch.device) -> "_GeneratorStates":
        accelerator = torch.cuda.get_rng_state(device) if device.type == "cuda" else None
        of_numpy = numpy.random.get_bit_generator(), numpy.random.get_state()  # type: ignore[attr-defined]
        return cls(torch.default_generator.get_state(), *of_numpy, random.getstate(), accelerator)

    def restore(self, device: torch.device) -> None:
        torch.default_generator.set_state(self.torch_cpu)
        numpy.random.set_bit_generator(self.numpy_generator)  # type: ignore[attr-defined]
        numpy.random.set_state(self.numpy)
        random.setstate(self.python)
        if self.accelerator is not None:
            torch.cuda.set_rng_state(self.accelerator, device)


class OwnGenerators:
    """Random numbers of its own for one of several computations that take turns in a process: a seed's, wherever it is stopped.

    `undisturbed` around all of them gives the surroundings theirs back.
    """

    def __init__(self, seed: int, device: torch.device):
        self._seed, self._device = seed, device
        # To copy numpy's state takes twenty times as long as to exchange the whole generator.
        self._numpy = numpy.random.MT19937(0)
        self._states: tuple[torch.Tensor, Any, torch.Tensor | None] | None = None

    def resume(self) -> None:
        """Every generator stands where this computation left it; the first time, at the seed."""
        numpy.random.set_bit_generator(self._numpy)  # type: ignore[attr-defined]
        if self._states is None:
            seed_everything(self._seed)
            return
        torch_cpu, python, accelerator = self._states
        torch.default_generator.set_state(torch_cpu)
        random.setstate(python)
        if accelerator is not None:
            torch.cuda.set_rng_state(accelerator, self._device)

    def leave(self) -> None:
        """Keeps where they stand."""
        accelerator = torch.cuda.get_rng_state(self._device) if self._device.type == "cuda" else None
        self._states = torch.default_generator.get_state(), random.getstate(), accelerator


@contextmanager
def undisturbed(device: torch.device = CPU) -> Iterator[None]:
    """Restores every generator afterwards, a GPU's too if one is named."""
    states = _GeneratorStates.now(device)
    try:
        yield
    finally:
        states.restore(device)
