"""Arrays as points: tensors and numpy arrays in memory, .npy, .npz and .safetensors files.

Files are read when rows of them are asked for, never whole unless they fit. Bytes [N, H, W] and
[N, H, W, 1 or 3] are pictures; all else keeps its shape. Where a file has several arrays, points
go by `images`, `latents`, `data`, `x` or `arr_0`, or are the only array of several axes; labels
go by `labels`, `label`, `y` or `arr_1`. What is compressed is unpacked into memory, never beyond
its declared shape or the budget.
"""

from __future__ import annotations

import struct
import zipfile
import zlib
from collections.abc import Callable, Mapping
from gzip import GzipFile
from math import prod
from pathlib import Path
from typing import IO

import numpy as np
from torch import Tensor, strided

from floracle.data.rows.rows import Rows, array_rows
from floracle.data.rows.source_files import explain_read_errors, open_source
from floracle.data.rows.tensorfile import read_header
from floracle.run.errors import InputError

from .containers import check_members, open_zip
from .content import LayoutContent, ReadOptions, as_points
from .labels import check_labels, find_label_file, read_labels
from .npy import check_numeric, load_all, read_array, read_npy, read_npy_header

POINT_KEYS = ("images", "latents", "data", "x", "arr_0")
LABEL_KEYS = ("labels", "label", "y", "arr_1")
CHUNK_BYTES = 2**20

Shapes = Mapping[str, tuple[int, ...]]


def open_memory(array: Tensor | np.ndarray) -> LayoutContent:
    """Points that are in memory already; they are not copied, so leave them as they are."""
    if isinstance(array, np.ma.MaskedArray):
        raise InputError("a masked array has holes; fill them first, for points need every value")
    if isinstance(array, np.ndarray):
        check_numeric(array.dtype, "the array")
        return LayoutContent(as_points(array_rows(array), "the array"), "array")
    if array.layout is not strided or array.is_meta or array.is_quantized:
        raise InputError("the tensor is sparse, quantized or without values; make it dense first")
    return LayoutContent(as_points(array.detach().cpu().resolve_neg(), "the tensor"), "tensor")


def open_npy(path: Path, options: ReadOptions) -> LayoutContent:
    """An .npy file; labels from NAME_labels.npy or labels.npy unless others are given."""
    rows = as_points(read_npy(path, options.budget), str(path))
    file = None if options.labelled else find_label_file(path)
    return LayoutContent(rows, "npy", read_labels(file, len(rows)) if file else None)


def open_npz(path: Path, options: ReadOptions) -> LayoutContent:
    """An .npz archive."""
    budget = options.budget
    with explain_read_errors(path, "an .npz archive"), open_zip(path, budget) as archive:
        names = check_members(archive, path, budget)
        members = {name[:-4]: name for name in names if name.endswith(".npy")}
        shapes = {key: _read_shape(archive, name, path) for key, name in members.items()}

        def load(key: str) -> Rows:
            return _open_member(archive, archive.getinfo(members[key]), path, budget)

        return _choose_arrays(path, "npz", shapes, load)


def open_safetensors(path: Path, options: ReadOptions) -> LayoutContent:
    """A .safetensors file."""
    file = read_header(path)
    with explain_read_errors(path, "a .safetensors file"):
        shapes = {key: entry.shape for key, entry in file.entries.items()}
        return _choose_arrays(path, "safetensors", shapes, lambda key: file.rows(key)[0])


def _choose_arrays(
    path: Path, layout: str, shapes: Shapes, load: Callable[[str], Rows]
) -> LayoutContent:
    """Points and labels by the names and shapes of the arrays."""
    points = _points_key(path, shapes)
    rows = as_points(load(points), str(path))
    key = _labels_key(path, {key: shapes[key] for key in shapes if key != points})
    labels = check_labels(load_all(load(key)), len(rows), f"{key!r} in {path}") if key else None
    return LayoutContent(rows, layout, labels)


def _points_key(path: Path, shapes: Shapes) -> str:
    keys = [key for key, shape in shapes.items() if len(shape) >= 2]
    keys = [key for key in POINT_KEYS if key in keys] or keys
    if len(keys) != 1:
        contents = ", ".join(f"{key} {list(shape)}" for key, shape in shapes.items()) or "nothing"
        raise InputError(
            f"{path} should hold one array of points under {', '.join(POINT_KEYS)}; it holds"
            f" {contents}"
        )
    return keys[0]


def _labels_key(path: Path, shapes: Shapes) -> str | None:
    # arr_1 is also numpy's name for a second array of points
    keys = [
        key for key in LABEL_KEYS if key in shapes and (key != "arr_1" or len(shapes[key]) == 1)
    ]
    if len(keys) > 1:
        raise InputError(f"{path} holds labels more than once: {', '.join(keys)}; keep one")
    return keys[0] if keys else None


def _read_shape(archive: zipfile.ZipFile, name: str, path: Path) -> tuple[int, ...]:
    with archive.open(name) as stream:
        return read_npy_header(stream, f"{path}: {name}")[0]


def _open_member(archive: zipfile.ZipFile, info: zipfile.ZipInfo, path: Path, budget: int) -> Rows:
    """One array of the archive: read by rows where it is stored plain, else unpacked."""
    if info.compress_type != zipfile.ZIP_STORED:
        with archive.open(info) as stream:
            name = f"{path}: {info.filename}"
            shape, columns, dtype = read_npy_header(stream, name)
            check_numeric(dtype, name)
            advice = "write it with np.savez, to be read by rows"
            values = unpack(stream, dtype, shape, name=name, budget=budget, advice=advice)
            return array_rows(values.reshape(shape, order="F" if columns else "C"))
    with open_source(path) as stream:
        # The local header: 26 bytes, the lengths of name and extra field, and these two. The
        # extra field may differ from that in the list of members, so it is read here.
        stream.seek(info.header_offset + 26)
        name_bytes, extra_bytes = struct.unpack("<HH", stream.read(4))
        start = info.header_offset + 30 + name_bytes + extra_bytes
        _compare_checksum(stream, info, path, start)
        return read_array(path, stream, start, start + info.file_size, budget=budget)


def unpack(
    stream: IO[bytes] | GzipFile,
    dtype: np.dtype,
    shape: tuple[int, ...],
    *,
    name: str,
    budget: int,
    advice: str,
) -> np.ndarray:
    """The array of a compressed stream, which must hold exactly its bytes and fit the budget."""
    size = prod(shape) * dtype.itemsize
    if size > budget:
        raise InputError(
            f"{name} unpacks to {size >> 20} MiB, more than the memory of {budget >> 20} MiB;"
            f" {advice}, or raise the memory"
        )
    content, done = np.empty(size, np.uint8), 0
    # once all bytes are there, one more is asked for: a stream that goes on is damaged
    while chunk := stream.read(min(CHUNK_BYTES, size - done) or 1):
        if done + len(chunk) > size:
            raise InputError(f"{name} is damaged: it goes on after the {size} bytes declared")
        content[done : done + len(chunk)] = np.frombuffer(chunk, np.uint8)
        done += len(chunk)
    if done < size:
        raise InputError(f"{name} is cut short: {done} bytes where {size} are declared")
    return content.view(dtype)


def _compare_checksum(stream: IO[bytes], info: zipfile.ZipInfo, path: Path, start: int) -> None:
    stream.seek(start)
    missing, checksum = info.file_size, 0
    while missing and (chunk := stream.read(min(CHUNK_BYTES, missing))):
        checksum, missing = zlib.crc32(chunk, checksum), missing - len(chunk)
    if missing or checksum != info.CRC:
        raise InputError(f"{path}: {info.filename} is damaged: its checksum differs")
