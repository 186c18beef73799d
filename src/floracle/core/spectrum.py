"""Moments of a class of points: mean, total variance and covariance spectrum.

The spectrum is that of the atoms' own weighted covariance (divided by the total weight, not by
n − 1): the bound I_G(t) of `floracle.predict` is rigorous for it. Where points are fewer than
dimensions the n × n Gram matrix gives the same eigenvalues, and the rest are zero.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from .fold import fold
from .source import NO_LABEL, Block, Source, mass, prepared

PASS_BYTES = 4 * 2**20
"""The size of a float64 block in passes that only measure: it should stay in cache."""
GRAM_BYTES = 2**29
"""The size of a float32 block of a Gram matrix's points."""


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


def moments(source: Source, label: int = NO_LABEL, *, rows: int | None = None) -> Moments:
    """Mean and variance of a class in one pass."""
    dims = dimension(source)
    blocks = source.blocks(label, rows=rows or _rows(dims))
    return fold(blocks, Moments.of_block, Moments.empty(dims))


def spectrum(source: Source, label: int = NO_LABEL, *, rows: int | None = None) -> Tensor:
    """Eigenvalues of the covariance of a class, float64 [min(n, D)], largest first.

    Costs one product of n × D × min(n, D) and an eigendecomposition of the smaller side.
    """
    return spectra(source, (label,), rows=rows)[label]


def spectra(
    source: Source, labels: Sequence[int], *, rows: int | None = None
) -> dict[int, Tensor]:
    """The spectra of several classes; the whole set costs nothing where it is their sum.

    Those that the source knows beforehand are taken from it. `rows` are the points of a block; by
    default as many as suit the cache.
    """
    known = {label: prepared(source, label) for label in labels}
    found = {label: of.spectrum for label, of in known.items() if of and of.spectrum is not None}
    left = [label for label in labels if label not in found]
    return found | (_taken(source, left, rows) if left else {})


def _taken(source: Source, labels: Sequence[int], rows: int | None) -> dict[int, Tensor]:
    dims = dimension(source)
    counts = {label: len(source.atoms(label).rows) for label in labels}
    parts = [label for label in labels if label != NO_LABEL]
    summed = NO_LABEL in labels and len(parts) > 1 and _cover(source, parts, dims, counts)
    total, found = _Covariance.empty(dims) if summed else None, {}
    for label in parts:
        if counts[label] <= dims:
            found[label] = _eigenvalues(_gram(source, label, counts[label], rows))
            continue
        covariance = _covariance(source, label, rows)
        found[label] = _eigenvalues(covariance.matrix / covariance.weight)
        if total is not None:
            share = mass(source, label)
            total = total.merge(covariance.scaled(share))
    if NO_LABEL in labels:
        whole = total or (
            None if counts[NO_LABEL] <= dims else _covariance(source, NO_LABEL, rows)
        )
        found[NO_LABEL] = _eigenvalues(
            whole.matrix / whole.weight
            if whole is not None
            else _gram(source, NO_LABEL, counts[NO_LABEL], rows)
        )
    return found


@dataclass(frozen=True)
class _Covariance:
    """Weight, mean [D] and weighted scatter matrix [D, D] of points; float64."""

    weight: float
    mean: Tensor
    matrix: Tensor

    @classmethod
    def empty(cls, dims: int) -> _Covariance:
        zeros = torch.zeros(dims, dims, dtype=torch.float64)
        return cls(0.0, zeros[0], zeros)

    def scaled(self, share: float) -> _Covariance:
        """The same points with another total weight."""
        return _Covariance(share, self.mean, self.matrix * (share / self.weight))

    def merge(self, other: _Covariance) -> _Covariance:
        """Of both sets of points."""
        weight = self.weight + other.weight
        share, apart = other.weight / weight, other.mean - self.mean
        between = (self.weight * share) * torch.outer(apart, apart)
        return _Covariance(weight, self.mean + share * apart, self.matrix + other.matrix + between)


def _covariance(source: Source, label: int, rows: int | None) -> _Covariance:
    mean = moments(source, label).mean
    total = torch.zeros(len(mean), len(mean), dtype=torch.float64)
    rows = rows or max(_rows(len(mean)), len(mean) // 2)
    for block in source.blocks(label, rows=rows):
        points = _weighted(block, mean)
        total += (points.T @ points).double()
    return _Covariance(1.0, mean, total)


def _gram(source: Source, label: int, count: int, rows: int | None) -> Tensor:
    """The n × n matrix of inner products, a pair of blocks at a time."""
    dims = dimension(source)
    mean = moments(source, label).mean
    rows = rows or max(1, GRAM_BYTES // (4 * dims))
    total = torch.empty(count, count, dtype=torch.float64)
    for i, block in enumerate(source.blocks(label, rows=rows)):
        points = _weighted(block, mean)
        for j, other in enumerate(source.blocks(label, rows=rows)):
            if j > i:
                break
            products = points @ (points if i == j else _weighted(other, mean)).T
            start, left = i * rows, j * rows
            total[start : start + len(products), left : left + products.shape[1]] = products
            total[left : left + products.shape[1], start : start + len(products)] = products.T
    return total


def _weighted(block: Block, mean: Tensor) -> Tensor:
    scale = block.weights.sqrt().float()[:, None]
    return (block.points - mean.float()) * scale


def _eigenvalues(matrix: Tensor) -> Tensor:
    return torch.linalg.eigvalsh(matrix).flip(0).clamp(min=0)


def _cover(source: Source, parts: list[int], dims: int, counts: dict[int, int]) -> bool:
    """Whether the classes make up the whole set and each has its covariance taken."""
    every = source.labels.unique().tolist()
    return sorted(parts) == every and all(counts[label] > dims for label in parts)


def dimension(source: Source) -> int:
    """The dimension D of a flattened point."""
    return int(torch.Size(source.shape).numel())


def _rows(dims: int) -> int:
    """Rows of a float64 block that stays in cache."""
    return max(1, PASS_BYTES // (8 * dims))
