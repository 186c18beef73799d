"""Distinct training points: exact duplicates merge into the first of them, weighted by count.

The distinct rows of a class are its atoms; those of the whole set merge across classes as well.
Rows may have weights of their own; then an atom has the sum of them.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from floracle.core.point_set import NO_LABEL, WeightedRows
from floracle.run.errors import InputError

MAX_LISTED_CLASSES = 12


@dataclass(frozen=True, eq=False)
class ClassIndex:
    """Which rows are the same point, and which belong to one class."""

    first: Tensor  # the first row equal to each row, int64 [N]
    labels: Tensor  # int64 [N], −1 for none
    weights: Tensor | None = None
    """Positive float64 [N] of any scale; None where all rows count the same."""
    included: Tensor | None = None
    """Rows that belong to the whole set, bool [N]; None where all do. Others have the label −1."""
    _atoms: dict[int, WeightedRows] = field(default_factory=dict, repr=False)

    @property
    def duplicates(self) -> int:
        """Rows merged away over the whole set."""
        return int((self.first != torch.arange(len(self.first))).sum())

    def atoms(self, label: int = NO_LABEL) -> WeightedRows:
        """The atoms of a class, or of the whole set for −1; computed once."""
        if label not in self._atoms:
            rows = self._all_rows() if label == NO_LABEL else self._rows_of(label)
            self._atoms[label] = self._merge_duplicates(rows)
        return self._atoms[label]

    def _all_rows(self) -> Tensor:
        if self.included is None:
            return torch.arange(len(self.first))
        return self.included.nonzero().flatten()

    def _rows_of(self, label: int) -> Tensor:
        order, sorted_labels = self._by_class
        begin, end = np.searchsorted(sorted_labels, [label, label + 1])
        if label < 0 or begin == end:
            raise InputError(f"there is no class {label}; {_list_classes(sorted_labels)}")
        return order[int(begin) : int(end)]

    @cached_property
    def _by_class(self) -> tuple[Tensor, np.ndarray]:
        """Rows ordered by class, and their labels; rows of one class stay in order."""
        order = self.labels.argsort(stable=True)
        return order, self.labels[order].numpy()

    def _merge_duplicates(self, rows: Tensor) -> WeightedRows:
        """The first of equal rows, in order, each with the weight of all that equal it."""
        # index: where each distinct value stands first; group: which of them each row is
        _, index, group, counts = np.unique(
            self.first[rows].numpy(), return_index=True, return_inverse=True, return_counts=True
        )
        order = np.argsort(index)  # np.unique sorts by value; atoms go by row
        if self.weights is None:
            weights = torch.from_numpy(counts[order]).double() / len(rows)
        else:
            shares = self.weights[rows] / self.weights[rows].max()  # their sum cannot overflow
            shares = shares / shares.sum()
            weights = torch.from_numpy(np.bincount(group, shares.numpy())[order])
        return WeightedRows(rows[torch.from_numpy(index[order])], weights)


def _list_classes(sorted_labels: np.ndarray) -> str:
    labels = [label for label in np.unique(sorted_labels).tolist() if label >= 0]
    if not labels:
        return "the data has no labels"
    listed = ", ".join(map(str, labels[:MAX_LISTED_CLASSES]))
    more = f", ... {labels[-1]}" if len(labels) > MAX_LISTED_CLASSES else ""
    return f"classes are {listed}{more}"
