"""Rows that lie in files one after the other, read by position when they are asked for.

Nothing is mapped: pages of a mapped file would count as memory used, and a mapped file that is cut
short ends the process. Consecutive rows of a file are one contiguous read, done in steps small
enough to stay in cache; each step is converted to float32 and normalized where it lies, so a point
passes through memory once. Where everything fits the budget, a packed shard is kept as float32
once rows of it were read in order.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from io import BufferedReader
from itertools import accumulate
from math import prod
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from floracle.data.normalize import Normalizer

from .buffers import BufferPool
from .rows import ComputedRows, Key, Rows, as_bytes, native_kind, row_numbers, torch_type
from .source_files import SourceFile, read_at

STEP_VALUES = 2**20  # values read, converted and normalized at a time: 4 MiB of float32, in cache
MAX_OPEN_FILES = 64  # of one read; a process may have about a thousand
MAX_GAP_BYTES = 2**14  # reading so many bytes to throw them away takes as long as a second read


@dataclass(frozen=True)
class Piece:
    """An array of rows in a file: its first byte there, and how many rows it has."""

    file: SourceFile
    begin: int
    rows: int


class ReadRun(NamedTuple):
    """Consecutive rows of a piece."""

    piece: int
    first: int
    length: int


@dataclass(frozen=True, eq=False)
class FileRows:
    """The rows of all pieces in order: as stored, or as points where there is a normalizer."""

    pieces: tuple[Piece, ...]
    shape: tuple[int, ...]
    stored_dtype: torch.dtype
    kind: np.dtype | None = None
    """Numbers of the file where torch has none such: of another byte order, or too wide."""
    normalizer: Normalizer | None = None
    hold: bool = False  # whether pieces stay in memory once they are read in order
    _held: dict[int, Tensor] = field(default_factory=dict, repr=False)
    _blocks: BufferPool = field(default_factory=BufferPool, repr=False)
    _steps: BufferPool = field(default_factory=BufferPool, repr=False)

    @property
    def dtype(self) -> torch.dtype:
        """Of what is read."""
        return self.stored_dtype if self.normalizer is None else torch.float32

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, key: Key, /) -> Tensor:
        if not isinstance(key, slice) or key.step not in (None, 1):
            return self._read(self._find_runs(row_numbers(key, len(self)).numpy()))
        start, stop, _ = key.indices(len(self))
        runs = self._split_range(start, stop)
        if self.hold:
            for run in runs:
                self._hold_piece(run.piece)
        if len(runs) == 1 and runs[0].piece in self._held:
            number, first, length = runs[0]
            return self._held[number][first : first + length]
        self._prefetch(self._split_range(stop, min(2 * stop - start, len(self))))
        return self._read(runs)

    def as_points(self, normalizer: Normalizer, *, hold: bool) -> FileRows:
        """The same rows, float32 and normalized."""
        return replace(self, normalizer=normalizer, hold=hold, _held={})

    @property
    def _row_bytes(self) -> int:
        return prod(self.shape[1:]) * (self.kind or self.stored_dtype).itemsize

    @cached_property
    def _ends(self) -> np.ndarray:
        """The number of rows up to the end of each piece."""
        return np.array(list(accumulate(piece.rows for piece in self.pieces)))

    def _split_range(self, start: int, stop: int) -> list[ReadRun]:
        """The rows start … stop − 1, by pieces."""
        number, runs = int(np.searchsorted(self._ends, start, side="right")), []
        while start < stop:
            end, rows = int(self._ends[number]), self.pieces[number].rows
            runs.append(ReadRun(number, start - end + rows, min(stop, end) - start))
            start, number = end, number + 1
        return runs

    def _find_runs(self, rows: np.ndarray) -> list[ReadRun]:
        """Row numbers as runs of consecutive ones, each within a piece."""
        if not len(rows):
            return []
        piece = np.searchsorted(self._ends, rows, side="right")
        breaks = np.flatnonzero((np.diff(rows) != 1) | (np.diff(piece) != 0)) + 1
        starts, stops = np.r_[0, breaks], np.r_[breaks, len(rows)]
        begins = self._ends - [piece.rows for piece in self.pieces]
        first = rows[starts] - begins[piece[starts]]
        columns = (piece[starts].tolist(), first.tolist(), (stops - starts).tolist())
        return [ReadRun(*run) for run in zip(*columns, strict=True)]

    def _prefetch(self, runs: list[ReadRun]) -> None:
        """Ask the system for what a reader in order needs next, while this block is used."""
        for run in runs:
            piece, width = self.pieces[run.piece], self._row_bytes
            with piece.file.reopen() as file:
                begin = piece.begin + run.first * width
                os.posix_fadvise(file.fileno(), begin, run.length * width, os.POSIX_FADV_WILLNEED)

    def _hold_piece(self, number: int) -> None:
        if number not in self._held:
            self._held[number] = self._read([ReadRun(number, 0, self.pieces[number].rows)])

    def _read(self, runs: list[ReadRun]) -> Tensor:
        """The rows of all runs: read as stored a step at a time, converted, normalized."""
        shape = self.shape[1:]
        points = self._blocks.empty((sum(run.length for run in runs), *shape), self.dtype)
        step_rows = max(1, STEP_VALUES // max(1, prod(shape)))
        # Bytes are read where they belong if no conversion follows, else into memory for a step.
        raw, raw_rows = None, min(step_rows, len(points))
        if self.kind is not None:
            raw = self._steps.empty((raw_rows, self._row_bytes), torch.uint8)
        elif self.dtype != self.stored_dtype:
            raw = self._steps.empty((raw_rows, *shape), self.stored_dtype)
        done, files = 0, {}
        with ExitStack() as stack:
            for step in self._split_steps(runs, step_rows):
                block = points[done : done + sum(run.length for run in step)]
                done += len(block)
                if step[0].piece in self._held:
                    number, first, length = step[0]
                    block.copy_(self._held[number][first : first + length])
                    continue
                stored = block if raw is None else raw[: len(block)]
                self._read_stored(step, as_bytes(stored), files, stack)
                if raw is not None:
                    block.copy_(self._decode(stored))
                if self.normalizer is not None:
                    self.normalizer.apply_(block)
        return points

    def _decode(self, raw: Tensor) -> Tensor:
        if self.kind is None:
            return raw
        values = raw.numpy().view(self.kind).astype(native_kind(self.kind))
        return torch.from_numpy(values).view(-1, *self.shape[1:])

    def _split_steps(self, runs: list[ReadRun], step_rows: int) -> Iterator[list[ReadRun]]:
        """Runs in steps of at most `step_rows` rows; rows that are held make a step of their own.

        Short runs share a step, long ones are cut.
        """
        step, room = [], step_rows
        for piece, first, length in runs:
            if piece in self._held:
                if step:
                    yield step
                yield [ReadRun(piece, first, length)]
                step, room = [], step_rows
                continue
            while length:
                step.append(ReadRun(piece, first, min(length, room)))
                first, length = first + step[-1].length, length - step[-1].length
                room -= step[-1].length
                if not room:
                    yield step
                    step, room = [], step_rows
        if step:
            yield step

    def _read_stored(
        self,
        step: list[ReadRun],
        memory: memoryview,
        files: dict[int, BufferedReader],
        stack: ExitStack,
    ) -> None:
        """The bytes of a step; the files of its pieces stay open for the steps that follow."""
        done = 0
        for number, first, length in step:
            piece, size = self.pieces[number], length * self._row_bytes
            if number not in files:
                if len(files) == MAX_OPEN_FILES:
                    stack.close()
                    files.clear()
                files[number] = stack.enter_context(piece.file.reopen())
            begin = piece.begin + first * self._row_bytes
            read_at(files[number], begin, memory[done : done + size], piece.file.path)
            done += size


def rows_at(
    file: SourceFile,
    begin: int,
    shape: tuple[int, ...],
    kind: np.dtype,
    *,
    columns: bool = False,
    dtype: torch.dtype | None = None,
) -> Rows:
    """The array that begins at a byte of a file.

    `columns`: it lies in Fortran's order. `dtype`: what torch makes of its words, where numpy has
    no such type (bfloat16).
    """
    if not shape or 0 in shape:
        array = np.empty(shape, kind)
        with file.reopen() as opened:
            read_at(opened, begin, _bytes_of(array), file.path)
        values = torch.from_numpy(array.astype(native_kind(kind)))
        values = torch.empty(shape, dtype=values.dtype).copy_(values)  # numpy's have no strides
        return values if dtype is None else values.view(dtype)
    if columns:
        read = partial(_read_columns, file, begin, shape, kind)
        return ComputedRows(shape, torch_type(kind), read)
    foreign = None if native_kind(kind) == kind else kind
    return FileRows((Piece(file, begin, shape[0]),), shape, dtype or torch_type(kind), foreign)


def _read_columns(
    file: SourceFile, begin: int, shape: tuple[int, ...], kind: np.dtype, key: Key
) -> Tensor:
    """Rows of an array in Fortran's order: a piece of every column.

    Rows that lie close to each other are one read in every column, gaps included.
    """
    rows = row_numbers(key, shape[0]).numpy()
    columns = np.empty((prod(shape[1:]), len(rows)), kind)
    order = np.argsort(rows, kind="stable")
    gaps = np.flatnonzero(np.diff(rows[order]) > MAX_GAP_BYTES // kind.itemsize) + 1
    with file.reopen() as opened:
        for members in np.split(order, gaps):  # places among `rows`, by increasing row
            if not len(members):
                continue
            first, last = int(rows[members[0]]), int(rows[members[-1]])
            in_order = bool((np.diff(rows[members]) == 1).all() and (np.diff(members) == 1).all())
            span = np.empty(last - first + 1, kind)
            for number, column in enumerate(columns):
                if in_order:  # read where they belong, without a copy
                    span = column[members[0] : members[0] + len(members)]
                position = begin + (number * shape[0] + first) * kind.itemsize
                read_at(opened, position, _bytes_of(span), file.path)
                if not in_order:
                    column[members] = span[rows[members] - first]
    # [D, n], the last axis of a point slowest, to [n, *shape]
    block = columns.astype(native_kind(kind), copy=False).reshape(*shape[:0:-1], -1)
    return torch.from_numpy(block).permute(*range(len(shape) - 1, -1, -1)).contiguous()


def _bytes_of(array: np.ndarray) -> memoryview:
    """The bytes of a contiguous array, shared with it."""
    return array.reshape(-1).view(np.uint8).data
