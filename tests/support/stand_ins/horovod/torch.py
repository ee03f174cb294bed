"""As much of `horovod.torch` as a script of data parallelism uses."""

import os
from collections.abc import Iterable, Mapping

import torch
import torch.distributed
from torch import Tensor, nn


def init() -> None:
    torch.distributed.init_process_group("gloo")


def rank() -> int:
    return torch.distributed.get_rank()


def size() -> int:
    return torch.distributed.get_world_size()


def local_rank() -> int:
    return int(os.environ["LOCAL_RANK"])


def DistributedOptimizer(
    optimizer: torch.optim.Optimizer, named_parameters: Iterable[tuple[str, nn.Parameter]]
) -> torch.optim.Optimizer:
    """The optimizer, whose steps take the mean of all ranks' gradients."""
    parameters = [parameter for _, parameter in named_parameters]

    def average(*_: object) -> None:
        for parameter in parameters:
            assert parameter.grad is not None
            torch.distributed.all_reduce(parameter.grad)
            parameter.grad /= size()

    optimizer.register_step_pre_hook(average)
    return optimizer


def broadcast_parameters(state: Mapping[str, Tensor], root_rank: int) -> None:
    for value in state.values():
        torch.distributed.broadcast(value, root_rank)


def broadcast_optimizer_state(optimizer: torch.optim.Optimizer, root_rank: int) -> None:
    for state in optimizer.state.values():
        broadcast_parameters({name: value for name, value in state.items() if isinstance(value, Tensor)}, root_rank)
