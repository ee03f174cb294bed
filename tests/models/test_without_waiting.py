"""The rewritten parts of torchvision's detectors give what torchvision's give, to the last bit."""

import pytest
import torch
from torch import Tensor, nn
from torchvision.models.detection._utils import BoxCoder, Matcher
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.rpn import RegionProposalNetwork
from torchvision.ops import MultiScaleRoIAlign, box_iou
from torchvision.ops.poolers import LevelMapper

from phalanx.models.detection.proposals import ProposalNetwork
from phalanx.models.detection.without_waiting import LevelPool, ObjectMatcher, OffsetCoder

SIDE = 256


def boxes(count: int, seed: int, side: float = SIDE) -> Tensor:
    g = torch.Generator().manual_seed(seed)
    corners = torch.rand(count, 2, generator=g) * side * 0.8
    return torch.cat([corners, corners + torch.rand(count, 2, generator=g).square() * side * 0.5], dim=1)


@pytest.mark.parametrize("low", [0.3, 0.5])
@pytest.mark.parametrize("best", [False, True])
def test_objects_are_matched_as_by_torchvision(low: float, best: bool) -> None:
    for seed in range(5):
        truth = boxes(1 + 3 * seed, seed)
        overlap = box_iou(truth, torch.cat([boxes(300, seed + 100), truth]))
        found = ObjectMatcher(0.5, low, best)(overlap)
        assert torch.equal(found, Matcher(0.5, low, best)(overlap)) and bool((found >= 0).any())


def test_boxes_are_coded_as_by_torchvision() -> None:
    weights = (10.0, 10.0, 5.0, 5.0)
    ours, theirs = OffsetCoder(weights), BoxCoder(weights)
    one, other = boxes(50, 0), boxes(50, 1)
    assert torch.equal(ours.encode_single(one, other), theirs.encode_single(one, other))
    moves = torch.randn(50, 4 * 3, generator=torch.Generator().manual_seed(2)) * 9
    assert torch.equal(ours.decode_single(moves, one), theirs.decode_single(moves, one))


def test_boxes_are_pooled_on_the_map_of_their_size_as_by_torchvision() -> None:
    names, strides = ["0", "1", "2", "3"], (4, 8, 16, 32)
    found = []
    for kind in (LevelPool, MultiScaleRoIAlign):
        g = torch.Generator().manual_seed(0)
        maps = {
            name: torch.randn(2, 5, SIDE // stride, SIDE // stride, generator=g).requires_grad_()
            for name, stride in zip(names, strides, strict=True)
        }
        pool = kind(names, 7, 2)
        pool.scales, pool.map_levels = [1 / stride for stride in strides], LevelMapper(2, 5, canonical_scale=32)
        seen = pool(maps, [boxes(40, 1), boxes(9, 2)], [(SIDE, SIDE)] * 2)
        (seen * torch.randn(seen.shape, generator=g)).sum().backward()
        found.append([seen, *(each.grad for each in maps.values())])
    for ours, theirs in zip(*found, strict=True):
        assert ours is not None and theirs is not None and torch.equal(ours, theirs) and bool(ours.any())


@pytest.mark.parametrize("seed", range(3))
def test_proposals_are_filtered_as_by_torchvision_without_those_that_are_too_small(seed: int) -> None:
    network = ProposalNetwork(AnchorGenerator(), nn.Identity()).eval()
    counts, sizes = [900, 300], [(SIDE, SIDE), (SIDE // 2, SIDE)]
    given = torch.stack([boxes(1200, seed), boxes(1200, seed + 50)])
    given[:, ::7, 2:] = given[:, ::7, :2]
    given[1, 1::5] += SIDE  # outside: clipped to nothing
    logits = torch.randn(2400, 1, generator=torch.Generator().manual_seed(seed))
    logits.view(2, -1)[:, 0] = 9.0  # the best one is too small
    expected, _ = RegionProposalNetwork.filter_proposals(network, given, logits, sizes, counts)
    found, scores = network.filtered_without_waiting(given, logits, sizes, counts)
    for one, other, sure in zip(found, expected, scores, strict=True):
        assert torch.equal(one, other) and len(sure) == len(one) > 50 and bool((sure > 0).all())
