"""The share of a forward pass in the step's loss."""

import torch
from torch import Tensor

from phalanx.dist.microbatches.forward_passes import ForwardPass
from phalanx.dist.step.global_loss import GlobalLoss


def test_a_weight_on_the_device_divides_to_the_bit_as_a_number_does() -> None:
    loss, alone = GlobalLoss(3, {}, 2), ForwardPass(0, 1, (0,))

    def part(total: Tensor, weight: float | Tensor) -> tuple[Tensor, Tensor]:
        return loss.parts([{"loss": (total, weight)}], {}, alone)[0]["loss"]

    torch.manual_seed(0)
    for dtype in (torch.float32, torch.float64):
        for total, weight in zip(torch.rand(500, dtype=dtype) * 100, torch.rand(500, dtype=dtype) * 300 + 1, strict=True):
            for of in (weight, weight.long()):
                found, expected = part(total, of), part(total, of.item())
                assert all(torch.equal(one, other) and one.dtype == dtype for one, other in zip(found, expected, strict=True))
    assert all(torch.equal(part, torch.zeros(())) for part in part(torch.ones(()), torch.tensor(0)))
