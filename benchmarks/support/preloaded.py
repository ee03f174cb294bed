"""What ranks would import, imported before they are forked, in a process of one thread."""

import gc
import importlib.util
import os

import accelerate  # noqa: F401
import torch._dynamo
import torch.distributed.fsdp  # noqa: F401
import torchvision.transforms.v2  # noqa: F401

import phalanx.train.start  # noqa: F401
from phalanx.dist.strategies import zero_engine

if importlib.util.find_spec("deepspeed"):
    os.environ["DS_ACCELERATOR"] = "cpu"
    with zero_engine._quiet():
        zero_engine.load_deepspeed()

gc.freeze()  # a collection in a fork would copy the memory of all that it looks through
_threads = len(os.listdir("/proc/self/task"))
assert _threads == 1, f"{_threads} threads: only a process of one can fork"
