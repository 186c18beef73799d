"""Exact k nearest atoms, in one pass over blocks.

The screen bounds every squared distance from below, by float32 inner products of centred points
less what rounding can have added, and keeps the few smallest bounds. Those are recomputed in
float64 from the differences themselves. A query whose k-th distance is not below every bound left
out is done again in float64 over all points.

Rounding: an inner product summed in pieces of c numbers errs by at most (c + 1) ε |q| |p|, and
rounding the centred points themselves by a few ε more (Higham 2002, Eq. 3.4), ε = 2⁻²⁴.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from .point_set import Block, PointSet

ROUNDING = 2.0**-24
PIECE = 512
SPARE = 8
GATHERED = 2**24


@dataclass(frozen=True)
class Neighbours:
    """Distances and rows [b, at most `keep`] of the nearest atoms, nearest first."""

    distances: Tensor
    rows: Tensor
    keep: int

    def merge(self, other: Neighbours) -> Neighbours:
        """The nearest of both; among equals, those of the first."""
        distances = torch.cat([self.distances, other.distances], 1)
        rows = torch.cat([self.rows, other.rows], 1)
        order = distances.argsort(dim=1, stable=True)[:, : self.keep]
        return Neighbours(distances.gather(1, order), rows.gather(1, order), self.keep)


def nearest(
    source: PointSet, queries: Tensor, k: int = 1, *, label: int = -1, rows: int = 1024
) -> Neighbours:
    """The k nearest atoms of a class for queries [b, *shape]; exact, ties to the lower row.

    Distances are Euclidean. Where the class has fewer than k atoms there are that many columns.
    """
    if k < 1:
        raise ValueError(f"k counts neighbours and is at least 1, got {k}")
    atoms = source.atoms(label).rows
    if not len(atoms):
        raise ValueError(f"there is no atom of class {label}, so none is near")
    queries, k = queries.flatten(1).double(), min(k, len(atoms))
    screened = _screen(source, label, queries, k + SPARE, rows)
    exact = _rescore(source, queries, screened.rows, k)
    unsure = screened.distances[:, -1] <= exact.distances[:, -1].square()
    if len(atoms) > screened.rows.shape[1] and unsure.any():
        again = _exhaustive(source, queries[unsure], k, label, rows)
        exact.distances[unsure], exact.rows[unsure] = again.distances, again.rows
    return exact


def _screen(source: PointSet, label: int, queries: Tensor, keep: int, rows: int) -> Neighbours:
    """The atoms with the smallest lower bounds; `distances` are those bounds of the squares."""
    centre = _centre(source, label)
    centred = (queries - centre.double()).float()
    squared = centred.double().square().sum(1, keepdim=True)
    error = (min(PIECE, centred.shape[1]) + 16) * ROUNDING

    def of_block(block: Block) -> Neighbours:
        points = block.points - centre
        lengths = squared + points.double().square().sum(1)
        bounds = (1 - error) * lengths - 2 * _products(centred, points)
        best = bounds.topk(min(keep, bounds.shape[1]), dim=1, largest=False)
        return Neighbours(best.values, block.rows[best.indices], keep)

    return _best(map(of_block, source.blocks(label, rows=rows)))


def _centre(source: PointSet, label: int, *, points: int = 1024) -> Tensor:
    """A point amid the class, float32 [D]; any would do, a near one keeps the bounds tight."""
    rows = source.atoms(label).rows
    return source.take(rows[:: -(-len(rows) // points)]).flatten(1).double().mean(0).float()


def _products(queries: Tensor, points: Tensor) -> Tensor:
    """Inner products [b, n] of float32 rows, the pieces joined in float64."""
    pieces = zip(queries.split(PIECE, 1), points.split(PIECE, 1), strict=True)
    total = torch.zeros(len(queries), len(points), dtype=torch.float64)
    for some, others in pieces:
        total += some @ others.T
    return total


def _exhaustive(source: PointSet, queries: Tensor, k: int, label: int, rows: int) -> Neighbours:
    def of_block(block: Block) -> Neighbours:
        distances = torch.cdist(
            queries, block.points.double(), compute_mode="donot_use_mm_for_euclid_dist"
        )
        best = distances.sort(dim=1, stable=True)
        return Neighbours(best.values[:, :k], block.rows[best.indices[:, :k]], k)

    return _best(map(of_block, source.blocks(label, rows=min(rows, 256))))


def _best(parts: Iterator[Neighbours]) -> Neighbours:
    total = next(parts)
    for part in parts:
        total = total.merge(part)
    return total


def _rescore(source: PointSet, queries: Tensor, rows: Tensor, k: int) -> Neighbours:
    """The k nearest of the rows [b, n] of each query, a few queries at a time."""
    together = max(1, GATHERED // (rows.shape[1] * queries.shape[1]))
    pieces = zip(queries.split(together), rows.split(together), strict=True)
    distances = torch.cat([_distances(source, some, of_them) for some, of_them in pieces])
    by_row = rows.argsort(dim=1)
    order = distances.gather(1, by_row).argsort(dim=1, stable=True)
    order = by_row.gather(1, order)[:, :k]
    return Neighbours(distances.gather(1, order), rows.gather(1, order), k)


def _distances(source: PointSet, queries: Tensor, rows: Tensor) -> Tensor:
    points = source.take(rows.flatten()).flatten(1).double().reshape(*rows.shape, -1)
    return (queries[:, None] - points).square().sum(2).sqrt()
