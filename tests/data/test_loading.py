"""How micro-batches are put together and travel, and what is said of a sample that cannot be used."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from phalanx.configs.errors import UserError
from phalanx.data.loading.loader import EvaluationLoader, Samples, collate
from phalanx.data.loading.packing import pack, unpack
from phalanx.data.transforms.pipeline import pipeline
from tests.data.examples import Noise, assert_same, loader, recipe, steps
from tests.support.running import DIGITS, FEW_EVALUATED, ROOT, assert_bitwise, phalanx, ranks

TYPES = [torch.uint8, torch.uint16, torch.int64, torch.bool, torch.bfloat16, torch.float16, torch.float32, torch.float64]


@pytest.mark.parametrize("dtype", TYPES, ids=str)
@pytest.mark.parametrize("shape", [(), (0,), (3,), (2, 0, 4), (300, 401)], ids=str)
def test_a_tensor_arrives_as_it_was_sent(dtype: torch.dtype, shape: tuple[int, ...]) -> None:
    tensor = torch.randint(2, shape).to(dtype)
    assert_same(unpack(pack(tensor)), tensor)
    odd = torch.ones(3, dtype=torch.uint8)
    assert_same(unpack(pack([odd, tensor, odd, tensor])), [odd, tensor, odd, tensor])
    assert_same(unpack(pack([])), [])


def test_many_tensors_travel_as_one() -> None:
    packed = pack([torch.rand(200, 200) for _ in range(50)])
    assert isinstance(packed.content, torch.Tensor) and packed.content.nbytes == 50 * 200 * 200 * 4


def test_a_ragged_entry_is_a_list_even_where_sizes_agree() -> None:
    samples = [{"id": i, "boxes": torch.zeros(2, 4), "image": torch.zeros(3, 4, 4)} for i in range(2)]
    batch = collate(samples, frozenset({"boxes"}))
    assert isinstance(batch["boxes"], list) and batch["image"].shape == (2, 3, 4, 4)


def test_samples_that_do_not_fit_together_are_named() -> None:
    with pytest.raises(UserError, match=r"'image' is \[3, 4, 4\] in sample 8, \[3, 5, 4\] in sample 9"):
        collate([{"id": 8, "image": torch.zeros(3, 4, 4)}, {"id": 9, "image": torch.zeros(3, 5, 4)}])
    with pytest.raises(UserError, match="sample 9 has id, target"):
        collate([{"id": 8}, {"id": 9, "target": 1}])


class Broken(Noise):
    def __getitem__(self, index: int) -> dict[str, Any]:
        if index == 11:
            raise UserError("images/11.jpg: this JPEG is cut off. Replace it.")
        return super().__getitem__(index)


@pytest.mark.parametrize("workers", [0, 1])
def test_bad_input_in_a_loader_process_is_the_same_sentence(workers: int) -> None:
    samples = Samples(Broken(), pipeline(recipe().data, Broken(), "val"), 0)
    with pytest.raises(UserError) as caught:
        list(EvaluationLoader(samples, 21, 4, 0, 1, workers))
    assert str(caught.value) == "images/11.jpg: this JPEG is cut off. Replace it."


def test_a_bug_in_a_loader_process_keeps_its_traceback() -> None:
    class Buggy(Noise):
        def __getitem__(self, index: int) -> dict[str, Any]:
            raise KeyError("no such thing")

    with pytest.raises(KeyError, match="in __getitem__"):
        steps([loader(recipe(), Buggy(), workers=1)], 0, 1)


def test_an_error_that_is_kept_does_not_keep_the_process_from_ending(tmp_path: Path) -> None:
    (tmp_path / "kept.py").write_text(
        "from tests.data.examples import Noise, loader, recipe\n"
        "class Buggy(Noise):\n"
        "    def __getitem__(self, index):\n"
        "        raise KeyError('no such thing')\n"
        "batches = loader(recipe(), Buggy(), workers=2).from_step(0, 1)\n"
        "try:\n"
        "    next(batches)\n"
        "except KeyError as error:\n"
        "    kept = error\n"
    )
    told = os.environ | {"PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])}
    subprocess.run([sys.executable, tmp_path / "kept.py"], check=True, timeout=60, env=told)


def test_random_numbers_of_the_dataset_s_own_are_the_same_wherever_the_transform_runs() -> None:
    class Drawing(Noise):
        def __getitem__(self, index: int) -> dict[str, Any]:
            return {"image": torch.rand(3, 20, 30), "target": index % 3}

    config = recipe("data.augment.flip=0.5", "data.augment.brightness=0.5", "data.augment.mixup=0.3")
    alone = steps([loader(config, Drawing())], 0, 2)
    for workers, device in ((1, None), (0, torch.device("cpu"))):
        assert_same(steps([loader(config, Drawing(), workers=workers, device=device)], 0, 2), alone)


OWN = """
import torch
from phalanx.configs.errors import UserError
class Stripes:
    classes = ("left", "right")
    channels, mean, std = 3, (0.5,) * 3, (0.5,) * 3
    def __init__(self, root, split): pass
    def __len__(self): return 24
    def __getitem__(self, i):
        if i == 7: raise UserError("stripes/7.png: this file is not an image. Remove it.")
        return {"image": torch.zeros(3, 8, 8), "target": i % 2}
"""
SMALL = ["model.stem=small", "data.image_size=16", "train.global_batch=16", "train.micro_batch=4", "train.steps=2"]


def test_a_sample_that_cannot_be_read_ends_training_with_its_name(tmp_path: Path) -> None:
    (tmp_path / "stripes.py").write_text(OWN)
    own = ["data.name=./stripes.py:Stripes", "data.workers=1", "data.augment.shift=0"]
    ended = phalanx("train", DIGITS, *SMALL, *own, cwd=tmp_path, expect=2)
    assert "phalanx: stripes/7.png: this file is not an image. Remove it." in ended.errors and "Traceback" not in ended.errors


def test_with_every_augmentation_two_ranks_train_the_same_bits_as_one(tmp_path: Path) -> None:
    augment = ["area=[0.3,1.0]", "shift=2", "flip=0.5", "vertical_flip=0.5", "brightness=0.3", "contrast=0.3", "randaugment=1"]
    augment += ["erasing=0.3", "mixup=0.2", "cutmix=1.0"]
    common = [DIGITS, *SMALL, FEW_EVALUATED, *(f"data.augment.{one}" for one in augment), "dist.reduce=exact"]
    ranks(1, *common, "name=one", "data.workers=1", cwd=tmp_path)
    ranks(2, *common, "name=two", "data.workers=0", "data.transform_on=device", cwd=tmp_path)
    assert_bitwise(tmp_path / "runs/one", tmp_path / "runs/two")
