"""Rows that lie in several places: parts one after the other, or a file for every row."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate
from typing import Generic, TypeVar

import numpy as np
import torch
from torch import Tensor

from floracle.data.layouts.content import Key, Rows

Place = TypeVar("Place")


@dataclass(frozen=True, eq=False)
class Joined:
    """The rows of several parts of one shape and type, one part after the other."""

    parts: tuple[Rows, ...]

    @property
    def shape(self) -> tuple[int, ...]:
        """Rows first."""
        return (len(self), *self.parts[0].shape[1:])

    @property
    def dtype(self) -> torch.dtype:
        """As stored."""
        return self.parts[0].dtype

    def __len__(self) -> int:
        return int(self._ends[-1])

    def __getitem__(self, key: Key, /) -> Tensor:
        rows = torch.arange(len(self))[key] if isinstance(key, slice) else key
        part = torch.searchsorted(self._ends, rows.contiguous(), right=True)
        if isinstance(key, slice) and key.step in (None, 1):
            return self._consecutive(rows, part)
        picked = torch.empty(len(rows), *self.shape[1:], dtype=self.dtype)
        for place in part.unique().tolist():
            own = part == place
            picked[own] = self.parts[place][rows[own] - self._start(place)]
        return picked

    @cached_property
    def _ends(self) -> Tensor:
        return torch.tensor(list(accumulate(map(len, self.parts))))

    def _start(self, place: int) -> int:
        return int(self._ends[place]) - len(self.parts[place])

    def _consecutive(self, rows: Tensor, part: Tensor) -> Tensor:
        """Increasing rows without gaps: a view where they lie in one part."""
        if not len(rows):
            return self.parts[0][:0]
        first, end = int(rows[0]), int(rows[-1]) + 1
        pieces = []
        for place in range(int(part[0]), int(part[-1]) + 1):
            start = self._start(place)
            pieces.append(self.parts[place][max(first - start, 0) : end - start])
        return pieces[0] if len(pieces) == 1 else torch.cat(pieces)


@dataclass(frozen=True, eq=False)
class Filed(Generic[Place]):
    """One file a row, read whenever it is asked for."""

    places: Sequence[Place]
    load: Callable[[Place], np.ndarray]
    """The array [*shape] of one place; another shape or type than the first is its mistake."""
    shape: tuple[int, ...]
    dtype: torch.dtype

    def __len__(self) -> int:
        return len(self.places)

    def __getitem__(self, key: Key, /) -> Tensor:
        places = range(len(self))[key] if isinstance(key, slice) else key.tolist()
        rows = torch.empty(len(places), *self.shape[1:], dtype=self.dtype)
        for row, place in zip(rows.numpy(), places, strict=True):
            row[...] = self.load(self.places[place])
        return rows


def held(rows: Rows, budget: int) -> Rows:
    """Rows in memory where they fit, for files are slow to open."""
    needed = torch.Size(rows.shape).numel() * rows.dtype.itemsize
    return rows[:] if needed <= budget else rows
