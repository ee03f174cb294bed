"""How a network that segments is asked: in several sizes, mirrored, by windows, with others, and refined; on any ranks."""

from pathlib import Path
from typing import Any

import numpy
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor, nn

from benchmarks.support.rank_pool import Pool
from phalanx.configs.errors import UserError
from phalanx.configs.sections.evaluate import EvaluateConfig
from phalanx.dist.comm.process_group import World
from phalanx.models.segmentation.crf import dense_crf
from phalanx.train.evaluation.evaluate import measure
from phalanx.train.setup.build import build_distributed, build_local
from phalanx.train.tasks.ensemble import MeanProbability
from phalanx.train.tasks.views import Views
from tests.train.segmenting import CLASSES, Given, configured, drawn, task_of


class Seeing(nn.Module):
    """Logits from a neighbourhood of each pixel, and from how large the image is and where in it the pixel lies."""

    def __init__(self, seed: int = 0):
        super().__init__()
        torch.manual_seed(seed)
        self.layer = nn.Conv2d(2, CLASSES, 3, padding=1).double().requires_grad_(False)
        self.seen: list[tuple[int, ...]] = []

    def forward(self, images: Tensor) -> Tensor:
        self.seen.append(tuple(images.shape))
        rows = torch.linspace(-1, 1, images.shape[2], dtype=images.dtype).reshape(1, 1, -1, 1).expand(len(images), 1, -1, 1)
        return self.layer(torch.cat([images, rows * torch.ones_like(images)], dim=1))


def images(count: int = 2, height: int = 12, width: int = 15) -> Tensor:
    return torch.randn(count, 1, height, width, generator=torch.Generator().manual_seed(7), dtype=torch.float64)


def probabilities(logits: Tensor, kind: str) -> Tensor:
    return logits.softmax(1) if kind == "softmax" else logits.sigmoid()


kinds = pytest.mark.parametrize("kind", ["softmax", "sigmoid"])


@kinds
def test_the_views_of_an_image_have_the_mean_of_their_probabilities(kind: Any) -> None:
    network, given = Seeing(), images()
    found = Views(network, EvaluateConfig(scales=[0.5, 1.0, 1.4], flip=True), kind)(given)
    wanted = torch.zeros_like(found)
    for height, width in (6, 8), (12, 15), (17, 21):
        view = given if height == 12 else F.interpolate(given, (height, width), mode="bilinear", antialias=True)
        for mirror in (lambda x: x), (lambda x: x.flip(-1)):
            logits = F.interpolate(mirror(network(mirror(view))), (12, 15), mode="bilinear", align_corners=False)
            wanted += probabilities(logits, kind) / 6
    assert float((probabilities(found, kind) - wanted).abs().max()) < 1e-12


@kinds
def test_windows_cover_every_pixel_and_where_they_overlap_their_mean_counts(kind: Any) -> None:
    network, given = Seeing(), images()
    found = Views(network, EvaluateConfig(window=(7, 20), stride=(4, 20)), kind)(given)
    assert network.seen == [(2, 1, 7, 15)] * 3  # from the rows 0, 4 and 5: the image is less wide than the window
    total, count = torch.zeros_like(found), torch.zeros(12, 1)
    for top in 0, 4, 5:
        total[:, :, top : top + 7] += probabilities(network(given[:, :, top : top + 7]), kind)
        count[top : top + 7] += 1
    assert int(count.min()) == 1 and int(count.max()) == 3
    assert float((probabilities(found, kind) - total / count).abs().max()) < 1e-12


def test_windows_move_on_by_two_thirds_and_one_that_holds_the_image_is_the_whole_of_it() -> None:
    assert EvaluateConfig(window=9).stride_sides == (6, 6)
    network, given = Seeing(), images()
    whole = Views(network, EvaluateConfig(window=64), "softmax")(given)
    assert network.seen == [(2, 1, 12, 15)]
    assert torch.equal(whole.argmax(1), network(given).argmax(1))
    plain = Views(network, EvaluateConfig(), "softmax")(given)
    assert torch.equal(plain, network(given))


def test_a_network_that_is_sure_makes_no_infinity() -> None:
    logits = torch.zeros(1, CLASSES, 6, 6)
    logits[:, 2] = 1e4
    task = task_of("evaluate.flip=true", "evaluate.window=4", "evaluate.scales=[1.0, 2.0]", "data.image_size=6")
    for mask in torch.full((1, 6, 6), 2), torch.full((1, 6, 6), 1):
        sums = task.measure(Given(), {"image": logits, "mask": list(mask)})
        assert torch.isfinite(sums["loss"]).all()  # type: ignore[arg-type]


@kinds
def test_networks_asked_together_have_the_mean_of_their_probabilities_at_every_pixel(kind: Any) -> None:
    one, other, given = Seeing(0), Seeing(1), images()
    found = MeanProbability([one, other], kind)(given)
    wanted = (probabilities(one(given), kind) + probabilities(other(given), kind)) / 2
    assert float((probabilities(found, kind) - wanted).abs().max()) < 1e-12


# -- dense CRF


def test_masks_are_refined_on_the_image_as_it_was_read() -> None:
    logits, mask = drawn(samples=1, height=16, width=20)
    pixels = torch.randint(256, (3, 32, 40), generator=torch.Generator().manual_seed(0)).to(torch.uint8)
    large = mask.repeat_interleave(2, 1).repeat_interleave(2, 2)
    keys = ["data.image_size=[16,20]", "evaluate.crf=true", "evaluate.crf_iterations=3", "evaluate.crf_appearance=8"]
    task = task_of(*keys)
    batch = {"image": logits, "mask": list(large), "pixels": [pixels]}
    (found,) = task._at_sizes(Given(), batch, [(32, 40)])
    seen = F.interpolate(logits, (32, 40), mode="bilinear", align_corners=False)[0]
    wanted = dense_crf.refine(pixels, seen, dense_crf.Parameters(appearance=8, iterations=3))
    assert float((found.softmax(0) - wanted).abs().max()) < 1e-6
    assert not torch.equal(found.argmax(0), seen.argmax(0))
    sums = task.measure(Given(), batch)
    assert int(sums["confusion"].trace()) == int((found.argmax(0) == large)[0].logical_and(large[0] != 255).sum())  # type: ignore[union-attr]


def test_the_crf_s_defaults_are_its_own() -> None:
    own, keys = dense_crf.Parameters(), EvaluateConfig()
    for name in ("appearance", "appearance_pixels", "appearance_colour", "smoothness", "smoothness_pixels", "iterations"):
        assert getattr(own, name) == getattr(keys, f"crf_{name}")


# -- whole evaluations


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Seven images to validate on, each of another size, and two to train on; in their masks a disc on a background."""
    root = tmp_path_factory.mktemp("masks")
    (root / "classes.txt").write_text("ground\ndisc\n")
    random = numpy.random.default_rng(0)
    for split, count in ("train", 2), ("val", 7):
        for what in "images", "masks":
            (root / what / split).mkdir(parents=True)
        for i in range(count):
            height, width = 20 + 3 * i, 44 - 2 * i
            rows, columns = numpy.mgrid[:height, :width]
            disc = (rows - height / 2) ** 2 + (columns - 9 - i) ** 2 < 60
            pixels = numpy.where(disc[..., None], (200, 90, 60), (60, 90, 120)) + random.integers(-40, 40, (height, width, 3))
            Image.fromarray(pixels.clip(0, 255).astype(numpy.uint8)).save(root / f"images/{split}/{i}.png")
            mask = disc.astype(numpy.uint8)
            mask[:2] = 255
            Image.fromarray(mask).save(root / f"masks/{split}/{i}.png")
    return root


def evaluated(world: World, root: str, strategy: str, settings: list[str]) -> tuple[dict[str, float], Any, int]:
    """Metrics and details of a U-Net with weights from the seed, and how often this rank asked it."""
    given = ["data.name=masks", f"data.root={root}", "data.image_size=[24,32]", "data.workers=0"]
    given += ["model.name=unet", "model.options={width: 4}", "train.global_batch=8", "train.micro_batch=2"]
    config = configured(*given, f"dist.strategy={strategy}", *settings)
    parts = build_distributed(config, build_local(config), world)
    forwards = []

    def counted(network: nn.Module) -> nn.Module:
        network.register_forward_hook(lambda *_: forwards.append(1))
        return network

    sums = measure(parts.engine, parts.task, parts.evaluation, counted)
    return parts.task.metrics(sums), parts.task.details(sums), len(forwards)  # type: ignore[attr-defined]


WAYS = {
    "plain": [],
    "padded, in another size": ["data.fit=pad", "evaluate.size=[48,48]"],
    "every view": ["evaluate.scales=[0.5, 1.0]", "evaluate.flip=true", "evaluate.crf=true", "evaluate.crf_iterations=2"],
    "short side": ["evaluate.size=[12,40]", "evaluate.fit=short_side"],
    "windows on the original": ["evaluate.size=original", "evaluate.window=16", "evaluate.crf=true"],
}


@pytest.mark.parametrize("way", WAYS)
def test_any_way_of_asking_gives_one_process_s_metrics_to_the_last_bit(pool: Pool, folder: Path, way: str) -> None:
    ((metrics, details, forwards),) = pool.run(1, evaluated, str(folder), "ddp", WAYS[way])
    assert list(metrics) == ["loss", "miou", "pixel_accuracy", "dice", "boundary_f"]
    assert all(0 <= value <= 1 for name, value in metrics.items() if name != "loss") and metrics["loss"] > 0
    sides = [(20 + 3 * i, 44 - 2 * i) for i in range(7)]
    assert sum(map(sum, details["confusion"])) == sum((height - 2) * width for height, width in sides)
    # Forwards of an evaluation wait for nobody: ranks whose images need other numbers of them do not hang.
    for strategy in ("fsdp", "zero3") if "windows" in way else ("fsdp",):
        shared = pool.run(2, evaluated, str(folder), strategy, WAYS[way])
        assert [(found[0], found[1]) for found in shared] == [(metrics, details)] * 2
        assert sum(found[2] for found in shared) == forwards
        assert "windows" not in way or shared[0][2] != shared[1][2]


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        (["evaluate.size=original", "evaluate.fit=pad"], "evaluate.size=original keeps theirs. Remove one"),
        (["evaluate.stride=8"], "evaluate.stride is how evaluate.window moves on, which is not given"),
        (["evaluate.window=8", "evaluate.stride=[8,9]"], r"evaluate.stride=\[8, 9\] leaves gaps between windows of \[8, 8\]"),
        (["evaluate.scales=[]"], "numbers above zero, each once"),
        (["evaluate.size=native"], "original, or pixels"),
        (["task.name=classification", "evaluate.flip=true"], "evaluate.flip is for task.name=segmentation"),
    ],
)
def test_ways_of_asking_that_cannot_be_are_refused_in_a_sentence(settings: list[str], said: str) -> None:
    with pytest.raises(UserError, match=said):
        task_of(*settings)
