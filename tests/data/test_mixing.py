"""MixUp and CutMix, by their definitions."""

from typing import Any

import pytest
import torch

from phalanx.data.transforms.mixing import Mixing


def _batch(samples: int = 6) -> dict[str, Any]:
    """Sample i is an image of the colour i + 1, of class i."""
    image = torch.arange(1.0, samples + 1).reshape(-1, 1, 1, 1).expand(samples, 3, 20, 30)
    return {"image": image, "target": torch.arange(samples), "id": torch.arange(samples) * 7}


def test_mixup_takes_one_share_of_image_and_target() -> None:
    batch = _batch()
    for step in range(20):
        mixed = Mixing(0.4, 0.0, 6, seed=1)(step, batch)
        target = mixed["target"]
        share = float(target[0, 0])
        assert target.dtype == torch.float32 and 0 <= share <= 1
        assert torch.allclose(target, share * torch.eye(6) + (1 - share) * torch.eye(6).roll(1, 0))
        assert torch.allclose(mixed["image"], share * batch["image"] + (1 - share) * batch["image"].roll(1, 0))


def test_cutmix_cuts_a_rectangle_and_the_target_has_the_shares_that_are_seen() -> None:
    batch, cut = _batch(), 0
    for step in range(20):
        mixed = Mixing(0.0, 1.0, 6, seed=1)(step, batch)
        for i in range(6):
            own = (mixed["image"][i] == i + 1).float().mean()
            other = (mixed["image"][i] == (i - 1) % 6 + 1).float().mean()
            assert own + other == pytest.approx(1) and mixed["target"][i, i] == pytest.approx(float(own), abs=1e-6)
        rows, columns = (mixed["image"][0, 0] != 1).nonzero(as_tuple=True)
        if len(rows):
            cut += 1
            assert len(rows) == (rows.max() - rows.min() + 1) * (columns.max() - columns.min() + 1)
    assert cut > 10


def test_with_both_each_micro_batch_has_one_of_them() -> None:
    mixing, cut = Mixing(1.0, 1.0, 6, seed=3), 0
    for step in range(200):
        image = mixing(step, _batch())["image"]
        cut += bool((image == image.round()).all())
    assert 70 < cut < 130


def test_a_mixture_depends_on_seed_step_and_samples_and_on_nothing_else() -> None:
    batch = _batch()
    first = Mixing(0.4, 0.0, 6, seed=1)(5, batch)["target"]
    torch.manual_seed(17)
    assert torch.equal(Mixing(0.4, 0.0, 6, seed=1)(5, batch)["target"], first)
    others = [Mixing(0.4, 0.0, 6, seed=2)(5, batch), Mixing(0.4, 0.0, 6, seed=1)(6, batch)]
    others.append(Mixing(0.4, 0.0, 6, seed=1)(5, batch | {"id": batch["id"] + 1}))
    assert not any(torch.equal(other["target"], first) for other in others)


def test_several_labels_are_mixed_and_labels_that_count_for_nothing_have_no_share() -> None:
    several = _batch(2) | {"target": torch.tensor([[1.0, 1, 0], [0, 0, 1]])}
    mixed = Mixing(0.4, 0.0, 3, seed=1)(0, several)["target"]
    assert torch.allclose(mixed[0] + mixed[1], torch.ones(3)) and mixed[0, 0] == mixed[0, 1]
    ignored = Mixing(0.4, 0.0, 2, seed=1)(0, _batch(2) | {"target": torch.tensor([1, -1])})["target"]
    assert ignored[:, 0].eq(0).all() and ignored[:, 1].sum() == pytest.approx(1)
