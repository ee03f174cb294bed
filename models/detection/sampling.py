"""Which candidates of an image are learnt: a random choice that is the image's own, whoever runs it and beside whom."""

from collections.abc import Sequence

import torch
from torch import Tensor

from phalanx.models.detection.targets import sent


class Counts:
    """How many candidates of each image are positive and negative: copied to the host, and waited for where they are needed.

    Args:
        labels: [candidates] of each image: 1 or more of positive ones, 0 of negative ones, less than 0 of those not learnt.
    """

    def __init__(self, labels: Sequence[Tensor]):
        counts = torch.stack([torch.stack([(own >= 1).sum(), (own == 0).sum()]) for own in labels])
        self._host = counts.to("cpu", non_blocking=True)
        self._copied: torch.cuda.Event | None = None
        if counts.is_cuda:
            self._copied = torch.cuda.Event()
            self._copied.record()

    def of_images(self) -> list[tuple[int, int]]:
        """Positive and negative ones of each image."""
        if self._copied is not None:
            self._copied.synchronize()
        return [(positive, negative) for positive, negative in self._host.tolist()]


def sampled(
    labels: Tensor, counts: tuple[int, int], number: int, positives: float, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """Draws positive candidates, at most a share of the number, and fills up with negative ones.

    Ren et al., Faster R-CNN (arXiv:1506.01497), section 3.1.3; Girshick, Fast R-CNN (arXiv:1504.08083), section 2.3.

    Args:
        labels: [candidates]: 1 or more of positive ones, 0 of negative ones, less than 0 of those that are not learnt.
        counts: of positive and of negative ones, see `Counts`.
        number: of candidates that are wanted.
        positives: largest share of them that is positive.
        generator: on the CPU, whatever the device, so that all devices draw alike.

    Returns:
        The places of positive and of negative ones, each in rising order: at most `number` together.
    """
    some = _some(labels >= 1, counts[0], int(number * positives), generator)
    return some, _some(labels == 0, counts[1], number - len(some), generator)


def _some(there: Tensor, count: int, most: int, generator: torch.Generator) -> Tensor:
    """The places of some of those that are there, of which the host knows the number but not the places."""
    chosen = torch.randperm(count, generator=generator, device="cpu")[:most].sort().values
    return torch.searchsorted(there.cumsum(0), sent(chosen + 1, there.device))
