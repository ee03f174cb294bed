"""A run's settings in a DeepSpeed JSON file. "auto" sets nothing. No deepspeed here.

Names, defaults and meanings are those of deepspeed 0.19 (https://www.deepspeed.ai/docs/config-json). Settings that concern
neither the experiment nor a key of Phalanx (bucket sizes, overlap, ...) are passed on to DeepSpeed unchanged.
"""

from typing import Any

from phalanx.configs.launchers.statement import Statements, shown
from phalanx.configs.optimizer_table import OPTIMIZERS
from phalanx.configs.origin import Origin, Problem
from phalanx.configs.text.encodings import brief, read_text
from phalanx.configs.text.json_text import parse_json

_HALF = {
    "bf16": "bf16",
    "bfloat16": "bf16",
    "torch.bfloat16": "bf16",
    "fp16": "fp16",
    "float16": "fp16",
    "torch.float16": "fp16",
}
# Parameters of DeepSpeed's optimizers that select another implementation of the same arithmetic.
_IMPLEMENTATION = ("torch_adam", "fused", "foreach", "fp32_optimizer_states", "capturable", "differentiable", "adam_w_mode")
# Parameters that change the arithmetic, with the value that recipes mean.
_ONLY = {"amsgrad": False, "maximize": False, "bias_correction": True, "dampening": 0, "decoupled_weight_decay": True}
_SHARED = ("lr", "weight_decay")


def read(path: str) -> dict[str, Any]:
    """The object in a DeepSpeed JSON file.

    Raises:
        Problem: if it cannot be read, or is not a JSON object.
    """
    document = parse_json(read_text(path, "JSON"), path)
    if not isinstance(document, dict):
        raise Problem(Origin(path), "the file holds no object. Write DeepSpeed's settings as {...}.")
    return document


def statements(path: str, precision: str | None) -> Statements:
    """The file's settings of our keys, and its settings that recipes do not have.

    Args:
        precision: dist.precision from other sources, for sections that leave it open ("enabled": "auto").

    Raises:
        Problem: where the file cannot be read.
    """
    return _Reader(path, read(path)).statements(precision)


def deepspeed_gradient_accumulation(path: str) -> int | None:
    """Micro-batches per rank and step (`gradient_accumulation_steps`); None if the file leaves them open.

    Raises:
        Problem: if the file cannot be read, or they are not a positive integer.
    """
    steps = read(path).get("gradient_accumulation_steps")
    if steps in (None, "auto"):
        return None
    if type(steps) is not int or steps < 1:
        raise Problem(
            Origin(path), f"gradient_accumulation_steps={brief(shown(steps))} is not allowed; wanted: a whole number above 0."
        )
    return steps


class _Reader:
    """Goes through a document section by section."""

    def __init__(self, path: str, document: dict[str, Any]):
        self._origin, self._document, self._result = Origin(path), document, Statements()

    def statements(self, precision: str | None) -> Statements:
        self._zero()
        self._batches()
        self._precision()
        self._loss_scale(precision)
        self._optimizer()
        if self._document.get("scheduler") is not None:
            self._refuse("scheduler", "is not used: the recipe's schedule sets the learning rate. Remove it")
        return self._result

    def _get(self, name: str) -> Any:
        """The value at `section.key`; None if absent, or "auto"."""
        value: Any = self._document
        for part in name.split("."):
            value = value.get(part) if isinstance(value, dict) else None
        return None if value == "auto" else value

    def _section(self, name: str) -> dict[str, Any]:
        """A section, empty if absent; refused if it is not an object."""
        value = self._get(name)
        if value is not None and not isinstance(value, dict):
            self._refuse(f"{name}={shown(value)}", "is not allowed; wanted: an object with keys. Correct it")
        return value if isinstance(value, dict) else {}

    def _refuse(self, written: str, why: str) -> None:
        self._result.refuse(self._origin, f"{brief(written, 120)} {why}.")

    def _say(self, name: str, key: str, value: Any) -> None:
        self._result.say(self._origin, f"{name}={shown(self._get(name))}", key, value)

    def _imply(self, written: str, key: str, value: Any) -> None:
        self._result.say(self._origin, written, key, value, implied=True)

    def _enabled(self, name: str) -> bool:
        """Whether a section has `"enabled": true`."""
        value = self._section(name).get("enabled")
        if value not in (None, "auto") and not isinstance(value, bool):
            self._refuse(f"{name}.enabled={shown(value)}", "is not allowed; wanted: true, false or auto. Correct it")
        return value is True

    def _zero(self) -> None:
        zero = self._section("zero_optimization")
        stage = self._get("zero_optimization.stage")
        if stage is not None and (type(stage) is not int or not 0 <= stage <= 3):
            self._refuse(f"zero_optimization.stage={shown(stage)}", "is not allowed; wanted: 0, 1, 2 or 3. Correct it")
        elif stage is not None:
            self._say("zero_optimization.stage", "dist.strategy", f"zero{stage}" if stage else "ddp")
        for name in ("cpu_offload", "cpu_offload_param"):
            if zero.get(name):
                self._refuse(
                    f"zero_optimization.{name}", "is out of date. Say zero_optimization.offload_optimizer.device instead"
                )
        if self._section("zero_optimization.offload_optimizer"):
            device = self._get("zero_optimization.offload_optimizer.device")
            if device in ("cpu", "none"):
                self._say("zero_optimization.offload_optimizer.device", "dist.offload", device == "cpu")
            elif device is not None:
                written = f"zero_optimization.offload_optimizer.device={shown(device)}"
                self._refuse(written, "is not supported. Set cpu or none")
        if self._section("zero_optimization.offload_param"):
            device = self._get("zero_optimization.offload_param.device")
            if device not in (None, "none"):
                written = f"zero_optimization.offload_param.device={shown(device)}"
                self._refuse(written, "is not supported: under ZeRO only the optimizer can be kept in CPU memory. Remove it")

    def _batches(self) -> None:
        for name, key in (
            ("train_batch_size", "train.global_batch"),
            ("train_micro_batch_size_per_gpu", "train.micro_batch"),
            ("gradient_clipping", "train.clip_norm"),
        ):
            if (value := self._get(name)) is not None:
                self._say(name, key, None if name == "gradient_clipping" and value == 0 else value)

    def _precision(self) -> None:
        for name, precision in (("bf16", "bf16"), ("bfloat16", "bf16"), ("fp16", "fp16")):
            if self._enabled(name):
                self._say(f"{name}.enabled", "dist.precision", precision)
        if self._enabled("torch_autocast"):
            dtype = self._get("torch_autocast.dtype")
            if dtype is None:
                return
            if isinstance(dtype, str) and dtype in _HALF:
                self._say("torch_autocast.dtype", "dist.precision", _HALF[dtype])
            else:
                self._refuse(f"torch_autocast.dtype={shown(dtype)}", "is not supported. Set bfloat16 or float16")
        if self._enabled("amp"):
            self._refuse("amp.enabled=true", "is not supported. Use bf16 or fp16")

    def _loss_scale(self, precision: str | None) -> None:
        """Reads the loss scale if fp16 is on, or left to a recipe that has it on; otherwise it is not used."""
        left_open = self._section("fp16").get("enabled") == "auto" and precision == "fp16"
        if not (self._section("fp16").get("enabled") is True or left_open):
            return
        if self._get("fp16.loss_scale"):
            self._refuse(
                f"fp16.loss_scale={shown(self._get('fp16.loss_scale'))}",
                "fixes the loss scale, which moves here. Set 0, and where it starts by fp16.initial_scale_power",
            )
        power = self._get("fp16.initial_scale_power")
        if power is not None and (type(power) is not int or not 0 <= power <= 127):
            self._refuse(
                f"fp16.initial_scale_power={shown(power)}", "is not allowed; wanted: a whole number up to 127. Correct it"
            )
        elif power is not None:
            self._say("fp16.initial_scale_power", "dist.loss_scale", 2.0**power)
        if self._get("fp16.loss_scale_window") is not None:
            self._say("fp16.loss_scale_window", "dist.loss_scale_window", self._get("fp16.loss_scale_window"))

    def _optimizer(self) -> None:
        if not self._section("optimizer"):
            return
        kind, parameters = self._get("optimizer.type"), self._section("optimizer.params")
        if kind is None:
            self._refuse("optimizer.type", "is missing. Set AdamW or SGD, or remove `optimizer`")
            return
        name = {"adam": "adamw", "adamw": "adamw", "sgd": "sgd"}.get(str(kind).lower())
        if name is None:
            self._refuse(f"optimizer.type={shown(kind)}", "is not supported. Set AdamW or SGD, or remove `optimizer`")
            return
        self._say("optimizer.type", "optim.name", name)
        for parameter, value in parameters.items():
            if value != "auto":
                self._parameter(name, parameter, value)
        self._unwritten(name, str(kind).lower(), parameters)

    def _parameter(self, name: str, parameter: str, value: Any) -> None:
        written = f"optimizer.params.{parameter}"
        if parameter in (*_SHARED, *OPTIMIZERS[name].keys):
            self._say(written, f"optim.{parameter}", value)
        elif parameter in _ONLY:
            if value != _ONLY[parameter]:
                self._refuse(f"{written}={shown(value)}", f"is not available in a recipe. Set {shown(_ONLY[parameter])}")
        elif parameter not in _IMPLEMENTATION:
            self._refuse(f"{written}={shown(value)}", f"is not a parameter of {name} in recipes. Remove it")

    def _unwritten(self, name: str, kind: str, parameters: dict[str, Any]) -> None:
        """Adds DeepSpeed's defaults of missing parameters, where they differ from a recipe's."""
        if name == "sgd" and "momentum" not in parameters:
            self._imply("optimizer.type=SGD without momentum", "optim.momentum", 0.0)
        if name == "adamw" and parameters.get("torch_adam") and "weight_decay" not in parameters:
            self._imply("optimizer.params.torch_adam=true without weight_decay", "optim.weight_decay", 0.01)
        # DeepSpeed's Adam is AdamW unless adam_w_mode=false, and without weight decay the two are the same.
        if kind == "adam" and parameters.get("adam_w_mode") is False:
            written = "optimizer.params.adam_w_mode=false"
            if parameters.get("weight_decay"):
                self._refuse(written, "with weight_decay is Adam, whose decay is not adamw's. Set true, or weight_decay=0")
            else:
                self._result.say(self._origin, written, "optim.weight_decay", 0.0)
