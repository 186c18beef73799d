"""What the mathematics asks of data: the `Source` protocol.

A source holds rows, numbered as their file or array numbers them. The *atoms* of a class are its
distinct rows: exact duplicates are merged into the first of them, whose weight is their count.
Points are float32; that is what "exact" refers to everywhere in this library.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple, Protocol, runtime_checkable

import torch
from torch import Tensor

NO_LABEL = -1
"""The label of everything: the whole set, or a sample without a class."""


class WeightedRows(NamedTuple):
    """The distinct rows of a class (or of everything) and their shares of its mass."""

    rows: Tensor
    """Row numbers, int64 [n], increasing."""
    weights: Tensor
    """Shares float64 [n], summing to 1."""


class Block(NamedTuple):
    """A few atoms together with their points."""

    rows: Tensor
    """Row numbers, int64 [n]."""
    weights: Tensor
    """Shares float64 [n] of the whole class, not of the block."""
    points: Tensor
    """Points, float32 [n, D], flattened."""


class Prepared(NamedTuple):
    """What a source may know of a class beforehand, so that nobody has to read it for that."""

    centre: Tensor
    """The weighted mean of its atoms, float64 [D], rounded to float32's values."""
    norms: Tensor
    """‖x_i − centre‖² of every atom, float64 [n]."""
    variance: float
    """The total variance: of every dimension, summed."""
    largest: float
    """The largest norm ‖x_i‖ of an atom."""
    spectrum: Tensor | None
    """Eigenvalues of its covariance, float64, largest first; None where not taken."""


@runtime_checkable
class PointSet(Protocol):
    """Where points come from."""

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
        """The points float32 [len(rows), *shape] of any rows, in the order asked."""
        ...


def prepared(source: PointSet, label: int = NO_LABEL) -> Prepared | None:
    """What the source knows of a class beforehand; None where it knows nothing."""
    known = getattr(source, "prepared", None)
    return known(label) if known is not None else None


def check_unchanged(source: PointSet) -> None:
    """Raise what a source has to say if its files are not as they were when it was opened.

    To be called before anything that was learnt from it is saved; points in memory stay as they
    are.
    """
    check = getattr(source, "check_unchanged", None)
    if check is not None:
        check()


def classes(source: PointSet) -> list[int]:
    """The labels that occur, in order, without −1."""
    return [label for label in source.labels.unique().tolist() if label >= 0]


def mass(source: PointSet, label: int) -> float:
    """The share of a class in the whole set: of its rows, or of their weights if they have any."""
    member = (source.labels == label).double() if label >= 0 else torch.ones(len(source)).double()
    weights = getattr(source, "weights", None)
    if weights is None:
        return float(member.mean())
    return float(member @ weights / weights.sum())
