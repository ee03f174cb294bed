"""Joining the other ranks: device, threads, process groups, and Accelerate's view of them, each checked."""

import os
import warnings
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, cast

import torch
import torch.distributed
from torch._C._distributed_c10d import HashStore

from phalanx.configs.errors import UserError
from phalanx.dist.comm import flight_recorder, network
from phalanx.dist.comm.device_choice import choose_device
from phalanx.dist.comm.rendezvous import LOOPBACK, launched_store, meeting_place, slurm_store
from phalanx.dist.processes.environment import Ranks

if TYPE_CHECKING:
    from accelerate import Accelerator

    from phalanx.configs.sections.dist import DistConfig


@dataclass(frozen=True)
class World:
    """The ranks of this run, joined.

    Attributes:
        ranks: this process's rank and the world size.
        device: this rank's device.
        accelerator: Accelerate's object, which wraps the model.
        control: a gloo group on CPU for small messages, apart from the gradients; None for a world of one.
        timeout: after which an unfinished collective is an error.
    """

    ranks: Ranks
    device: torch.device
    accelerator: "Accelerator"
    control: "torch.distributed.ProcessGroup | None"
    timeout: timedelta


def join(ranks: Ranks, config: "DistConfig", run_directory: Path, threads: int) -> World:
    """Joins the process groups and checks that all ranks are there; a world of one needs no group.

    Raises:
        UserError: if the ranks cannot meet.
    """
    torch.set_num_threads(threads)
    os.environ["OMP_NUM_THREADS"] = str(threads)  # unset, Accelerate would choose another number
    if ranks.world == 1:
        device, control = choose_device(config, ranks), None
        # Under a launcher Accelerate would make a group of one, and wrap the model for it.
        for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE"):
            os.environ.pop(name, None)
        _use(device, config)
    else:
        device, control = _meet(ranks, run_directory, config)
    accelerator = _accelerator(device)
    seen = torch.distributed.get_world_size() if ranks.world > 1 else 1
    if not (ranks.world == seen == accelerator.num_processes and ranks.rank == accelerator.process_index):
        raise UserError(
            f"{ranks.world} ranks were started, but torch sees {seen} and Accelerate {accelerator.num_processes}. "
            "Start with `phalanx train --nproc N`, or unset ACCELERATE_* variables."
        )
    return World(ranks, device, accelerator, control, timedelta(seconds=config.timeout_s))


def patient_control(world: World, timeout: timedelta) -> "torch.distributed.ProcessGroup | None":
    """Another group like `world.control`, with a longer timeout. All ranks call together.

    It is made within the world's timeout: a rank that is dead by then closes no connection, and all would wait for it.
    """
    if world.control is None:
        return None
    group = cast(torch.distributed.ProcessGroup, torch.distributed.new_group(backend="gloo", timeout=world.timeout))
    group._get_backend(torch.device("cpu"))._set_default_timeout(timeout)
    return group


def _use(device: torch.device, config: "DistConfig") -> None:
    if device.type == "cuda":
        torch.cuda.set_device(device)
        flight_recorder.prepare(config.timeout_s)


def _meet(ranks: Ranks, run_directory: Path, config: "DistConfig") -> "tuple[torch.device, torch.distributed.ProcessGroup]":
    """Makes the default group, for gradients, and the control group, which is returned with this rank's device."""
    timeout = timedelta(seconds=config.timeout_s)
    on_slurm = ranks.launcher == "slurm"
    own = _network(ranks, config)
    if on_slurm:
        store, host, port = slurm_store(ranks, run_directory, timeout, own)
        os.environ.update(RANK=str(ranks.rank), WORLD_SIZE=str(ranks.world), LOCAL_WORLD_SIZE=str(ranks.local_world))
        os.environ.update(MASTER_ADDR=host, MASTER_PORT=str(port))
    else:
        store = launched_store(ranks, timeout)
    device = choose_device(config, ranks, store)
    # Accelerate takes the local rank for the GPU's number, which is 0 where each rank sees only its own.
    os.environ["LOCAL_RANK"] = str(ranks.local_rank if device.index is None else device.index)
    _use(device, config)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # torch warns where a host name does not resolve; gloo still connects
        torch.distributed.init_process_group(
            "gloo" if device.type == "cpu" else "nccl",
            store=store,
            rank=ranks.rank,
            world_size=ranks.world,
            timeout=timeout,
            device_id=device if device.type == "cuda" else None,
        )
    control = torch.distributed.new_group(backend="gloo", timeout=timeout)
    if on_slurm and ranks.is_main:
        meeting_place(run_directory).unlink(missing_ok=True)
    return device, cast(torch.distributed.ProcessGroup, control)


def _network(ranks: Ranks, config: "DistConfig") -> str:
    """This node's address for the other ranks; gloo and NCCL use its interface, unless the environment sets others.

    By default gloo takes the interface of the host's name, which may be the loopback's or have no address at all; and on
    one node nothing outside needs to reach it.
    """
    variables = ["GLOO_SOCKET_IFNAME", "NCCL_SOCKET_IFNAME"]
    if config.interface is not None:
        own = network.address(config.interface, os.environ)
    elif ranks.local_world == ranks.world:
        own = LOOPBACK
    elif ranks.launcher == "slurm":
        own, variables = network.address(None, os.environ), variables[:1]  # NCCL chooses among all that are fast
    else:
        return ""
    if (interface := config.interface or network.interface_of(own)) is not None:
        for variable in variables:
            os.environ.setdefault(variable, interface)
    return own


def _accelerator(device: torch.device) -> "Accelerator":
    from accelerate import Accelerator
    from accelerate.utils import DistributedDataParallelKwargs

    # Phalanx keeps buffers itself, per micro-batch; gradients as views of the buckets save a copy of the model.
    ddp = DistributedDataParallelKwargs(broadcast_buffers=False, gradient_as_bucket_view=True)
    return Accelerator(cpu=device.type == "cpu", mixed_precision="no", kwargs_handlers=[ddp])


def group_of_one(world: World) -> None:
    """A process group for a single rank, which FSDP2 and DeepSpeed need; Accelerate was set up before it."""
    if not torch.distributed.is_initialized():
        backend = "gloo" if world.device.type == "cpu" else "nccl"
        torch.distributed.init_process_group(backend, store=HashStore(), rank=0, world_size=1)


def holds_gpus() -> bool:
    """Whether this process has a group of NCCL's, whose unfinished work may keep it from ending."""
    return torch.distributed.is_initialized() and "nccl" in torch.distributed.get_backend_config()


def leave() -> None:
    """Leaves the process groups."""
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()
