"""Arrays as points: tensors and numpy arrays in memory, and .npy files.

Files are mapped, never read whole. Bytes [N, H, W] and [N, H, W, 1 or 3] are pictures; all else
keeps its shape. Pickled objects are refused unread.
"""

from __future__ import annotations

import os
from dataclasses import replace
from io import BytesIO
from math import prod
from pathlib import Path
from typing import IO

import numpy as np
from numpy.lib import format as npy
from torch import Tensor, strided

from floracle.run.errors import Mistake

from .content import Content, Foreign, Rows, as_points, check_file, readable, shared
from .labels import beside, checked

MOST_HEADER = 10_000


def open_memory(array: Tensor | np.ndarray) -> Content:
    """Points that are in memory already; they are not copied, so leave them as they are."""
    if isinstance(array, np.ma.MaskedArray):
        raise Mistake("a masked array has holes; fill them first, for points need every value")
    if isinstance(array, np.ndarray):
        numeric(array.dtype, "the array")
        return Content(as_points(shared(array), "the array"), "array")
    if array.layout is not strided or array.is_meta or array.is_quantized:
        raise Mistake("the tensor is sparse, quantized or without values; make it dense first")
    return Content(as_points(array.detach().cpu().resolve_neg(), "the tensor"), "tensor")


def open_npy(path: Path, *, labelled: bool = False) -> Content:
    """An .npy file, mapped; labels from its sibling NAME_labels.npy or labels.npy.

    Where it is `labelled` otherwise no sibling is looked at.
    """
    content = Content(as_points(mapped_npy(path), str(path)), "npy", mapped=True)
    labels = None if labelled else beside(path)
    return replace(content, labels=read_labels(labels, len(content.rows))) if labels else content


def read_labels(path: Path, count: int) -> Tensor:
    """Labels from an .npy file."""
    rows = mapped_npy(path)
    return checked(rows.array if isinstance(rows, Foreign) else rows, count, f"labels in {path}")


def mapped_npy(path: Path) -> Rows:
    """The array of an .npy file, mapped."""
    check_file(path)
    with readable(path, "an .npy array"), path.open("rb") as stream:
        return mapped(path, stream, stream.seek(0, os.SEEK_END), start=0)


def mapped(path: Path, stream: IO[bytes], end: int, *, start: int) -> Rows:
    """The array written in .npy format between two places of a file, mapped."""
    stream.seek(start)
    shape, fortran, dtype = header(stream, str(path))
    numeric(dtype, str(path))
    held, needed = end - stream.tell(), prod(shape) * dtype.itemsize
    if held != needed:
        raise Mistake(f"{path} is cut short or damaged: {held} bytes where {needed} should be")
    if needed == 0:
        return shared(np.empty(shape, dtype))
    order = "F" if fortran else "C"
    array = np.memmap(path, dtype, "c", offset=stream.tell(), shape=shape, order=order)
    return shared(np.asarray(array))


def parsed(content: bytes, name: str) -> np.ndarray:
    """The array of the bytes of a whole .npy file."""
    stream = BytesIO(content)
    with readable(name, "an .npy array"):
        shape, fortran, dtype = header(stream, name)
        numeric(dtype, name)
        held, needed = len(content) - stream.tell(), prod(shape) * dtype.itemsize
        if held != needed:
            raise Mistake(f"{name} is cut short or damaged: {held} bytes for {needed}")
        array = np.frombuffer(content, dtype, offset=stream.tell())
        return array.reshape(shape, order="F" if fortran else "C")


def header(stream: IO[bytes], name: str) -> tuple[tuple[int, ...], bool, np.dtype]:
    """Shape, column order and type of the array that begins here."""
    version = npy.read_magic(stream)
    if version not in ((1, 0), (2, 0)):
        raise Mistake(f"{name} is written in version {version} of .npy; 1 and 2 are read")
    size = stream.read(2 if version == (1, 0) else 4)
    length = int.from_bytes(size, "little")
    if length > MOST_HEADER:
        raise Mistake(f"{name} is damaged: its header claims {length} bytes")
    read = npy.read_array_header_1_0 if version == (1, 0) else npy.read_array_header_2_0
    shape, fortran, dtype = read(BytesIO(size + stream.read(length)))
    if min(shape, default=0) < 0:
        raise Mistake(f"{name} is damaged: its shape is {shape}")
    return shape, fortran, dtype


def numeric(dtype: np.dtype, name: str) -> None:
    """Refuse what is no plain array of real numbers."""
    if dtype.hasobject:
        raise Mistake(f"{name} holds pickled Python objects, which are never loaded; save numbers")
    if dtype.kind not in "biuf" or dtype.subdtype is not None:
        raise Mistake(f"{name} holds {dtype}; points and labels are real numbers")
