"""Starts DeepSpeed: quietly, in the existing process group, with a check that it follows its settings."""

import importlib
import logging
import os
import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from phalanx.configs.errors import UserError
from phalanx.configs.schema import RunConfig
from phalanx.configs.strategies import STRATEGIES
from phalanx.dist.comm.process_group import World
from phalanx.dist.strategies.deepspeed_config import settings

if TYPE_CHECKING:
    from deepspeed import DeepSpeedEngine


def start(model: nn.Module, optimizer: torch.optim.Optimizer, config: RunConfig, world: World) -> "DeepSpeedEngine":
    """DeepSpeed's engine around a model and a torch optimizer over its parameters; needs a process group, even of one rank.

    Raises:
        UserError: if DeepSpeed is not installed, would use another device, or fell back to something else.
    """
    wanted = settings(config)
    if world.device.type == "cpu":
        os.environ["DS_ACCELERATOR"] = "cpu"  # read when deepspeed is imported
    # DeepSpeed takes the GPU's number from the environment, under stage 3 at every step.
    os.environ["LOCAL_RANK"] = str(world.ranks.local_rank if world.device.index is None else world.device.index)
    with _quiet():
        deepspeed = _imported(config.dist.strategy, world.device)
        engine, *_ = deepspeed.initialize(model=model, optimizer=optimizer, config=wanted, dist_init_required=False)
    _check(engine, optimizer, config, world)
    return engine


def _imported(strategy: str, device: torch.device) -> Any:
    try:
        load_deepspeed()
        import deepspeed
        import deepspeed.ops
        from deepspeed.accelerator import get_accelerator
    except ImportError as error:
        raise UserError(
            f"dist.strategy={strategy} needs DeepSpeed, which cannot be imported ({error}). "
            "Install it with `pip install deepspeed`, or set dist.strategy=fsdp.",
            shared=True,
        ) from None
    seen = get_accelerator().device_name()
    if seen != device.type:
        raise UserError(f"DeepSpeed computes on {seen}, but this run on {device.type}. Unset DS_ACCELERATOR.", shared=True)
    if device.type == "cpu":
        # Otherwise it compiles an extension for a minute, which only its inference uses.
        deepspeed.ops.__compatible_ops__ = {}
    logger = logging.getLogger("DeepSpeed")
    logger.setLevel(logging.ERROR)
    for handler in logger.handlers:
        if isinstance(handler, logging.StreamHandler):
            handler.setStream(sys.stderr)
    if not deepspeed.comm.is_initialized():
        deepspeed.init_distributed(dist_backend=torch.distributed.get_backend(), auto_mpi_discovery=False, verbose=False)
    return deepspeed


def load_deepspeed() -> None:
    """Imports DeepSpeed, and what its first engine would import.

    That is its Muon, which is not used here. It compiles its functions as it is imported, and for that loads all of torch's
    compiler: three seconds on every rank. So they are left as they are.
    """
    from deepspeed.runtime import compiler

    compile_functions, compiler.compile = compiler.compile, _not_compiled
    try:
        with suppress(ModuleNotFoundError):  # other versions of DeepSpeed
            importlib.import_module("deepspeed.runtime.zero.muon.muon_optimizer")
    finally:
        compiler.compile = compile_functions


def _not_compiled(*_: Any, **__: Any) -> Callable[[Any], Any]:
    """In place of a decorator that compiles."""
    return lambda function: function


@contextmanager
def _quiet() -> Iterator[None]:
    """Suppresses warnings of DeepSpeed's own code, on future versions of torch."""
    # Warnings of its collectives appear at every step, under torch's name.
    warnings.filterwarnings(
        "ignore", r"`torch.distributed.(all_gather_into|reduce_scatter)_tensor` is deprecated", FutureWarning
    )
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", module=r"deepspeed(\.|$)")
        yield


def _check(engine: "DeepSpeedEngine", optimizer: torch.optim.Optimizer, config: RunConfig, world: World) -> None:
    """Checks DeepSpeed's settings: it may fall back to others silently."""
    from deepspeed.runtime.zero.stage3 import DeepSpeedZeroOptimizer_Stage3
    from deepspeed.runtime.zero.stage_1_and_2 import DeepSpeedZeroOptimizer

    stage = STRATEGIES[config.dist.strategy].zero_stage
    kind = DeepSpeedZeroOptimizer_Stage3 if stage == 3 else DeepSpeedZeroOptimizer
    expected = {
        "the stage": (engine.zero_optimization_stage(), stage),
        "the number of ranks": (engine.dp_world_size, world.ranks.world),
        "its optimizer": (type(engine.optimizer), kind),
        "the optimizer within": (type(engine.optimizer.optimizer), type(optimizer)),
        "its own half precision": (engine.fp16_enabled() or engine.bfloat16_enabled(), False),
        "its own clipping": (engine.gradient_clipping(), 0.0),
        "the offload of the optimizer": (engine.zero_cpu_offload(), config.dist.offload),
    }
    for what, (found, wanted) in expected.items():
        if found != wanted:
            raise UserError(
                f"DeepSpeed ignored a setting: {what} is {found}, wanted {wanted}. "
                "Check the file dist.deepspeed, or set dist.strategy=fsdp.",
                shared=True,
            )
