"""Exact k nearest atoms, in one pass over blocks.

    1. Screen    a lower bound of every squared distance, by float32 inner products of centred
                 points less what rounding can have added; the few smallest bounds are kept.
    2. Refine    the distances of those atoms in float64, from the differences themselves.
    3. Repeat    a query whose k-th distance is not below every bound left out is done again in
                 float64 over all points.

Rounding: an inner product summed in pieces of c numbers errs by at most (c + 1) ε |q| |p|, and
rounding the centred points themselves by a few ε more (Higham 2002, Eq. 3.4), ε = 2⁻²⁴.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import reduce

import torch
from torch import Tensor

from .point_set import NO_LABEL, Block, PointSet

EPSILON = 2.0**-24  # float32 rounds by this share at most
PIECE = 512  # numbers of an inner product that float32 sums; larger pieces widen the bound
ROUNDING_TERMS = 16  # roundings beside those of the sum: centring, squares, the bound itself
SPARE_CANDIDATES = 8  # beyond k: near ties are then settled without a repeat
REFINED_NUMBERS = 2**24  # of candidates gathered at once, 128 MiB in float64
EXHAUSTIVE_ROWS = 256  # of a block in the repeat: `cdist` holds its differences
CENTRE_POINTS = 1024  # of which the centre is taken


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
    data: PointSet, queries: Tensor, k: int = 1, *, label: int = NO_LABEL, rows: int = 1024
) -> Neighbours:
    """The k nearest atoms of a class for each query; exact, ties to the lower row.

    Parameters
    ----------
    data, label
        The class to search, by default the whole set.
    queries
        [b, *shape]
    k
        How many; where the class has fewer atoms there are that many columns.
    rows
        Points of a block.

    Returns
    -------
    Neighbours
        Euclidean distances float64 [b, k] and rows int64 [b, k].

    Raises
    ------
    ValueError
        If k is below 1, or the class has no points.
    """
    if k < 1:
        raise ValueError(f"k counts neighbours and must be at least 1, got {k}")
    atoms = data.atoms(label).rows
    if not len(atoms):
        raise ValueError(f"class {label} has no points in the data")
    queries, k = queries.flatten(1).double(), min(k, len(atoms))
    screened = _screen(data, label, queries, k + SPARE_CANDIDATES, rows)
    exact = _refine(data, queries, screened.rows, k)
    # The last bound kept is at most every bound left out.
    unsure = screened.distances[:, -1] <= exact.distances[:, -1].square()
    if len(atoms) > screened.rows.shape[1] and unsure.any():
        again = _exhaustive(data, queries[unsure], k, label, rows)
        exact.distances[unsure], exact.rows[unsure] = again.distances, again.rows
    return exact


def _screen(data: PointSet, label: int, queries: Tensor, keep: int, rows: int) -> Neighbours:
    """The atoms with the smallest lower bounds; `distances` are those bounds of the squares."""
    centre = _centre(data, label)
    centred = (queries - centre.double()).float()  # q, [b, D]
    squared = centred.double().square().sum(1, keepdim=True)  # ‖q‖², [b, 1]
    error = (min(PIECE, centred.shape[1]) + ROUNDING_TERMS) * EPSILON

    def of_block(block: Block) -> Neighbours:
        points = block.points - centre  # p, [n, D]
        lengths = squared + points.double().square().sum(1)  # ‖q‖² + ‖p‖² ≥ 2 ‖q‖ ‖p‖, [b, n]
        bounds = (1 - error) * lengths - 2 * _products(centred, points)
        best = bounds.topk(min(keep, bounds.shape[1]), dim=1, largest=False)
        return Neighbours(best.values, block.rows[best.indices], keep)

    return _merge_blocks(data, label, rows, of_block)


def _centre(data: PointSet, label: int) -> Tensor:
    """A point amid the class, float32 [D]; any would do, a near one keeps the bounds tight."""
    rows = data.atoms(label).rows
    every = -(-len(rows) // CENTRE_POINTS)
    return data.take(rows[::every]).flatten(1).double().mean(0).float()


def _products(queries: Tensor, points: Tensor) -> Tensor:
    """Inner products ⟨q, p⟩ [b, n] of float32 rows, the pieces summed in float64."""
    pieces = zip(queries.split(PIECE, 1), points.split(PIECE, 1), strict=True)
    total = torch.zeros(len(queries), len(points), dtype=torch.float64)
    for query_piece, point_piece in pieces:
        total += query_piece @ point_piece.T
    return total


def _exhaustive(data: PointSet, queries: Tensor, k: int, label: int, rows: int) -> Neighbours:
    """The k nearest atoms by float64 differences from every point."""

    def of_block(block: Block) -> Neighbours:
        distances = torch.cdist(
            queries, block.points.double(), compute_mode="donot_use_mm_for_euclid_dist"
        )
        best = distances.sort(dim=1, stable=True)
        return Neighbours(best.values[:, :k], block.rows[best.indices[:, :k]], k)

    return _merge_blocks(data, label, min(rows, EXHAUSTIVE_ROWS), of_block)


def _merge_blocks(
    data: PointSet, label: int, rows: int, of_block: Callable[[Block], Neighbours]
) -> Neighbours:
    return reduce(Neighbours.merge, map(of_block, data.blocks(label, rows=rows)))


def _refine(data: PointSet, queries: Tensor, rows: Tensor, k: int) -> Neighbours:
    """The k nearest of the candidate rows [b, n] of each query, in float64."""
    count = max(1, REFINED_NUMBERS // (rows.shape[1] * queries.shape[1]))
    batches = zip(queries.split(count), rows.split(count), strict=True)
    distances = torch.cat([_distances(data, *batch) for batch in batches])
    # Sorted by row first, so that the stable sort by distance gives ties to the lower row.
    by_row = rows.argsort(dim=1)
    order = distances.gather(1, by_row).argsort(dim=1, stable=True)
    order = by_row.gather(1, order)[:, :k]
    return Neighbours(distances.gather(1, order), rows.gather(1, order), k)


def _distances(data: PointSet, queries: Tensor, rows: Tensor) -> Tensor:
    """‖q − x_i‖ of each query and its own rows; float64 [b, n]."""
    points = data.take(rows.flatten()).flatten(1).double().reshape(*rows.shape, -1)
    return (queries[:, None] - points).square().sum(2).sqrt()
