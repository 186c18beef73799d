"""Moments of a class of points: mean, total variance and covariance spectrum.

The spectrum is that of the atoms' own weighted covariance (divided by the total weight, not by
n − 1): the bound I_G(t) of `floracle.predict` is rigorous for it. With fewer points than
dimensions the n × n Gram matrix gives the same non-zero eigenvalues at a lower price:

    C = Σ_i w_i (x_i − m)(x_i − m)ᵀ = YᵀY  [D, D],   G = YYᵀ  [n, n],   Y_i = √w_i (x_i − m)
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial, reduce
from itertools import islice
from typing import NamedTuple

import torch
from torch import Tensor

from .point_set import NO_LABEL, Block, PointSet, dimension, mass, prepared

PASS_BYTES = 4 * 2**20  # of a float64 block in passes that only measure: it should stay in cache
GRAM_BYTES = 2**29  # of a float32 block of the points of a Gram matrix
BLOCKS = 5
"""Blocks of points in memory at once: two of them, one as it is read and as it becomes float32."""
MATRICES = 24
"""Bytes of an entry of the matrix, three times float64: itself, the sum over classes, and the
copy that its eigenvalues or the sum need."""


@dataclass(frozen=True)
class Moments:
    """Weight Σw, mean m [D] and scatter Σ w (x − m)² [D] of points; float64."""

    weight: Tensor
    mean: Tensor
    scatter: Tensor

    @classmethod
    def empty(cls, dims: int) -> Moments:
        """The moments of no points."""
        zeros = torch.zeros(dims, dtype=torch.float64)
        return cls(torch.zeros((), dtype=torch.float64), zeros, zeros)

    @classmethod
    def of_block(cls, block: Block) -> Moments:
        """The moments of the atoms in one block."""
        points, weight = block.points.double(), block.weights.sum()
        mean = block.weights @ points / weight
        return cls(weight, mean, block.weights @ (points - mean).square())

    def merge(self, other: Moments) -> Moments:
        """The moments of both sets of points (Chan et al. 1979).

        Unlike Σx² − (Σx)² it keeps all digits where the mean is large beside the deviation.
        """
        if not other.weight:
            return self
        weight = self.weight + other.weight
        share, difference = other.weight / weight, other.mean - self.mean
        between = self.weight * share * difference.square()
        mean = self.mean + share * difference
        return Moments(weight, mean, self.scatter + other.scatter + between)

    @property
    def variance(self) -> Tensor:
        """The weighted variance [D]."""
        return self.scatter / self.weight


def moments(data: PointSet, label: int = NO_LABEL, *, rows: int | None = None) -> Moments:
    """Mean and variance of a class in one pass, in blocks of `rows` points."""
    dims = dimension(data)
    blocks = data.blocks(label, rows=rows or _rows_in_cache(dims))
    return reduce(Moments.merge, map(Moments.of_block, blocks), Moments.empty(dims))


def spectrum(
    data: PointSet, label: int = NO_LABEL, *, rows: int | None = None, room: int | None = None
) -> Tensor:
    """Eigenvalues of the covariance of a class, float64 [min(n, D)], largest first.

    Costs one product of n × D × min(n, D) and an eigendecomposition of the smaller side.
    """
    return spectra(data, (label,), rows=rows, room=room)[label]


def spectra(
    data: PointSet,
    labels: Sequence[int],
    *,
    rows: int | None = None,
    room: int | None = None,
) -> dict[int, Tensor]:
    """The spectra of several classes; the whole set is free where it is the sum of the others.

    Parameters
    ----------
    data, labels
        The classes of a point set, −1 for the whole. Stored spectra are not computed again.
    rows
        Points of a block. By default as many as stay in cache, and fit into `room`.
    room
        Bytes for a block beside the matrix.
    """
    stored = {label: prepared(data, label) for label in labels}
    spectrum_of = {
        label: statistics.spectrum
        for label, statistics in stored.items()
        if statistics and statistics.spectrum is not None
    }
    missing = [label for label in labels if label not in spectrum_of]
    if missing:
        spectrum_of |= _compute_spectra(data, missing, _BlockSize(rows, room))
    return spectrum_of


class _BlockSize(NamedTuple):
    """How many points are read at a time."""

    rows: int | None
    """As the caller wants; None for a default."""
    room: int | None
    """Bytes for them and the matrix together."""

    def beside(self, matrix_rows: int, dims: int, default: int) -> int:
        """Rows of a block of D-dimensional points beside a square matrix: `default` if it fits."""
        if self.rows is not None or self.room is None:
            return self.rows or default
        free = self.room - MATRICES * matrix_rows**2
        return max(1, min(default, free // (BLOCKS * 4 * dims)))


def _compute_spectra(data: PointSet, labels: Sequence[int], size: _BlockSize) -> dict[int, Tensor]:
    dims = dimension(data)
    counts = {label: len(data.atoms(label).rows) for label in labels}
    class_labels = [label for label in labels if label != NO_LABEL]
    # The whole set's covariance is the sum of those of its classes, if they cover it.
    is_sum = NO_LABEL in labels and len(class_labels) > 1 and _cover(data, class_labels, counts)
    total, spectrum_of = _Covariance.empty(dims) if is_sum else None, {}
    for label in class_labels:
        if counts[label] <= dims:
            spectrum_of[label] = _eigenvalues(_gram(data, label, counts[label], size))
            continue
        covariance = _covariance(data, label, size)
        spectrum_of[label] = _eigenvalues(covariance.matrix)
        if total is not None:
            total = total.merge(covariance.scaled(mass(data, label)))
    if NO_LABEL in labels:
        if total is not None:
            matrix = total.matrix.div_(total.weight)
        elif counts[NO_LABEL] <= dims:
            matrix = _gram(data, NO_LABEL, counts[NO_LABEL], size)
        else:
            matrix = _covariance(data, NO_LABEL, size).matrix
        spectrum_of[NO_LABEL] = _eigenvalues(matrix)
    return spectrum_of


@dataclass(frozen=True)
class _Covariance:
    """Weight, mean [D] and weighted scatter matrix [D, D] of points; float64.

    Matrices are large, so they are changed in place: what was scaled or merged is gone.
    """

    weight: float
    mean: Tensor
    matrix: Tensor

    @classmethod
    def empty(cls, dims: int) -> _Covariance:
        zeros = torch.zeros(dims, dims, dtype=torch.float64)
        return cls(0.0, zeros[0].clone(), zeros)

    def scaled(self, weight: float) -> _Covariance:
        """The same points with another total weight."""
        return _Covariance(weight, self.mean, self.matrix.mul_(weight / self.weight))

    def merge(self, other: _Covariance) -> _Covariance:
        """Of both sets of points, as `Moments.merge` with an outer product for the square."""
        weight = self.weight + other.weight
        share, difference = other.weight / weight, other.mean - self.mean
        between = torch.outer(difference, difference).mul_(self.weight * share)
        matrix = self.matrix.add_(other.matrix).add_(between)
        return _Covariance(weight, self.mean + share * difference, matrix)


def _covariance(data: PointSet, label: int, size: _BlockSize) -> _Covariance:
    """The covariance C [D, D] of the atoms of a class, with weight 1."""
    mean = moments(data, label).mean
    dims = len(mean)
    total = torch.zeros(dims, dims, dtype=torch.float64)
    rows = size.beside(dims, dims, default=max(_rows_in_cache(dims), dims // 2))
    for points in map(partial(_weighted_points, mean=mean), data.blocks(label, rows=rows)):
        # Products in float32, sums over blocks in float64.
        total += points.T @ points
    return _Covariance(1.0, mean, total)


def _gram(data: PointSet, label: int, count: int, size: _BlockSize) -> Tensor:
    """The Gram matrix G [n, n] of inner products, a pair of blocks at a time."""
    dims = dimension(data)
    weighted = partial(_weighted_points, mean=moments(data, label).mean)
    rows = size.beside(count, dims, default=max(1, GRAM_BYTES // (4 * dims)))
    gram = torch.empty(count, count, dtype=torch.float64)
    for i, points in enumerate(map(weighted, data.blocks(label, rows=rows))):
        mine = slice(i * rows, i * rows + len(points))
        gram[mine, mine] = (points @ points.T).T
        earlier_blocks = islice(data.blocks(label, rows=rows), i)
        for j, earlier in enumerate(map(weighted, earlier_blocks)):
            theirs = slice(j * rows, (j + 1) * rows)
            products = points @ earlier.T
            gram[mine, theirs], gram[theirs, mine] = products, products.T
    return gram


def _weighted_points(block: Block, mean: Tensor) -> Tensor:
    """Y = √w (x − m), float32 [n, D]."""
    scale = block.weights.sqrt().float()[:, None]
    return (block.points - mean.float()).mul_(scale)


def _eigenvalues(matrix: Tensor) -> Tensor:
    """Largest first; rounding may leave a zero slightly negative."""
    return torch.linalg.eigvalsh(matrix).flip(0).clamp(min=0)


def _cover(data: PointSet, labels: list[int], counts: dict[int, int]) -> bool:
    """Whether the classes make up the whole set and each has its covariance computed."""
    all_labels = data.labels.unique().tolist()
    dims = dimension(data)
    return sorted(labels) == all_labels and all(counts[label] > dims for label in labels)


def _rows_in_cache(dims: int) -> int:
    return max(1, PASS_BYTES // (8 * dims))
