"""The vectors whose inner products a Gram matrix holds, and what ties close atoms together.

An atom is written as x_i = m + z_i about the class mean m. Of two atoms at a distance δ far below
their norms, float64 products with z_i and z_j say little about x_i − x_j. Such atoms are tied into
trees: the root stands for z, every other atom for its difference from its parent, so that an atom
is the sum along its chain from the root. The trees are minimum spanning ones: no edge on the way
from one atom to another is longer than the two are apart, so nothing on it can drown their
difference.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import torch
from scipy.sparse import coo_array
from scipy.sparse.csgraph import breadth_first_order, minimum_spanning_tree
from torch import Tensor

from floracle.core.source import Source

CLOSE = 5e-4
"""Atoms are close where ½ ‖x_i − x_j‖² is under this share of their squared norm: their products
then lose three of sixteen digits, and pairs further apart need no help."""
BLOCK_BYTES = 2**26
"""The size of a block of float64 vectors."""
ROOT = -1


@dataclass(frozen=True)
class Frame:
    """What vectors stand for the atoms of a class; the only part of a Gram that knows of D."""

    rows: Tensor
    """Row numbers of the atoms, int64 [n], on the CPU."""
    parents: Tensor
    """The position of the atom each is a difference from, int64 [n]; −1 for the centre."""
    centre: Tensor
    """The weighted mean m in float32's values, float64 [D]."""

    def __len__(self) -> int:
        return len(self.rows)

    def vectors(self, source: Source, positions: Tensor) -> Tensor:
        """The vectors of some atoms, float64 [k, D]: from the centre or from their parents."""
        points = source.take(self.rows[positions]).flatten(1).double()
        parents = self.parents[positions]
        tied = parents != ROOT
        if not tied.any():
            return points.sub_(self.centre)
        origins = self.centre.expand_as(points).clone()
        origins[tied] = source.take(self.rows[parents[tied]]).flatten(1).double()
        return points.sub_(origins)

    def blocks(self, source: Source, some: Tensor, size: int) -> Iterator[tuple[Tensor, Tensor]]:
        """Positions and their vectors, as many at a time as `size` bytes hold."""
        for positions in some.split(max(1, size // (8 * len(self.centre)))):
            yield positions, self.vectors(source, positions)


class Parts(NamedTuple):
    """Values [b, n] of atoms as large parts and, where atoms are tied, small ones."""

    high: Tensor
    low: Tensor | None = None

    @property
    def total(self) -> Tensor:
        """The values."""
        return self.high if self.low is None else self.high + self.low

    def apart(self, to: Tensor) -> Tensor:
        """By how much they exceed those at positions `to` [b]."""
        high = self.high - self.high.gather(1, to[:, None])
        return high if self.low is None else high + (self.low - self.low.gather(1, to[:, None]))


@dataclass(frozen=True)
class Ties:
    """The trees of close atoms."""

    atoms: Tensor
    """Positions of all tied atoms, roots among them, int64 [m]."""
    chains: Tensor
    """1 where a vector (column) lies on the chain of an atom (row), float64 [m, m]."""
    depth: int
    """The most vectors on one chain."""

    def gathered(self, weights: Tensor) -> Tensor:
        """Weights of atoms [b, n] as weights of vectors: each counts for all that hang on it."""
        weights = weights.clone()
        weights[:, self.atoms] = weights[:, self.atoms] @ self.chains
        return weights

    def summed(self, values: Tensor) -> Parts:
        """Values of vectors [b, n] summed up to atoms, in two parts.

        The sums of the first, larger parts are exact (Rump et al. 2008), so that values which two
        chains share cancel to the last bit in the difference of two atoms.
        """
        high, low = values.clone(), torch.zeros_like(values)
        tied = values[:, self.atoms]
        exponent = torch.frexp(tied.abs().amax(1, keepdim=True)).exponent
        coarse = torch.ldexp(
            torch.ones_like(tied[:, :1]), exponent + (self.depth + 1).bit_length()
        )
        coarser = (tied + coarse) - coarse
        high[:, self.atoms] = coarser @ self.chains.T
        low[:, self.atoms] = (tied - coarser) @ self.chains.T
        return Parts(high, low)


@dataclass(frozen=True)
class Near:
    """Pairs of close atoms i < j, and half their squared distance as measured."""

    first: Tensor
    second: Tensor
    half: Tensor

    def __len__(self) -> int:
        return len(self.first)

    def matrix(self, count: int) -> Tensor:
        """The same as a sparse symmetric matrix float64 [n, n]."""
        places = torch.stack(
            [torch.cat([self.first, self.second]), torch.cat([self.second, self.first])]
        )
        values, size = self.half.repeat(2), (count, count)
        return torch.sparse_coo_tensor(places, values, size, check_invariants=False).coalesce()


def close_pairs(frame: Frame, source: Source, products: Tensor, size: int) -> Near:
    """The pairs that products about the centre cannot tell apart well, measured themselves."""
    norms, found = products.diagonal(), []
    for some in torch.arange(len(norms)).split(max(1, size // (32 * len(norms)))):
        half = (norms[some, None] + norms) / 2 - products[some]
        close = half < CLOSE * torch.maximum(norms[some, None], norms)
        found.append(close.nonzero().cpu() + torch.stack([some[0], torch.tensor(0)]))
    first, second = torch.cat(found).unbind(1)
    first, second = first[first < second], second[first < second]
    half = torch.empty(len(first), dtype=torch.float64)
    for some in torch.arange(len(first)).split(max(1, size // (24 * len(frame.centre)))):
        ends = (source.take(frame.rows[end[some]]).flatten(1) for end in (first, second))
        one, other = (end.double() for end in ends)
        half[some] = one.sub_(other).square_().sum(1) / 2
    return Near(first, second, half)


def parents_of(near: Near, count: int) -> Tensor:
    """The parent of every atom in the minimum spanning trees of close pairs, int64 [n]."""
    ends = near.first.numpy(), near.second.numpy()
    tree = minimum_spanning_tree(coo_array((near.half.numpy(), ends), shape=(count, count)))
    parents = torch.full((count,), ROOT)
    unseen = torch.zeros(count, dtype=torch.bool)
    unseen[near.first], unseen[near.second] = True, True
    while unseen.any():
        root = int(unseen.int().argmax())
        order, before = breadth_first_order(tree, root, directed=False)
        reached = torch.from_numpy(order).long()
        unseen[reached] = False
        parents[reached[1:]] = torch.from_numpy(before).long()[reached[1:]]
    return parents


def ties_of(parents: Tensor) -> Ties | None:
    """The chains of all atoms that have a parent or are one; None where no two are close."""
    tied = parents != ROOT
    tied[parents[tied]] = True
    atoms = tied.nonzero()[:, 0]
    if not len(atoms):
        return None
    chains = torch.eye(len(atoms), dtype=torch.float64)
    above = torch.where(parents[atoms] == ROOT, ROOT, torch.searchsorted(atoms, parents[atoms]))
    known = above == ROOT
    while not known.all():  # a level of the trees at a time
        level = ~known & known[above.clamp(min=0)]
        chains[level] += chains[above[level]]
        known |= level
    return Ties(atoms, chains, int(chains.sum(1).max()))
