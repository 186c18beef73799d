"""Moments of a class of points: mean, total variance and covariance spectrum.

The spectrum is that of the atoms' own weighted covariance (divided by the total weight, not by
n − 1): the bound I_G(t) of `floracle.predict` is rigorous for it. Where points are fewer than
dimensions the n × n Gram matrix gives the same eigenvalues, and the rest are zero.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from itertools import islice
from typing import NamedTuple

import torch
from torch import Tensor

from .fold import fold
from .point_set import NO_LABEL, Block, PointSet, mass, prepared

PASS_BYTES = 4 * 2**20
"""The size of a float64 block in passes that only measure: it should stay in cache."""
GRAM_BYTES = 2**29
"""The size of a float32 block of a Gram matrix's points."""
BLOCKS = 5
"""Blocks of points in memory at once: two of them, one as it is read and as it becomes float32."""
MATRICES = 24
"""Bytes of an entry of the matrix: in float64 it, the sum over classes, and the copy whose
eigenvalues are found or what is added to the sum."""


@dataclass(frozen=True)
class Moments:
    """Weight, mean [D] and weighted squared deviations from it [D] of points; float64."""

    weight: Tensor
    mean: Tensor
    scatter: Tensor

    @classmethod
    def empty(cls, dims: int) -> Moments:
        """Of no points at all."""
        zeros = torch.zeros(dims, dtype=torch.float64)
        return cls(torch.zeros((), dtype=torch.float64), zeros, zeros)

    @classmethod
    def of_block(cls, block: Block) -> Moments:
        """Of the atoms in one block."""
        points, weight = block.points.double(), block.weights.sum()
        mean = block.weights @ points / weight
        return cls(weight, mean, block.weights @ (points - mean).square())

    def merge(self, other: Moments) -> Moments:
        """Of both sets of points (Chan et al. 1979), so that large means cost no digits."""
        if not other.weight:
            return self
        weight = self.weight + other.weight
        share, apart = other.weight / weight, other.mean - self.mean
        between = self.weight * share * apart.square()
        return Moments(weight, self.mean + share * apart, self.scatter + other.scatter + between)

    @property
    def variance(self) -> Tensor:
        """The weighted variance [D]."""
        return self.scatter / self.weight


def moments(source: PointSet, label: int = NO_LABEL, *, rows: int | None = None) -> Moments:
    """Mean and variance of a class in one pass."""
    dims = dimension(source)
    blocks = source.blocks(label, rows=rows or _rows(dims))
    return fold(blocks, Moments.of_block, Moments.empty(dims))


def spectrum(
    source: PointSet, label: int = NO_LABEL, *, rows: int | None = None, room: int | None = None
) -> Tensor:
    """Eigenvalues of the covariance of a class, float64 [min(n, D)], largest first.

    Costs one product of n × D × min(n, D) and an eigendecomposition of the smaller side.
    """
    return spectra(source, (label,), rows=rows, room=room)[label]


def spectra(
    source: PointSet,
    labels: Sequence[int],
    *,
    rows: int | None = None,
    room: int | None = None,
) -> dict[int, Tensor]:
    """The spectra of several classes; the whole set costs nothing where it is their sum.

    Those that the source knows beforehand are taken from it. `rows` are the points of a block; by
    default as many as suit the cache, and as fit beside the matrix into `room` bytes.
    """
    known = {label: prepared(source, label) for label in labels}
    found = {label: of.spectrum for label, of in known.items() if of and of.spectrum is not None}
    left = [label for label in labels if label not in found]
    return found | (_taken(source, left, _Blocks(rows, room)) if left else {})


class _Blocks(NamedTuple):
    """How many points are read at a time."""

    rows: int | None
    """As asked for."""
    room: int | None
    """Bytes for them and the matrix together."""

    def fitting(self, usual: int, dims: int, matrix: int) -> int:
        """Rows of a block beside a matrix of so many rows: `usual` ones where they fit."""
        if self.rows is not None or self.room is None:
            return self.rows or usual
        left = self.room - MATRICES * matrix**2
        return max(1, min(usual, left // (BLOCKS * 4 * dims)))


def _taken(source: PointSet, labels: Sequence[int], size: _Blocks) -> dict[int, Tensor]:
    dims = dimension(source)
    counts = {label: len(source.atoms(label).rows) for label in labels}
    parts = [label for label in labels if label != NO_LABEL]
    summed = NO_LABEL in labels and len(parts) > 1 and _cover(source, parts, dims, counts)
    total, found = _Covariance.empty(dims) if summed else None, {}
    for label in parts:
        if counts[label] <= dims:
            found[label] = _eigenvalues(_gram(source, label, counts[label], size))
            continue
        covariance = _covariance(source, label, size)
        found[label] = _eigenvalues(covariance.matrix)
        if total is not None:
            total = total.merge(covariance.scaled(mass(source, label)))
    if NO_LABEL in labels:
        if total is not None:
            matrix = total.matrix.div_(total.weight)
        elif counts[NO_LABEL] <= dims:
            matrix = _gram(source, NO_LABEL, counts[NO_LABEL], size)
        else:
            matrix = _covariance(source, NO_LABEL, size).matrix
        found[NO_LABEL] = _eigenvalues(matrix)
    return found


@dataclass(frozen=True)
class _Covariance:
    """Weight, mean [D] and weighted scatter matrix [D, D] of points; float64.

    Matrices are large, so that they are changed in place: what was scaled or merged is gone.
    """

    weight: float
    mean: Tensor
    matrix: Tensor

    @classmethod
    def empty(cls, dims: int) -> _Covariance:
        zeros = torch.zeros(dims, dims, dtype=torch.float64)
        return cls(0.0, zeros[0].clone(), zeros)

    def scaled(self, share: float) -> _Covariance:
        """The same points with another total weight."""
        return _Covariance(share, self.mean, self.matrix.mul_(share / self.weight))

    def merge(self, other: _Covariance) -> _Covariance:
        """Of both sets of points."""
        weight = self.weight + other.weight
        share, apart = other.weight / weight, other.mean - self.mean
        between = torch.outer(apart, apart).mul_(self.weight * share)
        matrix = self.matrix.add_(other.matrix).add_(between)
        return _Covariance(weight, self.mean + share * apart, matrix)


def _covariance(source: PointSet, label: int, size: _Blocks) -> _Covariance:
    """Of the atoms of a class, with weight 1."""
    mean = moments(source, label).mean
    dims = len(mean)
    total = torch.zeros(dims, dims, dtype=torch.float64)
    rows = size.fitting(max(_rows(dims), dims // 2), dims, dims)
    for points in map(partial(_weighted, mean=mean), source.blocks(label, rows=rows)):
        total += points.T @ points
    return _Covariance(1.0, mean, total)


def _gram(source: PointSet, label: int, count: int, size: _Blocks) -> Tensor:
    """The n × n matrix of inner products, a pair of blocks at a time."""
    dims = dimension(source)
    weighted = partial(_weighted, mean=moments(source, label).mean)
    rows = size.fitting(max(1, GRAM_BYTES // (4 * dims)), dims, count)
    total = torch.empty(count, count, dtype=torch.float64)
    for i, points in enumerate(map(weighted, source.blocks(label, rows=rows))):
        start, stop = i * rows, i * rows + len(points)
        total[start:stop, start:stop] = (points @ points.T).T
        before = islice(source.blocks(label, rows=rows), i)
        for j, other in enumerate(map(weighted, before)):
            products = points @ other.T
            total[start:stop, j * rows : (j + 1) * rows] = products
            total[j * rows : (j + 1) * rows, start:stop] = products.T
    return total


def _weighted(block: Block, mean: Tensor) -> Tensor:
    """The points less their mean times the root of their weight, float32 [n, D]."""
    scale = block.weights.sqrt().float()[:, None]
    return (block.points - mean.float()).mul_(scale)


def _eigenvalues(matrix: Tensor) -> Tensor:
    return torch.linalg.eigvalsh(matrix).flip(0).clamp(min=0)


def _cover(source: PointSet, parts: list[int], dims: int, counts: dict[int, int]) -> bool:
    """Whether the classes make up the whole set and each has its covariance taken."""
    every = source.labels.unique().tolist()
    return sorted(parts) == every and all(counts[label] > dims for label in parts)


def dimension(source: PointSet) -> int:
    """The dimension D of a flattened point."""
    return int(torch.Size(source.shape).numel())


def _rows(dims: int) -> int:
    """Rows of a float64 block that stays in cache."""
    return max(1, PASS_BYTES // (8 * dims))
