"""Whether a network sees inputs of one size: then cuDNN may try its kernels once, and keep the fastest."""

from phalanx.configs.schema import RunConfig
from phalanx.models import registry


def vary(config: RunConfig) -> bool:
    """Whether convolutions see another size at almost every step or image: trying kernels would cost more than it saves.

    So do those of R-CNN's heads, which see as many regions as there are proposals.
    """
    spec = registry.MODELS.get(config.model.name)
    return config.sizes_vary or (spec is not None and spec.module.endswith(".rcnn"))
