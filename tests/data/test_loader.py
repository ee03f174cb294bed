"""What the loader brings: the same samples and the same augmentation for any number of ranks and workers."""

from pathlib import Path

import numpy
import pytest
import torch

from phalanx.configs.errors import UserError
from phalanx.configs.load import load
from phalanx.data.loading.loader import EvaluationLoader, Loader, Samples
from phalanx.data.loading.packing import pack, unpack
from phalanx.data.open import open_split
from phalanx.data.transforms.pipeline import pipeline
from phalanx.dist.microbatches.sampler import Stream, share
from tests.data import objects
from tests.support.running import DIGITS


def _loader(rank: int, world: int, workers: int) -> Loader:
    config = load([DIGITS], ["data.augment.shift=3", "data.augment.flip=0.5", "data.image_size=16"])
    dataset = open_split(config.data, "train")
    samples = Samples(dataset, pipeline(config.data, dataset, "train"), config.seed)
    stream = Stream(len(dataset), config.seed, global_batch=24, micro_batch=4)
    return Loader(samples, stream, share(6, rank, world), workers, pin=False)


def _steps(world: int, workers: int, start: int = 0) -> list[tuple[list[int], torch.Tensor]]:
    """Ids and images of each step over all ranks. 58 to 62: the first epoch ends within."""
    per_rank = [list(_loader(rank, world, workers).from_step(58 + start, 62)) for rank in range(world)]
    result = []
    for batches in zip(*per_rank, strict=True):
        ids = [i for batch in batches for i in batch.ids]
        result.append((ids, torch.cat([m["image"] for batch in batches for m in batch.micro_batches])))
    return result


@pytest.mark.parametrize(("world", "workers"), [(1, 1), (1, 3), (2, 0), (4, 2)])
def test_samples_and_augmentation_do_not_depend_on_ranks_or_workers(world: int, workers: int) -> None:
    for (ids, images), (expected_ids, expected) in zip(_steps(world, workers), _steps(1, 0), strict=True):
        assert ids == expected_ids and torch.equal(images, expected)


def test_a_loader_that_starts_later_continues_alike() -> None:
    for (ids, images), (expected_ids, expected) in zip(_steps(1, 2, start=2), _steps(1, 0)[2:], strict=True):
        assert ids == expected_ids and torch.equal(images, expected)


def test_augmentation_differs_between_epochs_and_leaves_the_generators_alone() -> None:
    config = load([DIGITS], [])
    dataset = open_split(config.data, "train")
    samples = Samples(dataset, pipeline(config.data, dataset, "train"), config.seed)
    from phalanx.dist.microbatches.sampler import Draw

    before = torch.random.get_rng_state(), numpy.random.get_state()[1].tolist()
    images = [samples[Draw(epoch, 7)]["image"] for epoch in range(4)]
    assert len({tuple(image.flatten().tolist()) for image in images}) > 1
    assert torch.equal(before[0], torch.random.get_rng_state()) and before[1] == numpy.random.get_state()[1].tolist()


@pytest.mark.parametrize("world", [1, 2, 3, 4, 8])
def test_evaluation_takes_every_sample_once(world: int) -> None:
    config = load([DIGITS], [])
    dataset = open_split(config.data, "val")
    samples = Samples(dataset, pipeline(config.data, dataset, "val"), config.seed)
    seen = []
    for rank in range(world):
        loader = EvaluationLoader(samples, 7, 2, rank, world, workers=0)
        seen += [(number, batch["id"].tolist()) for number, batch in loader]
    assert seen == [(0, [0, 1]), (1, [2, 3]), (2, [4, 5]), (3, [6])]


def test_digits_are_split_without_overlap() -> None:
    config = load([DIGITS], [])
    training, validation = open_split(config.data, "train"), open_split(config.data, "val")
    assert (len(training), len(validation)) == (1437, 360)
    images = torch.stack([torch.as_tensor(training[i]["image"]) for i in range(len(training))])
    assert images.mean().item() == pytest.approx(training.mean[0], abs=1e-3)
    assert images.std().item() == pytest.approx(training.std[0], abs=1e-3)


OWN_DATASET = """
import torch
class Stripes:
    classes = ("left", "right")
    channels, mean, std = 3, (0.5,) * 3, (0.5,) * 3
    def __init__(self, root, split): self.split = split
    def __len__(self): return 10 if self.split == "train" else 0
    def __getitem__(self, i): return {"image": torch.rand(3, 8, 8), "target": i % 2}
"""


def test_a_dataset_of_the_user_s_own_is_a_file(tmp_path: Path) -> None:
    (tmp_path / "stripes.py").write_text(OWN_DATASET)
    config = load([DIGITS], [f"data.name={tmp_path}/stripes.py:Stripes"])
    assert len(open_split(config.data, "train")) == 10
    with pytest.raises(UserError, match="'val' has no samples"):
        open_split(config.data, "val")
    with pytest.raises(UserError, match="has no Dots"):
        open_split(load([DIGITS], [f"data.name={tmp_path}/stripes.py:Dots"]).data, "train")


def test_tensors_without_elements_travel_whoever_made_them() -> None:
    boxes = torch.from_numpy(numpy.zeros((3, 4), numpy.float32)[3:].copy())  # numpy gives it strides of 0
    masks, labels = torch.from_numpy(numpy.zeros((0, 8, 8), bool)), torch.from_numpy(numpy.array([], numpy.int64))
    cases = [boxes, masks, labels, torch.zeros(0, 4), torch.zeros(2, 0, 3).permute(2, 0, 1), torch.zeros(4, 2)[:, :0]]
    for value in [*cases, [labels, torch.arange(3), labels], [masks, torch.ones(1, 8, 8) > 0], [labels], [boxes, boxes]]:
        back = unpack(pack(value))
        for was, found in zip(
            value if isinstance(value, list) else [value], back if isinstance(back, list) else [back], strict=True
        ):
            assert found.dtype == was.dtype and found.shape == was.shape and torch.equal(found, was)


@pytest.mark.parametrize("workers", [0, 1])
@pytest.mark.parametrize("device", [None, torch.device("cpu")])
def test_training_batches_without_objects_are_loaded_in_any_process_and_transformed_on_any_device(
    tmp_path: Path, workers: int, device: torch.device | None
) -> None:
    objects.coco(tmp_path, {"train": [0, 0, 0, 2]})
    config = load([DIGITS], ["data.image_size=24", "data.augment.shift=0", "data.augment.flip=0.5"]).data
    config = config.model_copy(update={"name": "coco", "root": str(tmp_path), "options": {"masks": True}, "val_fraction": None})
    dataset = open_split(config, "train")
    samples = Samples(dataset, pipeline(config, dataset, "train"), 0)
    loader = Loader(samples, Stream(4, 0, 4, 2), share(2, 0, 1), workers, False, device=device)
    (batch,) = loader.from_step(0, 1)
    for found in batch.micro_batches:
        rows = zip(found["boxes"], found["masks"], found["labels"], strict=True)
        assert all(b.shape == (len(n), 4) and m.shape == (len(n), 24, 24) for b, m, n in rows)
    assert sorted(len(labels) for found in batch.micro_batches for labels in found["labels"]) == [0, 0, 0, 2]
