"""Rows that lie in files one after the other, read by position when they are asked for.

Nothing is mapped: pages of a mapped file would count as memory used, and a mapped file that is cut
short ends the process. Consecutive rows of a file are one contiguous read, done in pieces small
enough to stay in cache, each converted to float32 and normalized where it lies; a point passes
through memory once. Where everything fits the budget a packed shard is kept as float32 once rows
of it were read in order.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, suppress
from contextvars import copy_context
from dataclasses import dataclass, field, replace
from functools import cached_property
from io import BufferedReader
from itertools import accumulate
from math import prod
from typing import NamedTuple, TypeVar
from weakref import finalize

import numpy as np
import torch
from torch import Tensor

from floracle.data.layouts.content import Key, Rows, native
from floracle.data.normalize import Normalizer
from floracle.data.packed.files import as_bytes

from .source_files import SourceFile, read_at

T = TypeVar("T")
STEP = 2**20
"""Values that are read, converted and normalized at a time."""
OPEN_FILES = 64
"""Files that one read has open at a time; a process may have about a thousand."""
GAP_BYTES = 2**14
"""What is read and thrown away in a column rather than read around: it takes as long."""
SPARED, SPARES = 2**25, 2
"""Bytes of a block at most whose memory is used again, and how many of them wait for that."""


@dataclass(frozen=True)
class Piece:
    """An array of rows in a file: its first byte there, and how many rows it has."""

    file: SourceFile
    begin: int
    rows: int


class ReadRun(NamedTuple):
    """Consecutive rows first … of a piece."""

    piece: int
    first: int
    length: int


@dataclass(frozen=True, eq=False)
class FileRows:
    """The rows of all pieces in order: as stored, or as points where there is a normalizer."""

    pieces: tuple[Piece, ...]
    shape: tuple[int, ...]
    stored: torch.dtype
    normalizer: Normalizer | None = None
    hold: bool = False
    """Whether pieces stay in memory."""
    _held: dict[int, Tensor] = field(default_factory=dict, repr=False)
    _blocks: Spare = field(default_factory=lambda: Spare(), repr=False)
    _raw: Spare = field(default_factory=lambda: Spare(), repr=False)

    @property
    def dtype(self) -> torch.dtype:
        """Of what is read."""
        return self.stored if self.normalizer is None else torch.float32

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, key: Key, /) -> Tensor:
        if not isinstance(key, slice):
            return self._read(self._runs(key.numpy()))
        start, stop, step = key.indices(len(self))
        if step != 1:
            return self._read(self._runs(np.arange(start, stop, step)))
        runs = self._between(start, stop)
        if self.hold:
            for run in runs:
                self._keep(run.piece)
        if len(runs) == 1 and runs[0].piece in self._held:
            number, first, count = runs[0]
            return self._held[number][first : first + count]
        self._announce(self._between(stop, min(2 * stop - start, len(self))))
        return self._read(runs)

    def _announce(self, runs: list[ReadRun]) -> None:
        """Have the system fetch what a reader in order asks for next, while this is worked on."""
        width = prod(self.shape[1:]) * self.stored.itemsize
        for run in runs:
            piece = self.pieces[run.piece]
            with piece.file.reopen() as file:
                begin = piece.begin + run.first * width
                os.posix_fadvise(file.fileno(), begin, run.length * width, os.POSIX_FADV_WILLNEED)

    def as_points(self, normalizer: Normalizer, *, hold: bool) -> FileRows:
        """The same rows, float32 and normalized."""
        return replace(self, normalizer=normalizer, hold=hold, _held={})

    @cached_property
    def _ends(self) -> np.ndarray:
        return np.array(list(accumulate(piece.rows for piece in self.pieces)))

    def _between(self, start: int, stop: int) -> list[ReadRun]:
        """The rows start … stop − 1 as runs."""
        number, runs = int(np.searchsorted(self._ends, start, side="right")), []
        while start < stop:
            end, rows = int(self._ends[number]), self.pieces[number].rows
            runs.append(ReadRun(number, start - end + rows, min(stop, end) - start))
            start, number = end, number + 1
        return runs

    def _runs(self, rows: np.ndarray) -> list[ReadRun]:
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
        return [ReadRun(*each) for each in found]

    def _keep(self, number: int) -> None:
        if number not in self._held:
            self._held[number] = self._read([ReadRun(number, 0, self.pieces[number].rows)])

    def _read(self, runs: list[ReadRun]) -> Tensor:
        found = self._blocks.room((sum(run.length for run in runs), *self.shape[1:]), self.dtype)
        size, done = max(1, STEP // max(1, prod(self.shape[1:]))), 0
        raw = None
        if self.dtype != self.stored:
            raw = self._raw.room((min(size, len(found)), *self.shape[1:]), self.stored)
        with ExitStack() as opened:
            files: dict[int, BufferedReader] = {}
            for some in self._together(runs, size):
                part = found[done : done + sum(run.length for run in some)]
                done += len(part)
                if some[0].piece in self._held:
                    number, first, length = some[0]
                    part.copy_(self._held[number][first : first + length])
                    continue
                self._fill(part if raw is None else raw[: len(part)], some, files, opened)
                if raw is not None:
                    part.copy_(raw[: len(part)])
                if self.normalizer is not None:
                    normalized_(part, self.normalizer)
        return found

    def _together(self, runs: list[ReadRun], size: int) -> Iterator[list[ReadRun]]:
        """Runs in pieces that are converted together: of `size` rows at most; held ones alone."""
        some, room = [], size
        for piece, first, length in runs:
            if piece in self._held:
                if some:
                    yield some
                yield [ReadRun(piece, first, length)]
                some, room = [], size
                continue
            while length:
                some.append(ReadRun(piece, first, min(length, room)))
                first, length = first + some[-1].length, length - some[-1].length
                room -= some[-1].length
                if not room:
                    yield some
                    some, room = [], size
        if some:
            yield some

    def _fill(
        self, out: Tensor, runs: list[ReadRun], files: dict[int, BufferedReader], opened: ExitStack
    ) -> None:
        """Rows as stored; their files stay open for the runs that follow."""
        width, room, done = prod(self.shape[1:]) * self.stored.itemsize, as_bytes(out), 0
        for number, first, length in runs:
            piece, size = self.pieces[number], length * width
            if number not in files:
                if len(files) == OPEN_FILES:
                    opened.close()
                    files.clear()
                files[number] = opened.enter_context(piece.file.reopen())
            begin = piece.begin + first * width
            read_at(files[number], begin, room[done : done + size], piece.file.path)
            done += size


@dataclass(frozen=True, eq=False)
class ForeignRows:
    """Rows that torch cannot take as they lie: of another byte order, or too wide."""

    file: SourceFile
    begin: int
    shape: tuple[int, ...]
    kind: np.dtype

    @property
    def dtype(self) -> torch.dtype:
        """What a block holds once it is read."""
        return torch.from_numpy(np.empty(0, native(self.kind))).dtype

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, key: Key, /) -> Tensor:
        rows, width = _numbers(key, len(self)), prod(self.shape[1:])
        picked = np.empty((len(rows), *self.shape[1:]), native(self.kind))
        size, done = max(1, STEP // width), 0
        with self.file.reopen() as file:
            for run in np.split(rows, np.flatnonzero(np.diff(rows) != 1) + 1):
                for first in range(0, len(run), size):
                    block = np.empty((min(size, len(run) - first), *self.shape[1:]), self.kind)
                    begin = self.begin + int(run[first]) * width * self.kind.itemsize
                    read_at(file, begin, _bytes_of(block), self.file.path)
                    picked[done : done + len(block)] = block
                    done += len(block)
        return torch.from_numpy(picked)


@dataclass(frozen=True, eq=False)
class ColumnRows:
    """Rows of an array that lies column by column (Fortran's order): a piece of every column."""

    file: SourceFile
    begin: int
    shape: tuple[int, ...]
    kind: np.dtype

    @property
    def dtype(self) -> torch.dtype:
        """What a block holds once it is read."""
        return torch.from_numpy(np.empty(0, native(self.kind))).dtype

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, key: Key, /) -> Tensor:
        rows, axes = _numbers(key, len(self)), range(len(self.shape) - 1, -1, -1)
        columns = np.empty((prod(self.shape[1:]), len(rows)), self.kind)
        order = np.argsort(rows, kind="stable")
        gaps = np.flatnonzero(np.diff(rows[order]) > GAP_BYTES // self.kind.itemsize) + 1
        with self.file.reopen() as file:
            for members in np.split(order, gaps):
                if len(members):
                    self._fill(file, columns, rows[members], members)
        picked = columns.astype(native(self.kind), copy=False).reshape(*self.shape[:0:-1], -1)
        return torch.from_numpy(picked).permute(*axes).contiguous()

    def _fill(
        self, file: BufferedReader, columns: np.ndarray, rows: np.ndarray, members: np.ndarray
    ) -> None:
        """Increasing rows that lie close to each other: one read in every column."""
        first, steps = int(rows[0]), np.diff(rows)
        in_order = bool((steps == 1).all() and (np.diff(members) == 1).all())
        read = np.empty(int(rows[-1]) - first + 1, self.kind)
        for number, column in enumerate(columns):
            if in_order:  # where they belong, without a copy
                read = column[members[0] : members[0] + len(members)]
            begin = self.begin + (number * len(self) + first) * self.kind.itemsize
            read_at(file, begin, _bytes_of(read), self.file.path)
            if not in_order:
                column[members] = read[rows - first]


def _numbers(key: Key, count: int) -> np.ndarray:
    """The numbers of the rows that are asked for."""
    return np.arange(*key.indices(count)) if isinstance(key, slice) else key.numpy()


def _bytes_of(array: np.ndarray) -> memoryview:
    """The bytes of a contiguous array, shared with it."""
    return array.reshape(-1).view(np.uint8).data


def rows_at(
    file: SourceFile,
    begin: int,
    shape: tuple[int, ...],
    kind: np.dtype,
    *,
    columns: bool = False,
    dtype: torch.dtype | None = None,
) -> Rows:
    """The array of a file that begins at a byte; torch may have another `dtype` for its words."""
    if not shape or 0 in shape:
        words = np.empty(shape, kind)
        with file.reopen() as opened:
            read_at(opened, begin, _bytes_of(words), file.path)
        values = torch.from_numpy(words.astype(native(kind)))
        values = torch.empty(shape, dtype=values.dtype).copy_(values)  # numpy's have no strides
        return values if dtype is None else values.view(dtype)
    if columns:
        return ColumnRows(file, begin, shape, kind)
    if native(kind) != kind:
        return ForeignRows(file, begin, shape, kind)
    own = dtype or torch.from_numpy(np.empty(0, kind)).dtype
    return FileRows((Piece(file, begin, shape[0]),), shape, own)


@dataclass(frozen=True, eq=False)
class Spare:
    """Memory that is used again once nobody holds what lay in it.

    Memory fresh from the system costs about as much as reading into it.
    """

    kept: list[Tensor] = field(default_factory=list)

    def room(self, shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
        """An empty tensor."""
        size = prod(shape) * dtype.itemsize
        if not 0 < size <= SPARED:
            return torch.empty(shape, dtype=dtype)
        whole = None
        with suppress(IndexError):  # another thread may have taken it
            whole = self.kept.pop()
        if whole is None or len(whole) < size:
            whole = torch.empty(size, dtype=torch.uint8)
        held = whole[:size].numpy()
        finalize(held, self._take_back, whole).atexit = False
        return torch.from_numpy(held).view(dtype).view(shape)

    def _take_back(self, whole: Tensor) -> None:
        if len(self.kept) < SPARES:
            self.kept.append(whole)


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


def ahead(items: Iterator[T], *, threads: int | None = None) -> Iterator[T]:
    """The same items, each made in a thread while the one before it is used.

    That thread computes with so many `threads`; as many as any without a number.
    """
    end, context = object(), copy_context()  # files opened there are noted as if opened here
    with ThreadPoolExecutor(1) as pool:
        if threads:
            pool.submit(torch.set_num_threads, threads)
        item = next(items, end)
        while item is not end:
            following = pool.submit(context.run, next, items, end)
            yield item  # pyright: ignore[reportReturnType]
            item = following.result()
