"""Gaussian filtering among points of a few dimensions, in a time that grows with their number, not with its square.

Adams, Baek and Davis, Fast High-Dimensional Filtering Using the Permutohedral Lattice, Eurographics 2010.

Space is cut into equal simplices. Each point is splatted onto the d + 1 vertices of its simplex, by barycentric weights; the
vertices that are there are blurred with [1/4, 1/2, 1/4] along the d + 1 directions of the lattice; and each point takes a mean
of its vertices, by the same weights. What a point gives itself is what the paper's equation of variances makes of it, so
that the result is about a Gaussian, up to a factor: it decreases a little too slowly, and is a little different in every place.

Vertices have integer coordinates `x_0, ..., x_d`, whose sum is zero, all congruent modulo d + 1. Here a vertex is one whole
number: its first d coordinates divided by d + 1, in a mixed base, and their common remainder.
"""

import math

import torch
from torch import Tensor

_LARGEST_CODE = 2**62


class PermutohedralLattice:
    """The lattice among some points.

    Args:
        points: [N, d], floating point, in units of the Gaussian's standard deviation.

    Raises:
        ValueError: if the points are too far apart for their vertices to be numbered.
    """

    def __init__(self, points: Tensor):
        dimensions = points.shape[1]
        corner, rank, self._weights = _simplices(points)  # [N, d + 1] each
        codes, strides = _codes(corner, rank)  # [N, d + 1]
        vertices, index = torch.unique(codes, return_inverse=True)  # [M], [N, d + 1]
        self._index, self._count = index, len(vertices)
        self._neighbours = [_neighbours(vertices, strides, direction) for direction in range(dimensions + 1)]
        self._own = self._weights_of_itself()

    def filter(self, values: Tensor) -> Tensor:
        """At each point, the sum of the values of all points, weighted by a Gaussian of their distance, up to a factor.

        Shape: [N, K] to the same.
        """
        splatted = self._weights.unsqueeze(2) * values.unsqueeze(1)  # [N, d + 1, K]
        # The last vertex is the one that is not there.
        lattice = values.new_zeros(self._count + 1, values.shape[1])
        lattice.index_add_(0, self._index.flatten(), splatted.flatten(0, 1))
        for ahead, behind in self._neighbours:
            lattice[:-1] = lattice[:-1] / 2 + (lattice[ahead] + lattice[behind]) / 4
        return (lattice[self._index] * self._weights.unsqueeze(2)).sum(1)

    def own(self) -> Tensor:
        """How much of its own value each point gets back, in the units of `filter`. Shape: [N]."""
        return self._own

    def _weights_of_itself(self) -> Tensor:
        """`sum_kl b_k b_l r(|k - l|)`, of barycentric weights b, and of what the blur brings from one vertex to another.

        From vertex k of a simplex to vertex l one goes a step along each of |k - l| directions or, as all directions together
        lead back, a step back along each of the others. Vertices on the way are taken to be there.
        """
        directions = self._weights.shape[1]
        far = torch.arange(directions, dtype=self._weights.dtype, device=self._weights.device)
        response = 2.0**-directions * (2.0**-far + 2.0 ** (far - directions))
        response[0] += 4.0**-directions  # all the way round, the other way
        number = torch.arange(directions, device=far.device)
        between = response[(number.unsqueeze(0) - number.unsqueeze(1)).abs()]  # [d + 1, d + 1]
        return ((self._weights @ between) * self._weights).sum(1)


def _simplices(points: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The simplex around each point.

    Returns:
        Its vertex of remainder zero; for each coordinate, how many others the point exceeds that vertex in by more; the point's
        barycentric weight at the vertex of each remainder. [N, d + 1] each.
    """
    dimensions = points.shape[1]
    period = dimensions + 1
    # The variance of splat, blur and slice together is 2/3 (d + 1)^2 along every axis.
    elevated = points * (math.sqrt(2 / 3) * period) @ _basis(dimensions).to(points)  # [N, d + 1], sums of zero
    rounded = (elevated / period).round()
    rank = (elevated - rounded * period).argsort(dim=1, descending=True, stable=True).argsort(dim=1)
    # The nearest multiples of the period need not have a sum of zero: those that were rounded furthest go to the next.
    rank = rank + rounded.sum(dim=1, keepdim=True).long()
    low, high = rank < 0, rank > dimensions
    corner = rounded.long() + low.long() - high.long()
    rank = rank + period * (low.long() - high.long())
    excess = elevated / period - corner
    ordered = torch.zeros_like(excess).scatter_(1, rank, excess)  # falling
    weights = ordered.flip(1)
    weights[:, 1:] -= ordered.flip(1)[:, :-1]
    weights[:, 0] += 1 - ordered[:, 0]
    return corner, rank, weights


def _basis(dimensions: int) -> Tensor:
    """Orthonormal vectors in the hyperplane of sums of zero. Shape: [d, d + 1]."""
    basis = torch.zeros(dimensions, dimensions + 1, dtype=torch.float64)
    for row in range(dimensions):
        basis[row, : row + 1] = 1
        basis[row, row + 1] = -(row + 1)
    return basis / basis.norm(dim=1, keepdim=True)


def _codes(corner: Tensor, rank: Tensor) -> tuple[Tensor, Tensor]:
    """The numbers of each simplex's vertices, and what a step along each coordinate adds to a number.

    Returns:
        [N, d + 1], by remainder; and [d + 1]: the last coordinate, which follows from the others, adds nothing.
    """
    period = corner.shape[1]
    first = corner[:, :-1]
    lowest, highest = first.amin(dim=0), first.amax(dim=0)
    widths = (highest - lowest + 4).tolist()  # vertices are up to 1 below the corner, their neighbours 1 beyond
    strides = [period]
    for width in widths:
        strides.append(strides[-1] * width)
    if strides[-1] > _LARGEST_CODE:
        raise ValueError("the points are too far apart, measured in standard deviations: take larger ones")
    stride = torch.tensor([*strides[:-1], 0], device=corner.device)
    base = ((first - lowest + 2) * stride[:-1]).sum(dim=1)  # [N]
    codes = []
    for remainder in range(period):
        # Coordinates of the highest ranks are a period lower.
        lowered = (rank > period - 1 - remainder).long()
        codes.append(base + remainder - (lowered * stride).sum(dim=1))
    return torch.stack(codes, dim=1), stride


def _neighbours(vertices: Tensor, strides: Tensor, direction: int) -> tuple[Tensor, Tensor]:
    """The places of each vertex's two neighbours along a direction; of those that are not there, the place after the last.

    The step is 1 along every coordinate but for the direction's own, d back: the remainder rises by 1, and from d to 0, where
    every coordinate divided by d + 1 rises too.
    """
    period = len(strides)
    remainder = vertices % period
    around = int(strides.sum()) - period
    own = strides[direction]
    ahead = vertices + 1 - own + torch.where(remainder == period - 1, around, 0)
    behind = vertices - 1 + own - torch.where(remainder == 0, around, 0)
    return _places(vertices, ahead), _places(vertices, behind)


def _places(vertices: Tensor, wanted: Tensor) -> Tensor:
    """Where numbers stand among the sorted ones; of those that do not, their count."""
    count = len(vertices)
    place = torch.searchsorted(vertices, wanted)
    found = vertices[place.clamp(max=count - 1)] == wanted
    return torch.where(found, place, count)
