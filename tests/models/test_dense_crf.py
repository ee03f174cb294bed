"""The dense CRF against its equations, summed in float64; the lattice against all pairs; and what both are good for."""

import numpy
import pytest
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from phalanx.configs.sections.data import DataConfig
from phalanx.data.formats.shapes import Shapes
from phalanx.models.segmentation.crf import dense_crf
from phalanx.models.segmentation.crf.dense_crf import Parameters, refine
from phalanx.models.segmentation.crf.permutohedral import PermutohedralLattice

PARAMETERS = [
    Parameters(),
    Parameters(appearance_pixels=20, appearance_colour=40, smoothness_pixels=1.5),
    Parameters(appearance=0, smoothness=6, iterations=4),
    Parameters(appearance=10, appearance_pixels=3, appearance_colour=10, smoothness=0, iterations=20),
    Parameters(iterations=0),
]


def _picture(height: int, width: int, classes: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Smooth colours with some noise, and smooth log-probabilities that have nothing to do with them."""
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.rand(1, 3, 4, 5, generator=generator) * 255
    noise = torch.randn(3, height, width, generator=generator) * 6
    image = (F.interpolate(coarse, (height, width), mode="bilinear")[0] + noise).clamp(0, 255).to(torch.uint8)
    logits = F.interpolate(torch.randn(1, classes, 5, 4, generator=generator) * 2, (height, width), mode="bilinear")[0]
    return image, logits.log_softmax(0)


def _mean_field(image: Tensor, log_probabilities: Tensor, parameters: Parameters) -> NDArray[numpy.float64]:
    """Algorithm 1 of the paper: messages of all other pixels, the compatibility of classes, the local update."""
    classes, height, width = log_probabilities.shape
    places = [(row, column) for row in range(height) for column in range(width)]
    position = numpy.array(places, numpy.float64)
    colour = numpy.array([image[:, row, column].tolist() for row, column in places], numpy.float64)
    near, alike = (((of[:, None] - of[None]) ** 2).sum(2) for of in (position, colour))
    kernels = [
        (parameters.smoothness, numpy.exp(-near / (2 * parameters.smoothness_pixels**2))),
        (
            parameters.appearance,
            numpy.exp(-near / (2 * parameters.appearance_pixels**2) - alike / (2 * parameters.appearance_colour**2)),
        ),
    ]
    pairwise = numpy.zeros_like(near)
    for weight, kernel in kernels:
        sums = kernel.sum(1)
        pairwise += weight * kernel / numpy.sqrt(sums[:, None] * sums[None])
    numpy.fill_diagonal(pairwise, 0)
    differs = 1 - numpy.eye(classes)
    unary = -log_probabilities.double().numpy().reshape(classes, -1).T

    def normalised(energy: NDArray[numpy.float64]) -> NDArray[numpy.float64]:
        likely = numpy.exp(-(energy - energy.min(1, keepdims=True)))
        return likely / likely.sum(1, keepdims=True)

    found = normalised(unary)
    for _ in range(parameters.iterations):
        found = normalised(unary + (pairwise @ found) @ differs)
    return found.T.reshape(classes, height, width)


def _mean_iou(classes: Tensor, mask: Tensor, count: int) -> float:
    shares = []
    for number in range(count):
        one, other = classes == number, mask == number
        if (one | other).any():
            shares.append(float((one & other).sum() / (one | other).sum()))
    return sum(shares) / len(shares)


@pytest.mark.parametrize("parameters", PARAMETERS, ids=str)
@pytest.mark.parametrize("size", [(13, 18), (24, 17)], ids=str)
def test_a_small_image_gets_the_mean_field_of_the_equations(size: tuple[int, int], parameters: Parameters) -> None:
    image, log_probabilities = _picture(*size, classes=4)
    found, expected = refine(image, log_probabilities, parameters), _mean_field(image, log_probabilities, parameters)
    assert float((found.double() - torch.from_numpy(expected)).abs().max()) < 1e-4


def test_probabilities_of_every_pixel_have_a_sum_of_one_and_impossible_classes_stay_so() -> None:
    image, log_probabilities = _picture(70, 80, classes=3)  # the lattice's
    log_probabilities[0, :, 40:] = -torch.inf
    found = refine(image, log_probabilities)
    assert found.shape == (3, 70, 80) and found.dtype == torch.float32
    assert torch.allclose(found.sum(0), torch.ones(70, 80)) and float(found[0, :, 40:].max()) == 0


def test_logits_do_as_well_as_log_probabilities() -> None:
    image, log_probabilities = _picture(12, 15, classes=3)
    offset = torch.linspace(-5, 5, 12 * 15).reshape(12, 15)
    assert torch.allclose(refine(image, log_probabilities + offset), refine(image, log_probabilities), atol=1e-5)


def test_pairs_that_are_too_many_to_keep_give_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    image, log_probabilities = _picture(30, 32, classes=3)
    kept = refine(image, log_probabilities, Parameters(sums="pairs"))
    monkeypatch.setattr(dense_crf, "EXACT_PIXELS", 100)
    monkeypatch.setattr(dense_crf, "_PAIRS_AT_A_TIME", 5000)
    assert torch.allclose(refine(image, log_probabilities, Parameters(sums="pairs")), kept, atol=1e-6)


def test_the_lattice_comes_near_all_pairs() -> None:
    image, log_probabilities = _picture(60, 64, classes=5)
    pairs = refine(image, log_probabilities, Parameters(sums="pairs"))
    lattice = refine(image, log_probabilities, Parameters(sums="lattice"))
    changed = pairs.argmax(0) != log_probabilities.argmax(0)
    differs = pairs.argmax(0) != lattice.argmax(0)
    assert float(changed.float().mean()) > 0.1  # there is something to be near to
    assert float((pairs - lattice).abs().mean()) < 0.02 and float(differs.float().mean()) < 0.03


@pytest.mark.parametrize(("dimensions", "error"), [(1, 0.06), (2, 0.1), (3, 0.15), (5, 0.3)])
def test_the_lattice_is_a_gaussian_up_to_a_factor(dimensions: int, error: float) -> None:
    points = torch.randn(300, dimensions, generator=torch.Generator().manual_seed(0)) * 2
    lattice = PermutohedralLattice(points)
    matrix = lattice.filter(torch.eye(300))
    gaussian = torch.exp(-torch.cdist(points, points).square() / 2)
    factor = (matrix * gaussian).sum() / matrix.square().sum()
    assert float((factor * matrix - gaussian).norm() / gaussian.norm()) < error


def test_what_a_point_of_the_lattice_gives_itself_is_known_where_its_neighbours_are_there() -> None:
    grid = torch.stack(torch.meshgrid(torch.arange(40.0), torch.arange(40.0), indexing="ij")).flatten(1).T / 8
    lattice = PermutohedralLattice(grid)
    inside = ((grid > 1) & (grid < 4)).all(1).nonzero().squeeze(1)
    own = torch.stack([lattice.filter(F.one_hot(i, len(grid)).float().unsqueeze(1))[i, 0] for i in inside[::37]])
    assert torch.allclose(lattice.own()[inside[::37]], own, rtol=1e-4)


def test_points_too_far_apart_for_the_lattice_are_refused() -> None:
    with pytest.raises(ValueError, match="too far apart"):
        PermutohedralLattice(torch.randn(10, 5) * 1e6)


@pytest.mark.parametrize("sums", ["pairs", "lattice"])
def test_the_crf_finds_edges_that_were_blurred(sums: str) -> None:
    shapes = Shapes(DataConfig(name="shapes", options={"target": "mask", "size": 64, "val": 4}), "val")
    before, after = [], []
    for number in range(4):
        image, mask = shapes[number]["image"], shapes[number]["mask"].long()
        sharp = F.one_hot(mask, 9).permute(2, 0, 1).float()
        blurred = F.avg_pool2d(F.pad(sharp, (8, 8, 8, 8), mode="replicate"), 17, stride=1)  # as from a coarse map
        parameters = Parameters(appearance_pixels=20, appearance_colour=25, smoothness_pixels=1, sums=sums)  # type: ignore[arg-type]
        refined = refine(image, blurred.clamp(min=1e-3).log(), parameters)
        before.append(_mean_iou(blurred.argmax(0), mask, 9))
        after.append(_mean_iou(refined.argmax(0), mask, 9))
    assert sum(after) / 4 > sum(before) / 4 + 0.05, (before, after)


def test_an_image_of_another_size_and_parameters_that_cannot_be_are_refused() -> None:
    image, log_probabilities = _picture(10, 12, classes=2)
    with pytest.raises(ValueError, match="10 x 11 pixels, its classes 10 x 12"):
        refine(image[..., :11], log_probabilities)
    for bad in ({"appearance": -1}, {"smoothness_pixels": 0}, {"iterations": -1}):
        with pytest.raises(ValueError, match=next(iter(bad))):
            Parameters(**bad)  # type: ignore[arg-type]
