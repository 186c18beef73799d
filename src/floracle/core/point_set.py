"""What the mathematics needs of data: the `PointSet` protocol.

A point set holds rows, numbered as their file or array numbers them. The *atoms* of a class are
its distinct rows: exact duplicates are merged into the first of them, whose weight is their count.
Points are float32; that is what "exact" refers to everywhere in this library.
"""

from __future__ import annotations

from collections.abc import Iterator
from math import prod
from typing import NamedTuple, Protocol, runtime_checkable

import torch
from torch import Tensor

NO_LABEL = -1
"""The label of the whole set, and of a sample without a class."""


class WeightedRows(NamedTuple):
    """The atoms of a class (or of the whole set) and their weights."""

    rows: Tensor
    """Row numbers, int64 [n], increasing."""
    weights: Tensor
    """w_i, float64 [n], summing to 1."""


class Block(NamedTuple):
    """Some atoms of a class with their points."""

    rows: Tensor
    """Row numbers, int64 [n]."""
    weights: Tensor
    """w_i, float64 [n]; they sum to 1 over the class, not over the block."""
    points: Tensor
    """x_i, float32 [n, D], flattened."""


class Prepared(NamedTuple):
    """Statistics of a class that a point set stores, so that no pass over its points is needed."""

    centre: Tensor
    """The weighted mean of its atoms, float64 [D], rounded to float32's values."""
    norms: Tensor
    """‖x_i − centre‖² of every atom, float64 [n]."""
    variance: float
    """The total variance, summed over dimensions."""
    largest: float
    """The largest norm ‖x_i‖ of an atom."""
    spectrum: Tensor | None
    """Eigenvalues of its covariance, float64, largest first; None if they were not stored."""


@runtime_checkable
class PointSet(Protocol):
    """Labelled points; stores and tensors are opened as one."""

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of one point."""
        ...

    @property
    def labels(self) -> Tensor:
        """The class of every row, int64 [N]; −1 where there is none."""
        ...

    @property
    def fingerprint(self) -> str:
        """A hash of the points, labels and normalization."""
        ...

    def __len__(self) -> int:
        """The number of rows N, duplicates included."""
        ...

    def atoms(self, label: int = NO_LABEL) -> WeightedRows:
        """The distinct rows of a class; of the whole set for −1."""
        ...

    def blocks(self, label: int = NO_LABEL, *, rows: int) -> Iterator[Block]:
        """The atoms of a class in order, at most `rows` at a time."""
        ...

    def take(self, rows: Tensor) -> Tensor:
        """The points float32 [len(rows), *shape] of any rows, in the order given."""
        ...


def prepared(data: PointSet, label: int = NO_LABEL) -> Prepared | None:
    """The stored statistics of a class; None where the point set has none."""
    method = getattr(data, "prepared", None)
    return method(label) if method is not None else None


def check_unchanged(data: PointSet) -> None:
    """Raise if the files of a point set are not as they were when it was opened.

    Call it before anything that was computed from it is saved. Points in memory stay as they are.
    """
    check = getattr(data, "check_unchanged", None)
    if check is not None:
        check()


def classes(data: PointSet) -> list[int]:
    """The labels that occur, in order, without −1."""
    return [label for label in data.labels.unique().tolist() if label >= 0]


def mass(data: PointSet, label: int) -> float:
    """The share of a class in the whole set: of its rows, or of their weights if they have any."""
    in_class = (data.labels == label).double() if label >= 0 else torch.ones(len(data)).double()
    weights = getattr(data, "weights", None)
    if weights is None:
        return float(in_class.mean())
    return float(in_class @ weights / weights.sum())


def dimension(data: PointSet) -> int:
    """The dimension D of a flattened point."""
    return prod(data.shape)
