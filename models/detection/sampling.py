"""Which candidates of an image are learnt: a random choice that is the image's own, whoever runs it and beside whom."""

import torch
from torch import Tensor


def sampled(labels: Tensor, number: int, positives: float, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Draws positive candidates, at most a share of the number, and fills up with negative ones.

    Ren et al., Faster R-CNN (arXiv:1506.01497), section 3.1.3; Girshick, Fast R-CNN (arXiv:1504.08083), section 2.3.

    Args:
        labels: [candidates]: 1 or more of positive ones, 0 of negative ones, less than 0 of those that are not learnt.
        number: of candidates that are wanted.
        positives: largest share of them that is positive.
        generator: on the CPU, whatever the device, so that all devices draw alike.

    Returns:
        The places of positive and of negative ones, each in rising order: at most `number` together.
    """
    positive, negative = (labels >= 1).nonzero().squeeze(1), (labels == 0).nonzero().squeeze(1)
    some = _some(positive, int(number * positives), generator)
    return some, _some(negative, number - len(some), generator)


def _some(places: Tensor, most: int, generator: torch.Generator) -> Tensor:
    chosen = torch.randperm(len(places), generator=generator, device="cpu")[:most].sort().values
    return places[chosen.to(places.device)]
