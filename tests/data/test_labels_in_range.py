"""Labels of a user's own dataset that the network lacks are refused on the CPU, by sample and number."""

from pathlib import Path
from typing import Any

import pytest
import torch

from phalanx.data.bad_sample import BadSample
from phalanx.data.labels_in_range import LabelsInRange
from tests.data.examples import Noise
from tests.support.running import DIGITS, phalanx

CLASSES, IGNORED = 3, 255


class Given:
    """One sample, as it is given."""

    classes, channels, mean, std = ("sky", "road", "tree"), 3, (0.5,) * 3, (0.25,) * 3

    def __init__(self, **sample: Any) -> None:
        self._sample = {"image": torch.zeros(3, 4, 4), **sample}

    def __len__(self) -> int:
        return 1

    def __getitem__(self, index: int) -> dict[str, Any]:
        return self._sample


def _mask(*numbers: int, dtype: torch.dtype = torch.int64) -> torch.Tensor:
    return torch.tensor([[0, 1, 2, *numbers]] * 2, dtype=dtype)


FITTING = {
    "a class": {"target": 2},
    "a class as a tensor": {"target": torch.tensor(2)},
    "an ignored class": {"target": -1},
    "several labels": {"target": torch.tensor([0.0, 1.0, 1.0])},
    "a mask": {"mask": _mask()},
    "a mask with ignored pixels": {"mask": _mask(IGNORED, -1)},
    "a mask of bytes": {"mask": _mask(IGNORED, dtype=torch.uint8)},
    "no object": {"boxes": torch.zeros(0, 4), "labels": torch.zeros(0, dtype=torch.int64)},
    "objects": {"boxes": torch.zeros(2, 4), "labels": torch.tensor([0, 2])},
    "a crowd of no class": {"labels": torch.tensor([0, -1]), "crowd": torch.tensor([False, True])},
}
OUT_OF_RANGE = {
    "a class": ({"target": 3}, "its target is the class 3, but the network has 3 classes (0 to 2, below 0 to be ignored)"),
    "a class as a tensor": ({"target": torch.tensor(7, dtype=torch.uint8)}, "its target is the class 7"),
    "a mask": (
        {"mask": _mask(14)},
        "a pixel of its mask has the class 14, but the network has 3 classes (0 to 2, 255 and below 0 to be ignored)",
    ),
    "a mask below the ignored number": ({"mask": _mask(IGNORED, 3, dtype=torch.uint8)}, "a pixel of its mask has the class 3"),
    "a mask above the ignored number": ({"mask": _mask(IGNORED, 300)}, "a pixel of its mask has the class 300"),
    "an object": ({"labels": torch.tensor([0, 3])}, "an object has the class 3, but the network has 3 classes (0 to 2)"),
    "an object of no class": ({"labels": torch.tensor([-1]), "crowd": torch.tensor([False])}, "an object has the class -1"),
}


@pytest.mark.parametrize("sample", FITTING.values(), ids=FITTING)
def test_labels_that_the_network_has_pass_unchanged(sample: dict[str, Any]) -> None:
    given = Given(**sample)
    assert LabelsInRange(given, CLASSES, IGNORED)[0] is given[0]


@pytest.mark.parametrize(("sample", "said"), OUT_OF_RANGE.values(), ids=OUT_OF_RANGE)
def test_a_label_that_the_network_lacks_is_refused_with_sample_number_and_range(sample: dict[str, Any], said: str) -> None:
    with pytest.raises(BadSample) as refused:
        LabelsInRange(Given(**sample), CLASSES, IGNORED)[0]
    assert str(refused.value).startswith(f"sample 0: {said}")


@pytest.mark.parametrize("kind", ["classification", "segmentation", "detection"])
def test_every_kind_of_sample_of_a_right_dataset_passes(kind: str) -> None:
    data = LabelsInRange(Noise(kind), CLASSES, IGNORED)
    assert [data[index].keys() for index in range(len(data))] == [Noise(kind)[0].keys()] * len(data)


OWN = """
import torch
class Stripes:
    classes = ("left", "right")
    channels, mean, std = 3, (0.5,) * 3, (0.5,) * 3
    def __init__(self, root, split): pass
    def __len__(self): return 24
    def path(self, i): return f"stripes/{i}.png"
    def __getitem__(self, i): return {"image": torch.zeros(3, 8, 8), "target": 2 if i == 7 else i % 2}
"""


def test_training_ends_with_the_sample_s_name_instead_of_a_kernel_s_assertion(tmp_path: Path) -> None:
    (tmp_path / "stripes.py").write_text(OWN)
    small = ["model.stem=small", "data.image_size=16", "train.global_batch=16", "train.micro_batch=4", "train.steps=2"]
    own = ["data.name=./stripes.py:Stripes", "data.workers=1", "data.augment.shift=0"]
    ended = phalanx("train", DIGITS, *small, *own, cwd=tmp_path, expect=2)
    said = "phalanx: sample 7 (stripes/7.png): its target is the class 2, but the network has 2 classes (0 to 1"
    assert said in ended.errors and "Traceback" not in ended.errors
    phalanx("train", DIGITS, *small, *own, "model.num_classes=3", "name=wider", cwd=tmp_path)
