"""Datasets of known files: MNIST's IDX format, and the binary version of CIFAR."""

import gzip
import os
from pathlib import Path

import numpy
import pytest
import torch

from phalanx.configs.errors import UserError
from phalanx.data import dataset_info
from phalanx.data.open import open_split
from tests.data.pictures import config

FASHION = Path("/usr/share/datasets/fashion-mnist")


def write_idx(path: Path, values: numpy.ndarray) -> None:
    sides = numpy.array(values.shape, ">u4").tobytes()
    path.write_bytes(gzip.compress(bytes([0, 0, 8, values.ndim]) + sides + values.astype(numpy.uint8).tobytes()))


def write_mnist(root: Path, labels: list[int]) -> numpy.ndarray:
    images = numpy.random.default_rng(1).integers(0, 256, (len(labels), 28, 28), dtype=numpy.uint8)
    write_idx(root / "train-images-idx3-ubyte.gz", images)
    write_idx(root / "train-labels-idx1-ubyte.gz", numpy.array(labels))
    return images


def test_mnist_is_read_from_its_files(tmp_path: Path) -> None:
    images = write_mnist(tmp_path, [3, 0, 9])
    dataset = open_split(config("mnist", tmp_path), "train")
    assert dataset.classes == tuple("0123456789") and dataset_info.labels(dataset).tolist() == [3, 0, 9]
    assert numpy.array_equal(dataset[1]["image"].numpy(), images[1:2]) and dataset[1]["target"] == 0
    with pytest.raises(UserError, match=r"t10k-images-idx3-ubyte\[\.gz\]: there is no such file"):
        open_split(config("mnist", tmp_path), "val")
    write_mnist(tmp_path, [3, 10, 9, 255])
    with pytest.raises(UserError, match=r"train-labels-idx1-ubyte\[\.gz\]: the label of sample 1 is 10.*2 of 4 labels"):
        open_split(config("mnist", tmp_path), "train")
    with pytest.raises(UserError, match=r"mnist has no split 'middle', but train, val, test"):
        open_split(config("mnist", tmp_path, train_split="middle"), "train")


# Where everything is tested a skip would go unseen.
@pytest.mark.skipif(
    not FASHION.is_dir() and os.environ.get("CI") != "true", reason="Debian's dataset-fashion-mnist is not installed"
)
def test_fashion_mnist_is_read_from_local_files() -> None:
    training, validation = (open_split(config("fashion_mnist", FASHION), split) for split in ("train", "val"))
    assert (len(training), len(validation)) == (60_000, 10_000)
    assert dataset_info.class_counts(training) == [6000] * 10
    images = torch.stack([torch.as_tensor(training[i]["image"]) for i in range(0, 60_000, 7)]) / 255
    assert images.shape[1:] == (1, 28, 28)
    assert images.mean().item() == pytest.approx(training.mean[0], abs=2e-3)
    assert images.std().item() == pytest.approx(training.std[0], abs=2e-3)


def records(count: int, label_bytes: int, seed: int) -> numpy.ndarray:
    content = numpy.random.default_rng(seed).integers(0, 10, (count, label_bytes + 3072), dtype=numpy.uint8)
    content[:, :label_bytes] = numpy.arange(count)[:, None] % 10 + numpy.arange(label_bytes) * 3
    return content


def test_cifar_10_is_read_from_the_binary_version(tmp_path: Path) -> None:
    folder = tmp_path / "cifar-10-batches-bin"
    folder.mkdir()
    (folder / "batches.meta.txt").write_text("\n".join(f"class-{i}" for i in range(10)) + "\n\n")
    written = [records(4, 1, i) for i in range(5)]
    for i, content in enumerate(written, 1):
        content.tofile(folder / f"data_batch_{i}.bin")
    dataset = open_split(config("cifar10", tmp_path), "train")
    assert len(dataset) == 20 and dataset.classes[3] == "class-3"
    assert dataset[6]["target"] == written[1][2, 0]
    assert numpy.array_equal(dataset[6]["image"].numpy(), written[1][2, 1:].reshape(3, 32, 32))
    assert open_split(config("cifar10", folder), "train").classes == dataset.classes
    (folder / "test_batch").write_bytes(b"a pickle")
    with pytest.raises(UserError, match=r"test_batch\.bin: there is no such file, only the pickled version for Python"):
        open_split(config("cifar10", tmp_path), "val")
    (folder / "test_batch.bin").write_bytes(bytes(3000))
    with pytest.raises(UserError, match=r"test_batch\.bin: 3000 bytes are not a multiple of 3073"):
        open_split(config("cifar10", tmp_path), "val")


def test_cifar_100_has_the_fine_classes(tmp_path: Path) -> None:
    (tmp_path / "fine_label_names.txt").write_text("\n".join(f"class-{i}" for i in range(100)))
    content = records(5, 2, 1)
    content.tofile(tmp_path / "train.bin")
    dataset = open_split(config("cifar100", tmp_path), "train")
    assert len(dataset.classes) == 100 and dataset_info.labels(dataset).tolist() == content[:, 1].tolist()
    (tmp_path / "fine_label_names.txt").unlink()
    with pytest.raises(UserError, match=r"fine_label_names\.txt: there is no such file"):
        open_split(config("cifar100", tmp_path), "train")


def test_digits_are_what_they_were() -> None:
    training, validation = (open_split(config("digits"), split) for split in ("train", "val"))
    assert (len(training), len(validation)) == (1437, 360)
    images = torch.stack([training[i]["image"] for i in range(len(training))])
    assert images.dtype == torch.float32 and images.mean().item() == pytest.approx(training.mean[0], abs=1e-3)
    with pytest.raises(UserError, match="digits has no split 'middle'"):
        open_split(config("digits", val_split="middle"), "val")
