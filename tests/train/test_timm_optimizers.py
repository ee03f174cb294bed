"""Which of timm's optimizers update each element by itself, so that ZeRO and exact shards may give them pieces."""

import pytest
import torch

from phalanx.configs.optimizer_table import _TIMM_ELEMENT_WISE, TIMM, spec_of
from phalanx.configs.sections.optim import OptimConfig

timm_optim = pytest.importorskip("timm.optim")
STEPS = 4
_WITH_MOMENTUM = {"nesterov", "nesterovw", "sgd", "sgdc", "sgdw"}  # they have none by default


def _trained(name: str, cuts: list[int], **more: object) -> torch.Tensor:
    """A tensor after some steps on given gradients, cut into pieces that are parameters of their own."""
    torch.manual_seed(0)
    start, gradients = torch.randn(40, dtype=torch.float64), torch.randn(STEPS, 40, dtype=torch.float64)
    pieces = [torch.nn.Parameter(piece.clone()) for piece in start.split(cuts)]
    more = {"momentum": 0.9, **more} if name in _WITH_MOMENTUM else more
    made = timm_optim.get_optimizer_class(name, bind_defaults=True)(pieces, lr=0.1, weight_decay=0.01, **more)
    for gradient in gradients:
        for piece, own in zip(pieces, gradient.split(cuts), strict=True):
            piece.grad = own.clone()
        made.step()
    return torch.cat([piece.detach() for piece in pieces])


@pytest.mark.parametrize("name", sorted(_TIMM_ELEMENT_WISE))
def test_one_that_is_listed_gives_the_same_in_pieces(name: str) -> None:
    torch.testing.assert_close(_trained(name, [7, 1, 32]), _trained(name, [40]), rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("name", ["lamb", "lars", "novograd"])
def test_one_that_takes_norms_does_not_and_is_not_listed(name: str) -> None:
    assert not torch.allclose(_trained(name, [7, 1, 32]), _trained(name, [40]), rtol=1e-6)
    assert not spec_of(OptimConfig(name=f"{TIMM}{name}", lr=1.0)).element_wise


def test_caution_makes_any_of_them_take_means() -> None:
    assert not torch.allclose(_trained("lion", [7, 1, 32], caution=True), _trained("lion", [40], caution=True), rtol=1e-6)
    assert not spec_of(OptimConfig(name="timm/lion", lr=1.0, options={"caution": True})).element_wise
    assert spec_of(OptimConfig(name="timm/lion", lr=1.0)).element_wise
