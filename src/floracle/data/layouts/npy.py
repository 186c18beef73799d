"""The .npy format: headers and arrays, read when rows of them are asked for.

Pickled objects are refused unread, and an array that is shorter or longer than its header says is
an error.
"""

from __future__ import annotations

import os
from io import BufferedReader, BytesIO
from math import prod
from pathlib import Path
from typing import IO

import numpy as np
from numpy.lib import format as npy
from torch import Tensor

from floracle.data.rows.file_rows import rows_at
from floracle.data.rows.rows import Rows, hold_if_fits
from floracle.data.rows.source_files import (
    check_exists,
    explain_read_errors,
    open_source,
    source_file,
)
from floracle.run.errors import InputError

MAX_HEADER_BYTES = 10_000  # numpy's own limit


def read_npy(path: Path, budget: int = 0) -> Rows:
    """The array of an .npy file."""
    check_exists(path)
    with explain_read_errors(path, "an .npy array"), open_source(path) as stream:
        return read_array(path, stream, 0, stream.seek(0, os.SEEK_END), budget=budget)


def read_array(path: Path, stream: BufferedReader, start: int, end: int, *, budget: int) -> Rows:
    """The array that lies in .npy format between two bytes of a file.

    One in column order is read at once where the budget allows it, for its rows are scattered.
    """
    stream.seek(start)
    shape, columns, dtype = read_npy_header(stream, str(path))
    check_numeric(dtype, str(path))
    begin, needed = stream.tell(), prod(shape) * dtype.itemsize
    if end - begin != needed:  # longer is as wrong as shorter: another writer may be at it
        raise InputError(f"{path} is cut short or damaged: {end - begin} bytes for {needed}")
    columns = columns and len(shape) > 1
    rows = rows_at(source_file(path, stream), begin, shape, dtype, columns=columns)
    return hold_if_fits(rows, budget) if columns else rows


def load_all(rows: Rows) -> Tensor:
    """All rows in memory; a tensor without axes is no rows, but may have been stored."""
    return rows if isinstance(rows, Tensor) else rows[:]


def parse_npy(content: bytes, name: str) -> np.ndarray:
    """The array of the bytes of a whole .npy file."""
    stream = BytesIO(content)
    with explain_read_errors(name, "an .npy array"):
        shape, columns, dtype = read_npy_header(stream, name)
        check_numeric(dtype, name)
        size, needed = len(content) - stream.tell(), prod(shape) * dtype.itemsize
        if size != needed:
            raise InputError(f"{name} is cut short or damaged: {size} bytes for {needed}")
        array = np.frombuffer(content, dtype, offset=stream.tell())
        return array.reshape(shape, order="F" if columns else "C")


def read_npy_header(stream: IO[bytes], name: str) -> tuple[tuple[int, ...], bool, np.dtype]:
    """Shape, whether columns come first (Fortran's order), and type of the array that follows."""
    version = npy.read_magic(stream)
    if version not in ((1, 0), (2, 0)):
        raise InputError(f"{name} is written in version {version} of .npy; 1 and 2 are read")
    size = stream.read(2 if version == (1, 0) else 4)
    length = int.from_bytes(size, "little")
    if length > MAX_HEADER_BYTES:  # before as many bytes are read
        raise InputError(f"{name} is damaged: its header claims {length} bytes")
    read = npy.read_array_header_1_0 if version == (1, 0) else npy.read_array_header_2_0
    shape, columns, dtype = read(BytesIO(size + stream.read(length)))
    if min(shape, default=0) < 0:
        raise InputError(f"{name} is damaged: its shape is {shape}")
    return shape, columns, dtype


def check_numeric(dtype: np.dtype, name: str) -> None:
    """Refuse what is no plain array of real numbers."""
    if dtype.hasobject:
        raise InputError(f"{name} holds pickled objects, which are never loaded; save numbers")
    if dtype.kind not in "biuf" or dtype.subdtype is not None:
        raise InputError(f"{name} holds {dtype}; points and labels are real numbers")
