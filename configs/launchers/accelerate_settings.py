"""A run's settings in the user's `accelerate config`, or in the `accelerate launch` that started this rank. No accelerate here.

Names and defaults are those of accelerate 1.15: `commands/config/cluster.py` writes the file, `utils/launch.py` the variables.
The questionnaire's default answers (`mixed_precision: 'no'`, `distributed_type: MULTI_GPU`, ...) are ignored.
"""

import math
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from phalanx.configs.launchers.statement import Statements
from phalanx.configs.origin import Origin
from phalanx.configs.text.encodings import brief
from phalanx.configs.text.yaml_reading import read

CONFIG_FILE = "ACCELERATE_CONFIG_FILE"
STARTED_BY_PHALANX = "PHALANX_MAILBOX"  # set for ranks of `phalanx train`, whose accelerate launch passes no settings

_SILENT_TYPES = ("no", "multi_gpu", "multi_cpu")
_SHARDING = ("full_shard", "shard_grad_op", "no_shard", "hybrid_shard", "hybrid_shard_zero2")  # numbered from 1
_VARIABLES = {
    "mixed_precision": "ACCELERATE_MIXED_PRECISION",
    "dynamo_backend": "ACCELERATE_DYNAMO_BACKEND",
    "zero_stage": "ACCELERATE_DEEPSPEED_ZERO_STAGE",
    "offload_optimizer_device": "ACCELERATE_DEEPSPEED_OFFLOAD_OPTIMIZER_DEVICE",
    "offload_param_device": "ACCELERATE_DEEPSPEED_OFFLOAD_PARAM_DEVICE",
    "deepspeed_config_file": "ACCELERATE_DEEPSPEED_CONFIG_FILE",
    "gradient_clipping": "ACCELERATE_GRADIENT_CLIPPING",
    "gradient_accumulation_steps": "ACCELERATE_GRADIENT_ACCUMULATION_STEPS",
}
_TYPES = {
    "FSDP": "ACCELERATE_USE_FSDP",
    "DEEPSPEED": "ACCELERATE_USE_DEEPSPEED",
    "MEGATRON_LM": "ACCELERATE_USE_MEGATRON_LM",
}
# Sections of the file, and the prefixes of their keys as arguments of accelerate launch.
_SECTIONS = {
    "fsdp_config": "fsdp_",
    "dynamo_config": "dynamo_",
    "parallelism_config": "parallelism_config_",
    "deepspeed_config": "",
}


@dataclass(frozen=True)
class _Setting:
    """A value, and where and how it is written."""

    value: str
    written: str
    origin: Origin

    @property
    def word(self) -> str:
        return self.value.strip().lower()

    @property
    def number(self) -> int:
        """The value as an integer; 0 if it is not one."""
        return int(self.word) if re.fullmatch(r"[0-9]{1,9}", self.word) else 0


_Settings = dict[str, _Setting]


def statements(environment: Mapping[str, str] = os.environ) -> Statements:
    """Accelerate's settings: those of the launch that started this rank, else those of the config file.

    Raises:
        Problem: if the file cannot be read.
    """
    settings, result = _settings(environment), Statements()
    _precision(settings, result)
    _dynamo(settings, result)
    kind = settings.get("distributed_type")
    if "compute_environment" in settings and settings["compute_environment"].word != "local_machine":
        _refuse(result, settings["compute_environment"], "describes another machine")
    elif kind is not None and kind.word == "fsdp":
        _fsdp(settings, kind, result)
    elif kind is not None and kind.word == "deepspeed":
        _deepspeed(settings, kind, result)
    elif kind is not None and kind.word not in _SILENT_TYPES:
        _refuse(result, kind, "is not supported; DDP, FSDP and DeepSpeed are")
    return result


def gradient_accumulation(environment: Mapping[str, str] = os.environ) -> tuple[str, int] | None:
    """The setting as written (`file:3: gradient_accumulation_steps=4`) and its number, under DeepSpeed; None for 1.

    Raises:
        Problem: if the file cannot be read.
    """
    settings = _settings(environment)
    kind, steps = settings.get("distributed_type"), settings.get("gradient_accumulation_steps")
    if kind is None or kind.word != "deepspeed" or steps is None or steps.number < 2:
        return None
    return f"{steps.origin}: {steps.written}", steps.number


def config_file(environment: Mapping[str, str] = os.environ) -> str | None:
    """$ACCELERATE_CONFIG_FILE, of which an empty one means none; else accelerate's default, if it exists."""
    named = environment.get(CONFIG_FILE)
    if named is not None:
        return os.path.expanduser(named) or None
    cache = environment.get("XDG_CACHE_HOME", "~/.cache")
    home = os.path.expanduser(environment.get("HF_HOME", os.path.join(cache, "huggingface")))
    default = os.path.join(home, "accelerate", "default_config.yaml")
    return default if os.path.isfile(default) else None


def _settings(environment: Mapping[str, str]) -> _Settings:
    if STARTED_BY_PHALANX not in environment and _launched(environment):
        return _from_environment(environment)
    path = config_file(environment)
    return {} if path is None else _from_file(path)


def _launched(environment: Mapping[str, str]) -> bool:
    """Whether accelerate launch made this environment: all its launchers set the first, and one of the others."""
    return "ACCELERATE_MIXED_PRECISION" in environment and bool(
        {"ACCELERATE_DYNAMO_BACKEND", "ACCELERATE_USE_DEEPSPEED"} & set(environment)
    )


def _from_environment(environment: Mapping[str, str]) -> _Settings:
    origin = Origin("accelerate launch")
    names = dict(_VARIABLES)
    names |= {name.lower(): name for name in environment if name.startswith(("FSDP_", "PARALLELISM_CONFIG_"))}
    if environment.get("ACCELERATE_USE_PARALLELISM_CONFIG", "").lower() != "true":
        names = {key: name for key, name in names.items() if not key.startswith("parallelism_config_")}
    found = {k: _Setting(environment[n], f"{n}={environment[n]}", origin) for k, n in names.items() if n in environment}
    for kind, name in _TYPES.items():
        if environment.get(name, "").lower() == "true":
            found["distributed_type"] = _Setting(kind, f"{name}=true", origin)
    return found


def _from_file(path: str) -> _Settings:
    values, origins = read(path)
    shortened = path.replace(str(Path.home()), "~", 1) if path.startswith(f"{Path.home()}{os.sep}") else path
    found: _Settings = {}

    def note(key: str, written: str, value: Any) -> None:
        if value is not None and not isinstance(value, dict | list):
            found[key] = _Setting(str(value), f"{written}={value}", Origin(shortened, origins[written].line))

    for key, value in values.items():
        note(key, key, value)
    for section, beginning in _SECTIONS.items():
        below = values.get(section)
        for key, value in below.items() if isinstance(below, dict) else ():
            note(key if key.startswith(beginning) else beginning + key, f"{section}.{key}", value)
    if "mixed_precision" not in found and "fp16" in found and found["fp16"].word == "true":  # accelerate before 0.4
        found["mixed_precision"] = _Setting("fp16", found["fp16"].written, found["fp16"].origin)
    return found


def _refuse(result: Statements, setting: _Setting, why: str) -> None:
    remedy = "Change it" if setting.origin.line is None else f"Change it, or set {CONFIG_FILE}= to leave the file out"
    result.refuse(setting.origin, f"{brief(setting.written, 120)} {why}. {remedy}.")


def _say(result: Statements, setting: _Setting, key: str, value: Any) -> None:
    result.say(setting.origin, setting.written, key, value)


def _precision(settings: _Settings, result: Statements) -> None:
    setting = settings.get("mixed_precision")
    if setting is None or setting.word in ("no", "none", ""):
        return
    if setting.word in ("bf16", "fp16"):
        _say(result, setting, "dist.precision", setting.word)
    else:
        _refuse(result, setting, "is not supported; bf16 and fp16 are")


def _dynamo(settings: _Settings, result: Statements) -> None:
    setting = settings.get("dynamo_backend")
    if setting is None or setting.word in ("no", ""):
        return
    if setting.word == "inductor":
        _say(result, setting, "dist.compile", True)
    else:
        _refuse(result, setting, "is not supported; inductor is (dist.compile=true)")


def _sharding(settings: _Settings) -> _Setting | None:
    """FSDP1's strategy; None for FSDP2, which has only true and false.

    The questionnaire writes it as fsdp_reshard_after_forward; accelerate launch always gives fsdp_sharding_strategy too, which
    is FULL_SHARD by default.
    """
    if "fsdp_version" in settings and settings["fsdp_version"].word == "2":
        return None
    strategy, reshard = settings.get("fsdp_sharding_strategy"), settings.get("fsdp_reshard_after_forward")
    chosen = strategy is not None and strategy.word not in ("full_shard", "1", "none")
    if chosen or reshard is None or reshard.word in ("true", "false"):
        return strategy
    return reshard


def _fsdp(settings: _Settings, kind: _Setting, result: Statements) -> None:
    sharding = _sharding(settings)
    if sharding is not None:
        word = _SHARDING[sharding.number - 1] if 0 < sharding.number <= len(_SHARDING) else sharding.word
        if word not in _SHARDING:
            return _refuse(result, sharding, f"is not a strategy of FSDP; wanted: {', '.join(_SHARDING).upper()}")
        if word == "no_shard":
            return _say(result, sharding, "dist.strategy", "ddp")
        hybrid = word.startswith("hybrid")
        _say(result, sharding if hybrid else kind, "dist.strategy", "hsdp" if hybrid else "fsdp")
        if word in ("shard_grad_op", "hybrid_shard_zero2"):
            _say(result, sharding, "dist.reshard_after_forward", False)
    elif not _mesh(settings, kind, result):
        return None
    reshard = settings.get("fsdp_reshard_after_forward")
    if reshard is not None and reshard.word == "false":
        _say(result, reshard, "dist.reshard_after_forward", False)
    offload = settings.get("fsdp_offload_params")
    if offload is not None and offload.word == "true":
        _say(result, offload, "dist.offload", True)
    return None


def _mesh(settings: _Settings, kind: _Setting, result: Statements) -> bool:
    """FSDP2's copies and shards (accelerate's parallelism config); whether anything is sharded."""

    def size(name: str) -> int:
        setting = settings.get(f"parallelism_config_{name}_size")
        return setting.number or 1 if setting is not None else 1

    for name in ("tp", "cp", "sp"):
        if size(name) > 1:
            _refuse(result, settings[f"parallelism_config_{name}_size"], "is not supported; only data parallelism is")
    if size("dp_replicate") == 1:
        _say(result, kind, "dist.strategy", "fsdp")
        return True
    copies = settings["parallelism_config_dp_replicate_size"]
    if size("dp_shard") == 1:
        _say(result, copies, "dist.strategy", "ddp")
        return False
    _say(result, copies, "dist.strategy", "hsdp")
    _say(result, settings["parallelism_config_dp_shard_size"], "dist.shard_ranks", size("dp_shard"))
    return True


def _deepspeed(settings: _Settings, kind: _Setting, result: Statements) -> None:
    stage, file = settings.get("zero_stage"), settings.get("deepspeed_config_file")
    if file is not None and file.word not in ("none", ""):
        _say(result, file, "dist.deepspeed", os.path.expanduser(file.value))
    elif stage is None:
        stage = _Setting("2", f"{kind.written}, whose zero_stage is 2 by default,", kind.origin)
    if stage is not None and stage.word not in ("0", "1", "2", "3"):
        _refuse(result, stage, "is not a stage of ZeRO; wanted: 0, 1, 2 or 3")
    elif stage is not None:
        _say(result, stage, "dist.strategy", "ddp" if stage.word == "0" else f"zero{stage.word}")
    _offload(settings, result)
    clip = settings.get("gradient_clipping")
    if clip is None or clip.word in ("auto", "none"):
        return
    try:
        norm = float(clip.value)
        if not math.isfinite(norm):
            raise ValueError
    except ValueError:
        return _refuse(result, clip, "is not a number")
    _say(result, clip, "train.clip_norm", norm or None)


def _offload(settings: _Settings, result: Statements) -> None:
    optimizer, weights = settings.get("offload_optimizer_device"), settings.get("offload_param_device")
    if optimizer is not None and optimizer.word == "cpu":
        _say(result, optimizer, "dist.offload", True)
    elif optimizer is not None and optimizer.word not in ("none", ""):
        _refuse(result, optimizer, "is not supported; cpu is")
    if weights is not None and weights.word not in ("none", ""):
        _refuse(result, weights, "is not supported; under ZeRO only the optimizer can be kept in CPU memory")
