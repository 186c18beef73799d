"""Files of several named arrays: .npz and .safetensors.

Points go by `images`, `latents`, `data`, `x` or `arr_0`, or are the only array of several axes;
labels go by `labels`, `label`, `y` or `arr_1`. What is stored plain is read row by row; what is
compressed is unpacked into memory, never beyond its declared shape or the budget.
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
from torch import Tensor

from floracle.data.rows.source_files import open_source
from floracle.data.rows.tensorfile import read_header
from floracle.run.errors import InputError

from .arrays import header, numeric, read_array
from .containers import checked_members, open_archive
from .content import Foreign, LayoutContent, Rows, as_points, readable, shared
from .labels import checked

POINTS = ("images", "latents", "data", "x", "arr_0")
LABELS = ("labels", "label", "y", "arr_1")
CHUNK = 2**20

Shapes = Mapping[str, tuple[int, ...]]


def open_npz(path: Path, budget: int) -> LayoutContent:
    """An .npz archive."""
    with readable(path, "an .npz archive"), open_archive(path, budget) as archive:
        names = checked_members(archive, path, budget)
        members = {name[:-4]: name for name in names if name.endswith(".npy")}
        shapes = {key: _shape(archive, name, path) for key, name in members.items()}

        def load(key: str) -> Rows:
            return _member(archive, archive.getinfo(members[key]), path, budget)

        return _chosen(path, "npz", shapes, load)


def open_safetensors(path: Path) -> LayoutContent:
    """A .safetensors file."""
    file = read_header(path)
    with readable(path, "a .safetensors file"):
        shapes = {key: entry.shape for key, entry in file.entries.items()}
        return _chosen(path, "safetensors", shapes, lambda key: file.rows(key)[0])


def _chosen(path: Path, layout: str, shapes: Shapes, load: Callable[[str], Rows]) -> LayoutContent:
    points = _points_key(path, shapes)
    rows = as_points(load(points), str(path))
    key = _labels_key(path, {key: shapes[key] for key in shapes if key != points})
    labels = checked(_plain(load(key)), len(rows), f"{key!r} in {path}") if key else None
    return LayoutContent(rows, layout, labels)


def _points_key(path: Path, shapes: Shapes) -> str:
    wide = [key for key, shape in shapes.items() if len(shape) >= 2]
    usual = [key for key in POINTS if key in wide]
    fitting = usual or wide
    if len(fitting) != 1:
        listed = ", ".join(f"{key} {list(shape)}" for key, shape in shapes.items()) or "nothing"
        names = ", ".join(POINTS)
        raise InputError(
            f"{path} should hold one array of points under {names}; it holds {listed}"
        )
    return fitting[0]


def _labels_key(path: Path, shapes: Shapes) -> str | None:
    found = [key for key in LABELS if key in shapes]
    found = [key for key in found if key != "arr_1" or len(shapes[key]) == 1]
    if len(found) > 1:
        raise InputError(
            f"{path} holds labels more than once: {', '.join(found)}; keep one of them"
        )
    return found[0] if found else None


def _plain(rows: Rows) -> np.ndarray | Tensor:
    if isinstance(rows, Foreign):
        return rows.array
    return rows if isinstance(rows, Tensor) else rows[:]


def _shape(archive: zipfile.ZipFile, name: str, path: Path) -> tuple[int, ...]:
    with archive.open(name) as stream:
        return header(stream, f"{path}: {name}")[0]


def _member(archive: zipfile.ZipFile, info: zipfile.ZipInfo, path: Path, budget: int) -> Rows:
    """One array of the archive."""
    if info.compress_type != zipfile.ZIP_STORED:
        with archive.open(info) as stream:
            return _unpacked(stream, info, path, budget)
    with open_source(path) as stream:
        stream.seek(info.header_offset + 26)
        name, extra = struct.unpack("<HH", stream.read(4))
        start = info.header_offset + 30 + name + extra
        _check_sum(stream, info, path, start)
        return read_array(path, stream, start, start + info.file_size, budget=budget)


def _unpacked(stream: IO[bytes], info: zipfile.ZipInfo, path: Path, budget: int) -> Rows:
    shape, fortran, dtype = header(stream, f"{path}: {info.filename}")
    numeric(dtype, f"{path}: {info.filename}")
    needed = prod(shape) * dtype.itemsize
    if needed > budget:
        raise InputError(
            f"{path}: {info.filename} unpacks to {needed >> 20} MiB, more than the memory of"
            f" {budget >> 20} MiB; write it with np.savez, to be read by rows, or raise the memory"
        )
    content = np.empty(needed, np.uint8)
    fill(stream, content, f"{path}: {info.filename}")
    order = "F" if fortran else "C"
    return shared(content.view(dtype).reshape(shape, order=order))


def fill(stream: IO[bytes] | GzipFile, content: np.ndarray, name: str) -> None:
    """Read exactly as many bytes as there is room for; fewer or more are a mistake."""
    place = 0
    while piece := stream.read(min(CHUNK, len(content) - place) or 1):
        if place + len(piece) > len(content):
            raise InputError(
                f"{name} is damaged: it goes on after the {len(content)} bytes declared"
            )
        content[place : place + len(piece)] = np.frombuffer(piece, np.uint8)
        place += len(piece)
    if place < len(content):
        raise InputError(f"{name} is cut short: {place} bytes where {len(content)} are declared")


def _check_sum(stream: IO[bytes], info: zipfile.ZipInfo, path: Path, start: int) -> None:
    stream.seek(start)
    left, total = info.file_size, 0
    while left and (piece := stream.read(min(CHUNK, left))):
        total, left = zlib.crc32(piece, total), left - len(piece)
    if left or total != info.CRC:
        raise InputError(f"{path}: {info.filename} is damaged: its checksum differs")
