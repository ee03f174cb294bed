"""A dense CRF on top of a network: pixels that are near each other, and of like colour, tend to be of one class.

Krähenbühl and Koltun, Efficient Inference in Fully Connected CRFs with Gaussian Edge Potentials, NIPS 2011 (arXiv:1210.5644);
after segmentation networks: Chen et al., DeepLab, ICLR 2015 (arXiv:1412.7062), section 4, and TPAMI 2017 (arXiv:1606.00915).

Classes x of the pixels have the energy (equations 1 to 3) `sum_i psi(x_i) + sum_{i<j} [x_i != x_j] k(i, j)`, where psi is minus
the network's log-probability, and k two Gaussians of positions p (pixels) and colours I (0 to 255):

    k(i, j) = w1 exp(-|p_i - p_j|^2 / (2 alpha^2) - |I_i - I_j|^2 / (2 beta^2)) + w2 exp(-|p_i - p_j|^2 / (2 gamma^2))

Each is divided by `sqrt(n_i n_j)`, `n_i` its sum over all pixels, as in the authors' later work (ICML 2013, section 5) and
code, so that a pixel's number of neighbours does not count. Mean field (algorithm 1) updates all pixels at once:
`Q_i(l) = softmax_l(-psi_i(l) + sum_{j != i} k(i, j) Q_j(l))`.

The second Gaussian is summed as it stands, row by row and column by column. The first, in five dimensions, is summed over all
pairs of pixels where an image has at most `EXACT_PIXELS`, and on the permutohedral lattice where it has more, which is nearly
the same: for CamVid's masks blurred eightfold, at 90 x 120 pixels and the parameters below, probabilities differ by 0.001 on
average and by up to 0.5 at some edges, and 0.4 to 0.9 % of the pixels are of another class, where the CRF changes 8 to 15 %;
it takes 0.2 s instead of 20 s (a core of an EPYC, torch 2.14.1).

The parameters are for images of VOC's size and objects. At that size of CamVid's they wipe out poles and people, and lower the
mean IoU (0.60 to 0.41 in that measurement): take smaller weights and deviations for small images, and see by evaluation.
"""

from dataclasses import dataclass
from typing import Literal, Protocol

import torch
from torch import Tensor

from phalanx.models.segmentation.crf.permutohedral import PermutohedralLattice

# 64 x 64, whose pairs take 64 MB.
EXACT_PIXELS = 4096
_PAIRS_AT_A_TIME = 2**22


@dataclass(frozen=True)
class Parameters:
    """Of the energy and its minimisation; the defaults are those of DeepLab's published script for VOC.

    Attributes:
        appearance: w1, weight of the Gaussian of position and colour.
        appearance_pixels: alpha, its standard deviation in pixels.
        appearance_colour: beta, its standard deviation in levels of 0 to 255.
        smoothness: w2, weight of the Gaussian of position.
        smoothness_pixels: gamma, its standard deviation in pixels.
        iterations: updates of the mean field.
        sums: how the Gaussian of position and colour is summed: over all pairs of pixels, in a time that grows with their
            number squared; on the lattice, nearly; or as the image's size suggests.
    """

    appearance: float = 4.0
    appearance_pixels: float = 49.0
    appearance_colour: float = 5.0
    smoothness: float = 3.0
    smoothness_pixels: float = 3.0
    iterations: int = 10
    sums: Literal["auto", "pairs", "lattice"] = "auto"

    def __post_init__(self) -> None:
        for name in ("appearance", "smoothness"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name}={getattr(self, name)}: a weight is at least 0")
        for name in ("appearance_pixels", "appearance_colour", "smoothness_pixels"):
            if getattr(self, name) <= 0:
                raise ValueError(f"{name}={getattr(self, name)}: a standard deviation is above 0")
        if self.iterations < 0:
            raise ValueError(f"iterations={self.iterations}: must be at least 0")


def refine(image: Tensor, log_probabilities: Tensor, parameters: Parameters | None = None) -> Tensor:
    """The classes' probabilities after mean field.

    Args:
        image: uint8 [3, H, W] (or of other channels), as the network's classes lie on it: not normalised, not flipped.
        log_probabilities: [C, H, W], of the network, up to a constant a pixel: logits do.

    Returns:
        [C, H, W], float32, with a sum of 1 at each pixel.

    Raises:
        ValueError: if the sizes differ, or a standard deviation is too small for the lattice.
    """
    parameters = parameters or Parameters()
    if image.shape[-2:] != log_probabilities.shape[-2:]:
        (height, width), (own_height, own_width) = log_probabilities.shape[-2:], image.shape[-2:]
        raise ValueError(f"the image has {own_height} x {own_width} pixels, its classes {height} x {width}: resize one of them")
    classes, height, width = log_probabilities.shape
    unary = log_probabilities.detach().float().reshape(classes, -1).T  # [N, C]
    gaussians = [
        (parameters.smoothness, _normalised(_Position(height, width, parameters.smoothness_pixels, unary.device))),
        (parameters.appearance, _normalised(_appearance(image.to(unary.device), parameters))),
    ]
    probabilities = unary.softmax(dim=1)
    for _ in range(parameters.iterations):
        energy = unary
        for weight, gaussian in gaussians:
            energy = energy + weight * gaussian.message(probabilities)
        probabilities = energy.softmax(dim=1)
    return probabilities.T.reshape(classes, height, width).contiguous()


class _Gaussian(Protocol):
    """A kernel among N pixels."""

    def filter(self, values: Tensor) -> Tensor:
        """`sum_j k(i, j) values_j`, over all pixels. Shape: [N, K] to the same."""
        ...

    def own(self) -> Tensor:
        """`k(i, i)`, in the same units. Shape: [N]."""
        ...


class _Normalised:
    """A kernel divided by `sqrt(n_i n_j)`."""

    def __init__(self, gaussian: _Gaussian, sums: Tensor):
        self._gaussian = gaussian
        self._factor = sums.rsqrt().unsqueeze(1)  # [N, 1]
        # Where the lattice has a pixel alone, it is given back itself, and no more.
        self._own = (gaussian.own().minimum(sums) / sums).unsqueeze(1)

    def message(self, values: Tensor) -> Tensor:
        """What each pixel hears from all others. Shape: [N, C] to the same."""
        return self._factor * self._gaussian.filter(self._factor * values) - self._own * values


def _normalised(gaussian: _Gaussian) -> _Normalised:
    own = gaussian.own()
    return _Normalised(gaussian, gaussian.filter(torch.ones_like(own).unsqueeze(1)).squeeze(1))


def _appearance(image: Tensor, parameters: Parameters) -> _Gaussian:
    height, width = image.shape[-2:]
    rows, columns = torch.meshgrid(
        torch.arange(height, device=image.device), torch.arange(width, device=image.device), indexing="ij"
    )
    position = torch.stack([rows, columns]).flatten(1).float() / parameters.appearance_pixels
    colour = image.flatten(1).float() / parameters.appearance_colour
    points = torch.cat([position, colour]).T.contiguous()  # [N, 2 + channels]
    pairs = parameters.sums == "pairs" or (parameters.sums == "auto" and len(points) <= EXACT_PIXELS)
    return _Pairs(points) if pairs else PermutohedralLattice(points)


class _Position:
    """The Gaussian of the distance in the image: the product of one along rows and one along columns."""

    def __init__(self, height: int, width: int, deviation: float, device: torch.device):
        self._rows, self._columns = (_line(length, deviation, device) for length in (height, width))

    def filter(self, values: Tensor) -> Tensor:
        maps = values.T.reshape(-1, len(self._rows), len(self._columns))  # [K, H, W]
        return (self._rows @ maps @ self._columns).flatten(1).T

    def own(self) -> Tensor:
        return self._rows.new_ones(len(self._rows) * len(self._columns))


def _line(length: int, deviation: float, device: torch.device) -> Tensor:
    place = torch.arange(length, device=device, dtype=torch.float32) / deviation
    return torch.exp((place.unsqueeze(0) - place.unsqueeze(1)).square() / -2)


class _Pairs:
    """The Gaussian between all pairs of points: of few, kept as one matrix; of many, made anew each time, some rows at once."""

    def __init__(self, points: Tensor):
        self._points = points.double()
        self._halves = self._points.square().sum(dim=1) / 2
        everything = torch.arange(len(points), device=points.device)
        self._rows = everything.split(max(1, _PAIRS_AT_A_TIME // len(points)))
        self._kept = [self._between(rows) for rows in self._rows] if len(points) <= EXACT_PIXELS else None

    def _between(self, rows: Tensor) -> Tensor:
        """Of some points with all, [rows, N]."""
        # In float64: squares of colours are so large that float32 has little left of their difference.
        exponent = self._points[rows] @ self._points.T - self._halves[rows].unsqueeze(1) - self._halves
        return exponent.float().exp_()

    def filter(self, values: Tensor) -> Tensor:
        blocks = self._kept if self._kept is not None else map(self._between, self._rows)
        return torch.cat([block @ values for block in blocks])

    def own(self) -> Tensor:
        return torch.ones_like(self._halves, dtype=torch.float32)
