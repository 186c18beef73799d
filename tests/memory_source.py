"""A source of points in memory, for tests."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from floracle.core.point_set import Block, WeightedRows


@dataclass(frozen=True)
class PointsSource:
    """Rows of a tensor as a `Source`; `weights` are the masses of rows, equal by default."""

    points: Tensor
    labels: Tensor
    weights: Tensor

    @property
    def shape(self) -> tuple[int, ...]:
        return tuple(self.points.shape[1:])

    @property
    def fingerprint(self) -> str:
        parts = (self.points, self.labels, self.weights)
        return hashlib.sha256(b"".join(part.numpy().tobytes() for part in parts)).hexdigest()

    def __len__(self) -> int:
        return len(self.points)

    def atoms(self, label: int = -1) -> WeightedRows:
        first: dict[bytes, int] = {}
        masses: dict[int, float] = {}
        members = range(len(self)) if label == -1 else (self.labels == label).nonzero()[:, 0]
        for row in map(int, members):
            kept = first.setdefault(self.points[row].numpy().tobytes(), row)
            masses[kept] = masses.get(kept, 0.0) + self.weights[row].item()
        weights = torch.tensor(list(masses.values()), dtype=torch.float64)
        return WeightedRows(torch.tensor(list(masses), dtype=torch.int64), weights / weights.sum())

    def blocks(self, label: int = -1, *, rows: int) -> Iterator[Block]:
        atoms = self.atoms(label)
        for some, weights in zip(atoms.rows.split(rows), atoms.weights.split(rows), strict=True):
            yield Block(some, weights, self.take(some).flatten(1))

    def take(self, rows: Tensor) -> Tensor:
        return self.points[rows]


def make_source(
    points: Tensor, labels: Tensor | None = None, weights: Tensor | None = None
) -> PointsSource:
    """See points [N, *shape] as a source, unlabelled and equally weighted unless told."""
    count = len(points)
    return PointsSource(
        points.float().contiguous(),
        torch.full((count,), -1) if labels is None else torch.as_tensor(labels).long(),
        torch.ones(count, dtype=torch.float64) if weights is None else weights.double(),
    )
