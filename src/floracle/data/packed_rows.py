"""Rows of a packed store, read from its shards when they are asked for.

Nothing is mapped: pages of a mapped file would count as memory used. Consecutive rows of a shard
are one contiguous read, done in pieces small enough to stay in cache, each converted to float32
and normalized where it lies; a point passes through memory once. Where everything fits the budget
a shard is kept as float32 once rows of it were read in order.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from functools import cached_property
from io import FileIO
from itertools import accumulate
from math import prod
from pathlib import Path
from typing import NamedTuple, TypeVar

import numpy as np
import torch
from torch import Tensor

from .content import Key
from .normalize import Normalizer
from .packed_files import read_into

T = TypeVar("T")
STEP = 2**20
"""Values that are read, converted and normalized at a time."""


@dataclass(frozen=True)
class Piece:
    """One tensor of one shard: its file, its first byte there, its rows."""

    path: Path
    begin: int
    rows: int


class Run(NamedTuple):
    """Consecutive rows first … of a piece."""

    piece: int
    first: int
    length: int


@dataclass(frozen=True, eq=False)
class PackedRows:
    """The rows of all pieces in order: as stored, or as points where there is a normalizer."""

    pieces: tuple[Piece, ...]
    shape: tuple[int, ...]
    stored: torch.dtype
    normalizer: Normalizer | None = None
    hold: bool = False
    """Whether pieces stay in memory."""
    _held: dict[int, Tensor] = field(default_factory=dict, repr=False)

    @property
    def dtype(self) -> torch.dtype:
        """Of what is read."""
        return self.stored if self.normalizer is None else torch.float32

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, key: Key, /) -> Tensor:
        ordered = isinstance(key, slice)
        runs = self._runs(np.arange(*key.indices(len(self))) if ordered else key.numpy())
        if self.hold and ordered:
            for number in {run.piece for run in runs}:
                self._keep(number)
        if len(runs) == 1 and runs[0].piece in self._held:
            number, first, count = runs[0]
            return self._held[number][first : first + count]
        if ordered and runs:
            self._announce(key.indices(len(self))[1], sum(run.length for run in runs))
        return self._read(runs)

    def _announce(self, start: int, length: int) -> None:
        """Have the system fetch what a reader in order asks for next, while this is worked on."""
        rows = np.arange(start, min(start + length, len(self)))
        width = prod(self.shape[1:]) * self.stored.itemsize
        for run in self._runs(rows):
            piece = self.pieces[run.piece]
            with piece.path.open("rb", buffering=0) as file:
                begin = piece.begin + run.first * width
                os.posix_fadvise(file.fileno(), begin, run.length * width, os.POSIX_FADV_WILLNEED)

    def as_points(self, normalizer: Normalizer, *, hold: bool) -> PackedRows:
        """The same rows, float32 and normalized."""
        return replace(self, normalizer=normalizer, hold=hold, _held={})

    @cached_property
    def _ends(self) -> np.ndarray:
        return np.array(list(accumulate(piece.rows for piece in self.pieces)))

    def _runs(self, rows: np.ndarray) -> list[Run]:
        """Row numbers as runs of consecutive ones, each within a piece."""
        if not len(rows):
            return []
        number = np.searchsorted(self._ends, rows, side="right")
        breaks = np.flatnonzero((np.diff(rows) != 1) | (np.diff(number) != 0)) + 1
        starts, stops = np.r_[0, breaks], np.r_[breaks, len(rows)]
        begins = self._ends - [piece.rows for piece in self.pieces]
        first = rows[starts] - begins[number[starts]]
        found = zip(
            number[starts].tolist(), first.tolist(), (stops - starts).tolist(), strict=True
        )
        return [Run(*each) for each in found]

    def _keep(self, number: int) -> None:
        if number not in self._held:
            self._held[number] = self._read([Run(number, 0, self.pieces[number].rows)])

    def _read(self, runs: list[Run]) -> Tensor:
        found = torch.empty(sum(run.length for run in runs), *self.shape[1:], dtype=self.dtype)
        reader, done = _Reader(self), 0
        with ExitStack() as opened:
            files: dict[int, FileIO] = {}
            for run in runs:
                rows = found[done : done + run.length]
                done += run.length
                if run.piece in self._held:
                    rows.copy_(self._held[run.piece][run.first : run.first + run.length])
                    continue
                if run.piece not in files:
                    path = self.pieces[run.piece].path
                    files[run.piece] = opened.enter_context(path.open("rb", buffering=0))
                reader.read(files[run.piece], self.pieces[run.piece], run.first, rows)
        return found


@dataclass(frozen=True, eq=False)
class _Reader:
    """Reads rows of one file after another."""

    rows: PackedRows

    def read(self, file: FileIO, piece: Piece, first: int, out: Tensor) -> None:
        """Fill `out` with consecutive rows."""
        file.seek(piece.begin + first * self.width * self.rows.stored.itemsize)
        ready = self.rows.dtype == self.rows.stored
        normalizer = self.rows.normalizer
        if ready and (normalizer is None or not normalizer.changes):
            read_into(file, out, piece.path)
            return
        for part in out.split(max(1, STEP // self.width)):
            raw = part if ready else self.scratch[: len(part)]
            read_into(file, raw, piece.path)
            if not ready:
                part.copy_(raw)
            if normalizer is not None:
                normalized_(part, normalizer)

    @cached_property
    def width(self) -> int:
        """Values of a row."""
        return prod(self.rows.shape[1:])

    @cached_property
    def scratch(self) -> Tensor:
        """Room for a few rows as stored."""
        count = max(1, STEP // self.width)
        return torch.empty(count, *self.rows.shape[1:], dtype=self.rows.stored)


def normalized_(values: Tensor, normalizer: Normalizer) -> Tensor:
    """`Normalizer.apply` in place: float32 values [n, C, ...], the same to the last bit."""
    if not normalizer.changes:
        return values
    if normalizer.factors:
        scale, bias = (_by_channel(value, values) for value in normalizer.factors)
        return values.mul_(scale).add_(bias)
    return values.sub_(_by_channel(normalizer.mean, values)).div_(
        _by_channel(normalizer.std, values)
    )


def _by_channel(value: Tensor, values: Tensor) -> Tensor:
    return value.reshape(-1, *[1] * (values.ndim - 2)) if value.ndim else value


def ahead(items: Iterator[T]) -> Iterator[T]:
    """The same items, each made in a thread while the one before it is used."""
    end = object()
    with ThreadPoolExecutor(1) as pool:
        item = next(items, end)
        while item is not end:
            following = pool.submit(next, items, end)
            yield item  # pyright: ignore[reportReturnType]
            item = following.result()
