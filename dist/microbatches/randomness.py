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
class GeneratorStates:
    """Where every generator stands, a GPU's too if one is named."""

    torch_cpu: torch.Tensor
    numpy: Any
    python: Any
    accelerator: torch.Tensor | None

    @classmethod
    def now(cls, device: torch.device) -> "GeneratorStates":
        accelerator = torch.cuda.get_rng_state(device) if device.type == "cuda" else None
        return cls(torch.default_generator.get_state(), numpy.random.get_state(), random.getstate(), accelerator)

    def restore(self, device: torch.device) -> None:
        torch.default_generator.set_state(self.torch_cpu)
        numpy.random.set_state(self.numpy)
        random.setstate(self.python)
        if self.accelerator is not None:
            torch.cuda.set_rng_state(self.accelerator, device)


@contextmanager
def undisturbed(device: torch.device = CPU) -> Iterator[None]:
    """Restores every generator afterwards, a GPU's too if one is named."""
    states = GeneratorStates.now(device)
    try:
        yield
    finally:
        states.restore(device)
