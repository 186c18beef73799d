"""What decides the stages of a class beside its size: spectrum, norms, distances to neighbours.

The spectrum alone tells how far apart points are on average. Real points are not alike: those of
low contrast lie closer to the mean and to each other, and drawings lie in clusters. A profile
holds what tells of that and does not grow with the class:

    leading    the eigenvalues λ₁ … λ₁₆ of its covariance, and Σλ and Σλ² of the others
    energies   ‖P_b (x − m)‖² of some points in four bands of principal directions
    distances  log ‖x − x₍ₖ₎‖², x₍ₖ₎ the k-th nearest neighbour of x: quantiles over some points
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import pairwise
from math import prod

import torch
from torch import Tensor

from floracle.core.point_set import NO_LABEL, PointSet
from floracle.core.seeds import generator
from floracle.core.spectrum import spectrum as taken_spectrum
from floracle.run.errors import InputError

BANDS = (0, 1, 4, 16)
"""Where bands of principal directions begin; the last one holds all others."""
SAMPLED_POINTS, FEWEST_SAMPLED = 512, 64
"""Points whose energies are taken and whose neighbours are looked for; and energies at least."""
SAMPLED_NUMBERS = 2**26
"""Coordinates of the sampled points at most."""
MOST_NEIGHBOURS = 2**15
"""Points among which neighbours are looked for; of larger classes a random part."""
QUANTILES = 256
"""Of distances: the end is decided by the nearest percent or two."""
RANK_STEP = 1.5
"""The ratio of one rank of neighbours to the next."""
BLOCK_NUMBERS = 2**22
"""Coordinates of a block of points."""
ARRAYS = ("leading", "energies", "distances")
SMALLEST = 1e-12
"""Squared distances below this share of the largest are rounding."""


@dataclass(frozen=True, eq=False)
class Profile:
    """The statistics of a class that its stages follow from."""

    points: float
    """Its effective number of points, e^{H(w)}."""
    seen: int
    """The points among which neighbours were looked for."""
    leading: Tensor
    """The largest eigenvalues of its covariance, float64 [≤ 16]."""
    rest: tuple[float, float]
    """Σλ and Σλ² over all other eigenvalues."""
    energies: Tensor
    """Squared deviations from the mean by band, of some points, float64 [a, ≤ 4]; over their mean.
    [0, 4] where only the spectrum is known."""
    distances: Tensor
    """Log squared distances to the neighbours of `ranks(points)`: quantiles, float64 [256, R];
    [0, 0] where only the spectrum is known."""

    @classmethod
    def of_spectrum(cls, spectrum: Tensor, points: float) -> Profile:
        """Of a class of which only its size and its eigenvalues [k] are known: a Gaussian's."""
        values = spectrum.double().sort(descending=True).values
        values = values[values > 0]
        leading, rest = values[: BANDS[-1]], values[BANDS[-1] :]
        return cls(
            points,
            max(2, round(points)),
            leading,
            (float(rest.sum()), float(rest.square().sum())),
            torch.zeros(0, len(BANDS), dtype=torch.float64),
            torch.zeros(0, 0, dtype=torch.float64),
        )

    @classmethod
    def of_arrays(cls, arrays: Mapping[str, Tensor]) -> Profile:
        """As `to_arrays` gave it."""
        points, seen, *rest = arrays["sizes"].tolist()
        leading, energies, distances = (arrays[name] for name in ARRAYS)
        return cls(points, int(seen), leading, (rest[0], rest[1]), energies, distances)

    def to_arrays(self) -> dict[str, Tensor]:
        """To be saved."""
        sizes = torch.tensor([self.points, self.seen, *self.rest], dtype=torch.float64)
        return {"sizes": sizes, **{name: getattr(self, name) for name in ARRAYS}}

    @property
    def variance(self) -> float:
        """Σλ over all eigenvalues."""
        return float(self.leading.sum()) + self.rest[0]

    @cached_property
    def standardized(self) -> Profile:
        """Of the points over the root of their variance."""
        factor = 1 / self.variance
        rest = (self.rest[0] * factor, self.rest[1] * factor**2)
        distances = self.distances + math.log(factor)
        return replace(self, leading=self.leading * factor, rest=rest, distances=distances)

    @property
    def eigenvalues(self) -> tuple[Tensor, Tensor]:
        """Values and how often each counts, float64 [k]: the rest as equal ones."""
        total, squares = self.rest
        if not squares:
            return self.leading, torch.ones_like(self.leading)
        value, count = squares / total, total**2 / squares
        one = torch.ones(1, dtype=torch.float64)
        return torch.cat([self.leading, value * one]), torch.cat(
            [torch.ones_like(self.leading), count * one]
        )


def profile(
    source: PointSet,
    label: int = NO_LABEL,
    eigenvalues: Tensor | None = None,
    *,
    room: int | None = None,
) -> Profile:
    """The profile of a class; −1 is the whole set.

    Given the eigenvalues of its covariance it costs one pass over the class, or over
    `MOST_NEIGHBOURS` of its points. `room` bytes are there for the points that are looked at.
    """
    rows, weights = source.atoms(label)
    points = math.exp(float(torch.special.entr(weights).sum()))
    if len(rows) < 2:
        raise InputError(
            f"class {label} has a single distinct point, and no neighbours to look at"
        )
    spectrum = eigenvalues if eigenvalues is not None else taken_spectrum(source, label)
    random = generator(label - NO_LABEL)
    if len(rows) > MOST_NEIGHBOURS:
        part = torch.randperm(len(rows), generator=random)[:MOST_NEIGHBOURS].sort().values
        rows, weights = rows[part], weights[part]
    numbers = SAMPLED_NUMBERS if room is None else min(SAMPLED_NUMBERS, room // 16)
    count = min(len(rows), SAMPLED_POINTS, max(2, numbers // prod(source.shape)))
    chosen = torch.multinomial(weights, count, generator=random).sort().values
    sample = source.take(rows[chosen]).flatten(1).float()
    distances = _distances(source, rows, chosen, sample)
    # of few of many points the bands would be their own
    gaussian = Profile.of_spectrum(spectrum, points)
    measured = replace(gaussian, seen=len(rows), distances=distances)
    if count < min(len(rows), FEWEST_SAMPLED):
        return measured
    return replace(measured, energies=_energies(sample.sub_(sample.mean(0))))


def ranks(points: int) -> Tensor:
    """The ranks of neighbours of which a profile of so many points tells, int64 [R]."""
    below, rank = [], 1
    while rank < points - 1:
        below.append(rank)
        rank = max(rank + 1, int(rank * RANK_STEP))
    return torch.tensor([*below, points - 1])


def _energies(sample: Tensor) -> Tensor:
    """Of centred points [a, D], by bands of the principal directions of themselves, [a, bands]."""
    count, dims = sample.shape
    if count <= dims:
        values, vectors = torch.linalg.eigh((sample @ sample.T).double())
        coordinates = vectors[:, -BANDS[-1] :] * values[-BANDS[-1] :].clamp(min=0).sqrt()
    else:
        _, vectors = torch.linalg.eigh((sample.T @ sample).double())
        coordinates = sample.double() @ vectors[:, -BANDS[-1] :]
    squares = coordinates.flip(1).square()
    bands = [squares[:, low:high].sum(1) for low, high in pairwise(BANDS)]
    rest = (torch.linalg.vecdot(sample, sample).double() - squares.sum(1)).clamp(min=0)
    energies = torch.stack([*bands, rest], 1)
    return energies / energies.mean(0).clamp(min=torch.finfo(torch.float64).tiny)


def _distances(source: PointSet, rows: Tensor, queries: Tensor, sample: Tensor) -> Tensor:
    """Quantiles of the log squared distances of a sample to its neighbours, [256, R].

    The sample are the points [a, D] of `rows[queries]`.
    """
    mean = sample.mean(0).double()
    centres = sample.double() - mean
    norms = centres.square().sum(1)
    # products in float64: the nearest decide the end, and ‖a‖² + ‖b‖² − 2 ab cancels for them
    squared = torch.empty(len(queries), len(rows))
    start = 0
    for points in _blocks(source, rows):
        points = points.double() - mean
        apart = norms[:, None] + points.square().sum(1) - 2 * centres @ points.T
        squared[:, start : start + len(points)] = apart
        start += len(points)
    squared[torch.arange(len(queries)), queries] = -torch.inf  # itself comes first
    places = ranks(len(rows))
    nearest = torch.stack([row.sort().values[places] for row in squared]).double()
    nearest = nearest.clamp(min=SMALLEST * float(nearest.max())).log()
    levels = (torch.arange(QUANTILES, dtype=torch.float64) + 0.5) / QUANTILES
    return torch.quantile(nearest, levels, dim=0)


def _blocks(source: PointSet, rows: Tensor) -> Iterator[Tensor]:
    """The points of rows, a few at a time."""
    for part in rows.split(max(1, BLOCK_NUMBERS // prod(source.shape))):
        yield source.take(part).flatten(1).float()
