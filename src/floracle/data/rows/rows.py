"""Rows: points [N, *shape] as they are stored, read by slice or by row numbers.

A tensor is rows as it stands, and so are the rows of files (file_rows.py). All others are computed
when they are read, from other rows, from foreign arrays or from one file each: `ComputedRows`.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import prod
from typing import Protocol, TypeVar

import numpy as np
import torch
from torch import Tensor

File = TypeVar("File")
Key = slice | Tensor
COMPACT = (torch.uint8, torch.float16, torch.bfloat16, torch.float32)
"""Types no wider than float32."""
SIGNED = {torch.uint16: torch.int16, torch.uint32: torch.int32, torch.uint64: torch.int64}
"""Types of the same bits that torch can flip."""


class Rows(Protocol):
    """Points [N, *shape]; indexed by a slice or by int64 [n], they are a tensor [n, *shape]."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Rows first, then the shape of one point."""
        ...

    @property
    def dtype(self) -> torch.dtype:
        """Of what is read."""
        ...

    def __len__(self) -> int: ...

    def __getitem__(self, key: Key, /) -> Tensor: ...


@dataclass(frozen=True, eq=False)
class ComputedRows:
    """Rows that a function makes whenever they are read; nothing is kept."""

    shape: tuple[int, ...]
    dtype: torch.dtype
    read: Callable[[Key], Tensor]

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, key: Key, /) -> Tensor:
        return self.read(key)


def map_rows(
    rows: Rows,
    convert: Callable[[Tensor], Tensor],
    *,
    shape: Sequence[int] | None = None,
    dtype: torch.dtype | None = None,
) -> ComputedRows:
    """Rows of which every block [n, ...] is converted; of the same shape and type unless given."""
    shape = tuple(rows.shape if shape is None else shape)
    return ComputedRows(shape, dtype or rows.dtype, lambda key: convert(rows[key]))


def mirror_rows(pictures: Rows) -> ComputedRows:
    """Pictures [N, C, H, W] and their left-right mirrors: row N + i is the mirror of row i."""
    count = len(pictures)

    def read(key: Key) -> Tensor:
        numbers = row_numbers(key, 2 * count)
        # indexing by numbers copies, so that the data itself is not mirrored below
        points = pictures[numbers % count].contiguous()
        mirrored = numbers >= count
        values = points.view(SIGNED.get(points.dtype, points.dtype))  # the same memory
        values[mirrored] = values[mirrored].flip(-1)
        return points

    return ComputedRows((2 * count, *pictures.shape[1:]), pictures.dtype, read)


def join_rows(first: Rows, second: Rows) -> ComputedRows:
    """The rows of two arrays of one shape and type, those of the second after all others."""
    count = len(first)

    def read(key: Key) -> Tensor:
        numbers = row_numbers(key, count + len(second))
        late = numbers >= count
        block = torch.empty(len(numbers), *first.shape[1:], dtype=first.dtype)
        block[~late] = first[numbers[~late]]
        block[late] = second[numbers[late] - count]
        return block

    return ComputedRows((count + len(second), *first.shape[1:]), first.dtype, read)


def file_per_row(
    files: Sequence[File],
    load: Callable[[File], np.ndarray],
    shape: tuple[int, ...],
    dtype: torch.dtype,
) -> ComputedRows:
    """One file a row; `load` gives an array [*shape], or raises if a file holds another kind."""

    def read(key: Key) -> Tensor:
        numbers = range(len(files))[key] if isinstance(key, slice) else key.tolist()
        block = torch.empty(len(numbers), *shape, dtype=dtype)
        # numpy converts order and byte order in the assignment
        for row, number in zip(block.numpy(), numbers, strict=True):
            row[...] = load(files[number])
        return block

    return ComputedRows((len(files), *shape), dtype, read)


def array_rows(array: np.ndarray) -> Rows:
    """A numpy array as rows; torch shares its memory, or copies each block if it cannot."""
    shareable = array.flags.aligned and native_kind(array.dtype) == array.dtype
    if not shareable or min(array.strides, default=0) < 0:
        return ComputedRows(array.shape, torch_type(array.dtype), lambda key: _copy(array, key))
    with warnings.catch_warnings():  # torch warns of read-only arrays; nothing here is written to
        warnings.simplefilter("ignore")
        return torch.from_numpy(array)


def _copy(array: np.ndarray, key: Key) -> Tensor:
    block = array[key if isinstance(key, slice) else key.numpy()]
    return torch.from_numpy(np.array(block, dtype=native_kind(block.dtype), order="C"))


def native_kind(kind: np.dtype) -> np.dtype:
    """The numpy type that torch shares: in this machine's byte order, of 64 bits at most."""
    return np.dtype(np.float64) if kind.char == "g" else kind.newbyteorder("=")


def torch_type(kind: np.dtype) -> torch.dtype:
    """The type of a tensor of these numbers."""
    return torch.from_numpy(np.empty(0, native_kind(kind))).dtype


def row_numbers(key: Key, count: int) -> Tensor:
    """The rows that a key asks for, int64 [n]."""
    return torch.arange(*key.indices(count)) if isinstance(key, slice) else key


def hold_if_fits(rows: Rows, budget: int) -> Rows:
    """Rows read into memory if the budget allows it; for files that are slow to open."""
    return rows[:] if prod(rows.shape) * rows.dtype.itemsize <= budget else rows


def compact(stored: Tensor) -> Tensor:
    """Stored values in a type no wider than float32."""
    return stored if stored.dtype in COMPACT else stored.float()


def as_bytes(tensor: Tensor) -> memoryview:
    """The bytes of a contiguous tensor, shared with it."""
    return tensor.detach().reshape(-1).view(torch.uint8).numpy().data
