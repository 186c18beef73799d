"""From rows to atoms: exact duplicates merge into the first of them, weighted by their count.

The atoms of a class are its distinct rows; those of the whole set merge across classes as well.
Rows may have weights of their own; then an atom has the sum of them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from floracle.core.point_set import WeightedRows
from floracle.run.errors import InputError

FEW = 12


@dataclass(frozen=True, eq=False)
class ClassIndex:
    """Which rows are the same point, and which belong to one class."""

    first: Tensor
    """The first row equal to each row, int64 [N]."""
    labels: Tensor
    """Int64 [N], −1 for none."""
    weights: Tensor | None = None
    """Positive float64 [N] of any scale; None where all rows count the same."""
    _found: dict[int, WeightedRows] = field(default_factory=dict, repr=False)

    @property
    def duplicates(self) -> int:
        """Rows merged away over the whole set."""
        return int((self.first != torch.arange(len(self.first))).sum())

    def atoms(self, label: int = -1) -> WeightedRows:
        """The atoms of a class, or of everything for −1; remembered."""
        if label not in self._found:
            rows = torch.arange(len(self.first)) if label == -1 else self._members(label)
            self._found[label] = _merged(rows, self.first[rows], self._shares(rows))
        return self._found[label]

    def _members(self, label: int) -> Tensor:
        order, ordered = self._by_class
        begin, end = np.searchsorted(ordered, [label, label + 1])
        if label < 0 or begin == end:
            raise InputError(f"there is no class {label}; {_known(np.unique(ordered).tolist())}")
        return order[int(begin) : int(end)]

    def _shares(self, rows: Tensor) -> Tensor | None:
        if self.weights is None:
            return None
        weights = self.weights[rows] / self.weights[rows].max()  # their sum cannot overflow
        return weights / weights.sum()

    @cached_property
    def _by_class(self) -> tuple[Tensor, np.ndarray]:
        order = self.labels.argsort(stable=True)
        return order, self.labels[order].numpy()


def _merged(rows: Tensor, first: Tensor, shares: Tensor | None) -> WeightedRows:
    """Atoms of increasing rows, given the row that each one equals and what each one weighs."""
    _, index, group, counts = np.unique(
        first.numpy(), return_index=True, return_inverse=True, return_counts=True
    )
    order = np.argsort(index)
    if shares is None:
        weights = torch.from_numpy(counts[order]).double() / len(rows)
    else:
        weights = torch.from_numpy(np.bincount(group, shares.numpy())[order])
    return WeightedRows(rows[torch.from_numpy(index[order])], weights)


def _known(labels: Sequence[int]) -> str:
    labels = [label for label in labels if label >= 0]
    if not labels:
        return "the data has no labels"
    few = ", ".join(map(str, labels[:FEW]))
    return f"classes are {few}" + (f", ... {labels[-1]}" if len(labels) > FEW else "")
