"""DeepSpeed's configuration: from the recipe, over the user's own DeepSpeed file. No torch here, and no deepspeed."""

from collections.abc import Iterator
from typing import Any

from phalanx.configs.errors import UserError
from phalanx.configs.launchers.deepspeed_settings import read
from phalanx.configs.origin import Problem
from phalanx.configs.schema import RunConfig
from phalanx.configs.strategies import STRATEGIES

# Set by the recipe: precision, clipping, batches and the optimizer are the engine's under every strategy.
_OURS = (
    "train_batch_size",
    "train_micro_batch_size_per_gpu",
    "gradient_accumulation_steps",
    "gradient_clipping",
    "fp16",
    "bf16",
    "bfloat16",
    "amp",
    "torch_autocast",
    "data_types",
    "optimizer",
    "scheduler",
)
# Would change what is summed, where weights are, or when a step ends. Refused unless false, 0, 1 or empty.
_UNFIT = (
    "zero_optimization.offload_param",
    "zero_optimization.cpu_offload_param",
    "zero_optimization.zenflow",
    "zero_optimization.zero_hpz_partition_size",
    "zero_optimization.zero_quantized_weights",
    "zero_optimization.zero_quantized_nontrainable_weights",
    "zero_optimization.zero_quantized_gradients",
    "zero_optimization.mics_shard_size",
    "compile",
    "compression_training",
    "elasticity",
    "gradient_predivide_factor",
    "pipeline",
    "prescale_gradients",
    "progressive_layer_drop",
    "sequence_parallel_size",
    "tensor_parallel",
)
# Elements; DeepSpeed's own 5e8 is a buffer of 2 GB.
_BUCKET = 50_000_000


def settings(config: RunConfig) -> dict[str, Any]:
    """DeepSpeed's configuration: a plain float32 ZeRO optimizer that neither scales, clips nor skips.

    Raises:
        UserError: if the file `dist.deepspeed` cannot be read, or has settings that Phalanx does not support.
    """
    given = _read(config.dist.deepspeed) if config.dist.deepspeed else {}
    given = _without_auto({key: value for key, value in given.items() if key not in _OURS})
    zero = {"reduce_bucket_size": _BUCKET, "allgather_bucket_size": _BUCKET, **given.pop("zero_optimization", {})}
    # That of the recipe: dist.offload.
    for key in ("offload_optimizer", "cpu_offload", "cpu_offload_use_pin_memory"):
        zero.pop(key, None)
    # This option of DeepSpeed permanently replaces torch.nn.functional.linear in the process.
    zero["memory_efficient_linear"] = False
    zero["stage"] = STRATEGIES[config.dist.strategy].zero_stage
    if config.dist.offload:
        zero["offload_optimizer"] = {"device": "cpu", "pin_memory": True}
    elif zero["stage"] < 3:
        zero["compute_grad_norm"] = False  # the norm is only used for its clipping, and waits for the device
    return {
        **given,
        "train_micro_batch_size_per_gpu": config.train.micro_batch,
        "gradient_accumulation_steps": 1,
        "gradient_clipping": 0.0,  # the default would be 1
        "steps_per_print": 10**9,
        "wall_clock_breakdown": False,
        "timers": {"throughput": {"enabled": False}},  # waits for the device at every forward
        "zero_allow_untested_optimizer": True,
        "zero_force_ds_cpu_optimizer": False,
        "zero_optimization": zero,
    }


def _read(file: str) -> dict[str, Any]:
    try:
        given = read(file)
    except Problem as problem:
        raise UserError(f"{problem.origin}: {problem.sentence}", shared=True) from None
    for key in _unfit(given):
        raise UserError(f"{file}: Phalanx cannot train with {key}. Remove it from the file.", shared=True)
    return given


def _unfit(given: dict[str, Any]) -> Iterator[str]:
    """The keys that are set but not supported."""
    for key in _UNFIT:
        section, _, name = key.rpartition(".")
        value = (given.get(section, {}) if section else given).get(name)
        if isinstance(value, dict):
            value = value.get("device", "none") != "none" if "device" in value else value.get("enabled", bool(value))
        if value is True or value not in (None, False, 0, 1, "auto", "none"):
            yield key


def _without_auto(given: dict[str, Any]) -> dict[str, Any]:
    """Removes values `auto`, Hugging Face's placeholder, so that DeepSpeed's defaults apply."""
    inner = {key: _without_auto(value) if isinstance(value, dict) else value for key, value in given.items()}
    return {key: value for key, value in inner.items() if value != "auto"}
