"""A network's heads: the logits that a task takes of its output, and of auxiliary heads while it trains.

Auxiliary heads are classifiers on earlier features that help deep networks learn, and are dropped in evaluation.
Szegedy et al., Going Deeper with Convolutions, CVPR 2015 (arXiv:1409.4842), section 5: their losses have weight 0.3.
"""

from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from phalanx.configs.errors import UserError
from phalanx.configs.schema import RunConfig

HEADS = ("aux1", "aux2", "aux3")


class Heads:
    """The logits in a network's output: a tensor; a dictionary with `out` or `logits`, and `aux` or `aux1`, `aux2`, `aux3`;
    or a list, the main head first. Other entries of a dictionary are left alone.

    Args:
        outputs: number of classes.
        maps: whether there are logits of every pixel, in the size of the images.
    """

    def __init__(self, config: RunConfig, outputs: int, maps: bool = False):
        self._network, self._task, self._outputs, self._maps = config.model.name, config.task.name, outputs, maps

    def of(self, output: Any, images: Any) -> dict[str, Tensor]:
        """The logits by head, `out` first. Shape: [B, classes] each, or [B, classes, H, W].

        Args:
            output: what the network returned.
            images: [B, C, H, W], which it was given; or another input, unless there are maps.

        Raises:
            UserError: if there is no such head, or one of another shape.
        """
        found = _named(output)
        if "out" not in found:
            raise self._refused(output, images)
        heads = {"out": found["out"]} | {name: found[name] for name in HEADS if name in found}
        for logits in heads.values():
            if not isinstance(logits, Tensor) or not self._fits(logits, images):
                raise self._refused(output, images)
        return heads

    def main(self, output: Any, images: Any) -> Tensor:
        """The main head's logits.

        Raises:
            UserError: see `of`.
        """
        return self.of(output, images)["out"]

    def _fits(self, logits: Tensor, images: Any) -> bool:
        return list(logits.shape) == self._wanted(images)

    def _wanted(self, images: Any) -> list[int]:
        return [batch_size(images), self._outputs, *(images.shape[-2:] if self._maps else ())]

    def _refused(self, output: Any, images: Any) -> UserError:
        return UserError(
            f"model.name={self._network}: for {shown(images)} the network returned {shown(output)}, but task.name={self._task} "
            f"needs logits {self._wanted(images)}. Return such a tensor, or a dictionary that has it under out or logits.",
            shared=True,
        )


def inputs(batch: Mapping[str, Any]) -> Any:
    """What a network is given: a batch's `input` if it has one, else its `image`."""
    return batch["input"] if "input" in batch else batch["image"]


def batch_size(given: Any) -> int:
    """The number of samples in a network's input: a tensor, or a dictionary of inputs."""
    return batch_size(next(iter(given.values()))) if isinstance(given, Mapping) else len(given)


def _named(output: Any) -> dict[str, Any]:
    if isinstance(output, Tensor):
        return {"out": output}
    if isinstance(output, list | tuple) and 0 < len(output) <= 1 + len(HEADS):
        return dict(zip(("out", *HEADS), output, strict=False))
    if isinstance(output, Mapping):
        other_names = {"logits": "out", "aux": HEADS[0]}
        return {other_names.get(name, str(name)): value for name, value in output.items()}
    return {}


def shown(value: Any) -> str:
    """A network's output for messages: `a tensor [2, 10]`, `a dictionary (features: a tensor [2, 512])`."""
    if isinstance(value, Tensor):
        return f"a tensor {list(value.shape)}"
    if isinstance(value, Mapping):
        return f"a dictionary ({', '.join(f'{name}: {shown(item)}' for name, item in value.items())})"
    if isinstance(value, list | tuple):
        return f"a {type(value).__name__} ({', '.join(map(shown, value))})"
    return f"a {type(value).__name__}"


def auxiliary_weight(model: nn.Module, configured: float | None) -> float:
    """The weight of auxiliary losses: as configured, else the network's attribute, under any wrapper.

    Raises:
        UserError: if neither sets it.
    """
    if configured is not None:
        return configured
    for module in model.modules():
        weight: Any = getattr(module, "auxiliary_weight", None)
        if weight is not None:
            return float(weight)
    raise UserError(
        "the network has auxiliary heads, but loss.auxiliary is not set and the network has no attribute auxiliary_weight. "
        "Set loss.auxiliary, such as 0.4.",
        shared=True,
    )
