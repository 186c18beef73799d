"""The statistics of a class that decide its stages: spectrum, norms, distances to neighbours.

The spectrum alone gives how far apart points are on average. Real points are not alike: those of
low contrast lie closer to the mean and to each other, and drawings lie in clusters. A profile
holds the statistics that say so, and does not grow with the class:

    leading    the eigenvalues λ₁ … λ₁₆ of its covariance, and Σλ and Σλ² of the others
    energies   ‖P_b (x − m)‖² of some points in four bands of principal directions
    distances  log ‖x − x₍ₖ₎‖², x₍ₖ₎ the k-th nearest neighbour of x: quantiles over some points
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import pairwise
from math import prod

import torch
from torch import Tensor

from floracle.core.point_set import NO_LABEL, PointSet
from floracle.core.seeds import generator
from floracle.core.spectrum import spectrum as covariance_spectrum
from floracle.run.errors import InputError

from .closed_form import effective_points, entropy_nats

BANDS = (0, 1, 4, 16)
"""Where bands of principal directions begin; the last one holds all others."""
MAX_SAMPLED_POINTS, MIN_ENERGY_POINTS = 512, 64
"""Points whose energies are taken and whose neighbours are searched. Of fewer than 64 points of a
larger class no energies are taken: their principal directions would be their own."""
MAX_SAMPLED_NUMBERS = 2**26
"""Coordinates of the sampled points at most."""
MOST_NEIGHBOURS = 2**15
"""Points among which neighbours are searched; of larger classes a random part."""
QUANTILES = 256
"""Of distances: the end is decided by the nearest percent or two."""
RANK_RATIO = 1.5
"""The ratio of one rank of neighbours to the next."""
BLOCK_NUMBERS = 2**22
"""Coordinates of a block of points."""
ARRAYS = ("leading", "energies", "distances")
MIN_RELATIVE_DISTANCE = 1e-12
"""Squared distances below this share of the largest are rounding."""


@dataclass(frozen=True, eq=False)
class Profile:
    """The statistics of a class that its stages follow from."""

    points: float
    """Its effective number of points, e^{H(w)}."""
    searched_points: int
    """The points among which neighbours were searched."""
    leading: Tensor
    """The largest eigenvalues of its covariance, float64 [≤ 16]."""
    tail_sums: tuple[float, float]
    """Σλ and Σλ² over all other eigenvalues."""
    energies: Tensor
    """Squared deviations from the mean by band, of some points, float64 [a, ≤ 4]; over their mean.
    [0, 4] where only the spectrum is known."""
    distances: Tensor
    """Log squared distances to the neighbours of `neighbour_ranks(points)`: quantiles, float64
    [256, R]; [0, 0] where only the spectrum is known."""

    @classmethod
    def of_spectrum(cls, spectrum: Tensor, points: float) -> Profile:
        """A Gaussian's: of a class of which only the size and the eigenvalues [k] are known."""
        values = spectrum.double().sort(descending=True).values
        values = values[values > 0]
        leading, tail = values[: BANDS[-1]], values[BANDS[-1] :]
        return cls(
            points,
            max(2, round(points)),
            leading,
            (float(tail.sum()), float(tail.square().sum())),
            torch.zeros(0, len(BANDS), dtype=torch.float64),
            torch.zeros(0, 0, dtype=torch.float64),
        )

    @classmethod
    def of_arrays(cls, arrays: Mapping[str, Tensor]) -> Profile:
        """From `to_arrays`."""
        points, searched, *tail = arrays["sizes"].tolist()
        leading, energies, distances = (arrays[name] for name in ARRAYS)
        return cls(points, int(searched), leading, (tail[0], tail[1]), energies, distances)

    def to_arrays(self) -> dict[str, Tensor]:
        """Its arrays, and its numbers as one more."""
        numbers = [self.points, self.searched_points, *self.tail_sums]
        sizes = torch.tensor(numbers, dtype=torch.float64)
        return {"sizes": sizes, **{name: getattr(self, name) for name in ARRAYS}}

    @property
    def variance(self) -> float:
        """Σλ over all eigenvalues."""
        return float(self.leading.sum()) + self.tail_sums[0]

    @cached_property
    def standardized(self) -> Profile:
        """The profile of the points over the root of their variance."""
        factor = 1 / self.variance
        return replace(
            self,
            leading=self.leading * factor,
            tail_sums=(self.tail_sums[0] * factor, self.tail_sums[1] * factor**2),
            distances=self.distances + math.log(factor),
        )

    @property
    def eigenvalues(self) -> tuple[Tensor, Tensor]:
        """Values and how often each counts, float64 [k]; the tail as equal values."""
        total, squares = self.tail_sums
        ones = torch.ones_like(self.leading)
        if not squares:
            return self.leading, ones
        # n equal values λ with n λ = Σλ and n λ² = Σλ²
        value, count = squares / total, total**2 / squares
        tail = torch.ones(1, dtype=torch.float64)
        return torch.cat([self.leading, value * tail]), torch.cat([ones, count * tail])


def profile(
    source: PointSet,
    label: int = NO_LABEL,
    eigenvalues: Tensor | None = None,
    *,
    room: int | None = None,
) -> Profile:
    """The profile of a class.

    Parameters
    ----------
    source
        The data.
    label
        A class; −1 for the whole set.
    eigenvalues
        Those of its covariance, computed unless given. Given these, a profile costs one pass over
        the class, or over `MOST_NEIGHBOURS` of its points.
    room
        Bytes for the sampled points.
    """
    rows, weights = source.atoms(label)
    points = effective_points(entropy_nats(weights))
    if len(rows) < 2:
        raise InputError(
            f"class {label} has a single distinct point, and no neighbours to look at"
        )
    spectrum = eigenvalues if eigenvalues is not None else covariance_spectrum(source, label)
    random = generator(label - NO_LABEL)
    if len(rows) > MOST_NEIGHBOURS:
        subset = torch.randperm(len(rows), generator=random)[:MOST_NEIGHBOURS].sort().values
        rows, weights = rows[subset], weights[subset]
    numbers = MAX_SAMPLED_NUMBERS if room is None else min(MAX_SAMPLED_NUMBERS, room // 16)
    count = min(len(rows), MAX_SAMPLED_POINTS, max(2, numbers // prod(source.shape)))
    queries = torch.multinomial(weights, count, generator=random).sort().values
    sample = source.take(rows[queries]).flatten(1).float()  # [a, D]
    distances = _distance_quantiles(source, rows, queries, sample)
    gaussian = Profile.of_spectrum(spectrum, points)
    measured = replace(gaussian, searched_points=len(rows), distances=distances)
    if count < min(len(rows), MIN_ENERGY_POINTS):
        return measured
    return replace(measured, energies=_band_energies(sample.sub_(sample.mean(0))))


def neighbour_ranks(points: int) -> Tensor:
    """The ranks of neighbours in a profile of so many points, [R]: 1, 2, 3, 4, 6, 9 and so on."""
    ranks, rank = [], 1
    while rank < points - 1:
        ranks.append(rank)
        rank = max(rank + 1, int(rank * RANK_RATIO))
    return torch.tensor([*ranks, points - 1])


def _band_energies(sample: Tensor) -> Tensor:
    """‖P_b x‖² of centred points [a, D] in bands of their own principal directions, [a, bands].

    Relative to the mean over points.
    """
    count, dims = sample.shape
    if count <= dims:  # eigenvectors of the Gram matrix times √λ are the coordinates
        values, vectors = torch.linalg.eigh((sample @ sample.T).double())
        coordinates = vectors[:, -BANDS[-1] :] * values[-BANDS[-1] :].clamp(min=0).sqrt()
    else:
        _, vectors = torch.linalg.eigh((sample.T @ sample).double())
        coordinates = sample.double() @ vectors[:, -BANDS[-1] :]
    squares = coordinates.flip(1).square()  # eigh sorts upwards; bands begin at the largest
    bands = [squares[:, low:high].sum(1) for low, high in pairwise(BANDS)]
    tail = (torch.linalg.vecdot(sample, sample).double() - squares.sum(1)).clamp(min=0)
    energies = torch.stack([*bands, tail], 1)
    return energies / energies.mean(0).clamp(min=torch.finfo(torch.float64).tiny)


def _distance_quantiles(source: PointSet, rows: Tensor, queries: Tensor, sample: Tensor) -> Tensor:
    """Quantiles of the log squared distances of a sample to its neighbours, [256, R].

    The sample are the points [a, D] of `rows[queries]`.
    """
    mean = sample.mean(0).double()
    centred = sample.double() - mean
    norms = centred.square().sum(1)
    # products in float64: the nearest decide the end, and ‖a‖² + ‖b‖² − 2 ab cancels for them
    squared = torch.empty(len(queries), len(rows))
    start = 0
    for block in rows.split(max(1, BLOCK_NUMBERS // prod(source.shape))):
        points = source.take(block).flatten(1).float().double() - mean
        distances = norms[:, None] + points.square().sum(1) - 2 * centred @ points.T
        squared[:, start : start + len(points)] = distances
        start += len(points)
    squared[torch.arange(len(queries)), queries] = -torch.inf  # rank 0 is the point itself
    ranks = neighbour_ranks(len(rows))
    nearest = torch.stack([row.sort().values[ranks] for row in squared]).double()
    logs = nearest.clamp(min=MIN_RELATIVE_DISTANCE * float(nearest.max())).log()
    levels = (torch.arange(QUANTILES, dtype=torch.float64) + 0.5) / QUANTILES
    return torch.quantile(logs, levels, dim=0)
