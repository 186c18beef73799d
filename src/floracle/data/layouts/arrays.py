"""Arrays as points: tensors and numpy arrays in memory, and .npy files.

Files are read when rows of them are asked for, never whole unless they fit. Bytes [N, H, W] and
[N, H, W, 1 or 3] are pictures; all else keeps its shape. Pickled objects are refused unread.
"""

from __future__ import annotations

import os
from dataclasses import replace
from io import BufferedReader, BytesIO
from math import prod
from pathlib import Path
from typing import IO

import numpy as np
from numpy.lib import format as npy
from torch import Tensor, strided

from floracle.data.rows.file_rows import rows_at
from floracle.data.rows.joined import held
from floracle.data.rows.source_files import open_source, source_file
from floracle.run.errors import InputError

from .content import LayoutContent, Rows, as_points, check_there, readable, shared
from .labels import beside, checked

MOST_HEADER = 10_000


def open_memory(array: Tensor | np.ndarray) -> LayoutContent:
    """Points that are in memory already; they are not copied, so leave them as they are."""
    if isinstance(array, np.ma.MaskedArray):
        raise InputError("a masked array has holes; fill them first, for points need every value")
    if isinstance(array, np.ndarray):
        numeric(array.dtype, "the array")
        return LayoutContent(as_points(shared(array), "the array"), "array")
    if array.layout is not strided or array.is_meta or array.is_quantized:
        raise InputError("the tensor is sparse, quantized or without values; make it dense first")
    return LayoutContent(as_points(array.detach().cpu().resolve_neg(), "the tensor"), "tensor")


def open_npy(path: Path, budget: int, *, labelled: bool = False) -> LayoutContent:
    """An .npy file; labels from its sibling NAME_labels.npy or labels.npy.

    Where it is `labelled` otherwise no sibling is looked at.
    """
    content = LayoutContent(as_points(read_npy(path, budget), str(path)), "npy")
    labels = None if labelled else beside(path)
    return replace(content, labels=read_labels(labels, len(content.rows))) if labels else content


def read_labels(path: Path, count: int) -> Tensor:
    """Labels from an .npy file."""
    rows = read_npy(path)
    return checked(rows if isinstance(rows, Tensor) else rows[:], count, f"labels in {path}")


def read_npy(path: Path, budget: int = 0) -> Rows:
    """The array of an .npy file, read when it is indexed."""
    check_there(path)
    with readable(path, "an .npy array"), open_source(path) as stream:
        return read_array(path, stream, 0, stream.seek(0, os.SEEK_END), budget=budget)


def read_array(path: Path, stream: BufferedReader, start: int, end: int, *, budget: int) -> Rows:
    """The array written in .npy format between two places of a file.

    One in column order is read once where the budget allows it, for its rows are scattered.
    """
    stream.seek(start)
    shape, fortran, dtype = header(stream, str(path))
    numeric(dtype, str(path))
    begin, needed = stream.tell(), prod(shape) * dtype.itemsize
    if end - begin != needed:
        raise InputError(
            f"{path} is cut short or damaged: {end - begin} bytes where {needed} belong"
        )
    columns = fortran and len(shape) > 1
    rows = rows_at(source_file(path, stream), begin, shape, dtype, columns=columns)
    return held(rows, budget) if columns else rows


def parsed(content: bytes, name: str) -> np.ndarray:
    """The array of the bytes of a whole .npy file."""
    stream = BytesIO(content)
    with readable(name, "an .npy array"):
        shape, fortran, dtype = header(stream, name)
        numeric(dtype, name)
        held, needed = len(content) - stream.tell(), prod(shape) * dtype.itemsize
        if held != needed:
            raise InputError(f"{name} is cut short or damaged: {held} bytes for {needed}")
        array = np.frombuffer(content, dtype, offset=stream.tell())
        return array.reshape(shape, order="F" if fortran else "C")


def header(stream: IO[bytes], name: str) -> tuple[tuple[int, ...], bool, np.dtype]:
    """Shape, column order and type of the array that begins here."""
    version = npy.read_magic(stream)
    if version not in ((1, 0), (2, 0)):
        raise InputError(f"{name} is written in version {version} of .npy; 1 and 2 are read")
    size = stream.read(2 if version == (1, 0) else 4)
    length = int.from_bytes(size, "little")
    if length > MOST_HEADER:
        raise InputError(f"{name} is damaged: its header claims {length} bytes")
    read = npy.read_array_header_1_0 if version == (1, 0) else npy.read_array_header_2_0
    shape, fortran, dtype = read(BytesIO(size + stream.read(length)))
    if min(shape, default=0) < 0:
        raise InputError(f"{name} is damaged: its shape is {shape}")
    return shape, fortran, dtype


def numeric(dtype: np.dtype, name: str) -> None:
    """Refuse what is no plain array of real numbers."""
    if dtype.hasobject:
        raise InputError(
            f"{name} holds pickled Python objects, which are never loaded; save numbers"
        )
    if dtype.kind not in "biuf" or dtype.subdtype is not None:
        raise InputError(f"{name} holds {dtype}; points and labels are real numbers")
