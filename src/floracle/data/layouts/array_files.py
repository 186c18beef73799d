"""Arrays as points: tensors and numpy arrays in memory, .npy, .npz and .safetensors files.

Files are read when rows of them are asked for, never whole unless they fit. Bytes [N, H, W] and
[N, H, W, 1 or 3] are pictures; all else keeps its shape. Where a file has several arrays,
`array_roles` tells points from labels. What is compressed is unpacked into memory, never beyond
its declared shape or the budget.
"""

from __future__ import annotations

import os
import struct
import zipfile
import zlib
from collections.abc import Callable
from gzip import GzipFile
from math import prod
from pathlib import Path
from typing import IO

import numpy as np
from torch import Tensor, strided

from floracle.data.rows.rows import Rows, array_rows, join_rows
from floracle.data.rows.source_files import explain_read_errors, open_source
from floracle.data.rows.tensorfile import read_header
from floracle.run.errors import InputError

from .array_roles import (
    LABEL_NAMES,
    SCALE_NAMES,
    WEIGHT_NAMES,
    ArrayHeader,
    ArrayRoles,
    check_not_one_sample,
    find_roles,
)
from .containers import check_members, check_plausible, open_zip
from .content import LayoutContent, ReadOptions, as_points, list_some
from .labels import (
    check_labels,
    check_weights,
    find_label_file,
    read_labels,
)
from .lightningdit import STATS
from .mar import is_mar_sample, open_mar
from .npy import check_numeric, load_all, read_array, read_npy, read_npy_header

CHUNK_BYTES = 2**20


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
    rows = read_npy(path, options.budget)
    if rows.dtype.is_floating_point:
        check_not_one_sample(path, tuple(rows.shape))
    rows = as_points(rows, str(path))
    file, remark = (None, "") if options.labelled else find_label_file(path)
    labels = read_labels(file, len(rows)) if file else None
    remarks = (
        *filter(None, [remark]),
        *_describe_beside(path, file, options, labelled=bool(remark)),
    )
    return LayoutContent(rows, "npy", labels, remarks=remarks)


def open_npz(path: Path, options: ReadOptions) -> LayoutContent:
    """An .npz archive."""
    budget = options.budget
    with explain_read_errors(path, "an .npz archive"), open_zip(path, budget) as archive:
        names = check_members(archive, path, budget)
        members = {name[:-4]: name for name in names if name.endswith(".npy")}
        headers = {key: _read_header(archive, name, path) for key, name in members.items()}
        if is_mar_sample({key: header.shape for key, header in headers.items()}):
            return open_mar(path, options)

        def load(key: str) -> Rows:
            return _open_member(archive, archive.getinfo(members[key]), path, budget)

        return _read_roles(path, "npz", find_roles(path, headers, load, options), load, options)


def open_safetensors(path: Path, options: ReadOptions) -> LayoutContent:
    """A .safetensors file."""
    file = read_header(path)
    with explain_read_errors(path, "a .safetensors file"):
        headers = {
            key: ArrayHeader(entry.shape, "f" if "F" in entry.dtype else "i")
            for key, entry in file.entries.items()
        }

        def load(key: str) -> Rows:
            return file.rows(key)[0]

        roles = find_roles(path, headers, load, options, metadata=file.metadata)
        return _read_roles(path, "safetensors", roles, load, options)


def _read_roles(
    path: Path,
    layout: str,
    roles: ArrayRoles,
    load: Callable[[str], Rows],
    options: ReadOptions,
) -> LayoutContent:
    """Points, labels and weights, each from its array."""

    def read_points(key: str) -> Rows:
        rows = load_all(load(key))[None] if roles.one_sample else load(key)
        return as_points(rows, str(path))

    rows, flips = read_points(roles.points), False
    count, labels, weights = len(rows), None, None
    if roles.labels is not None and not options.labelled:
        labels = load_all(load(roles.labels))
        labels = labels if labels.ndim else labels.reshape(1)
        labels = check_labels(labels, count, f"{roles.labels!r} in {path}")
    if roles.weights is not None:
        weights = check_weights(load_all(load(roles.weights)), count)
    if roles.mirrors is not None and (flips := options.check_flips(path, stored=True)):
        rows = join_rows(rows, read_points(roles.mirrors))
    beside = _describe_beside(path, None, options, labelled=roles.labels is not None)
    return LayoutContent(
        rows, layout, labels, flips=flips, weights=weights, remarks=roles.remarks + beside
    )


def _describe_beside(
    path: Path, label_file: Path | None, options: ReadOptions, *, labelled: bool = False
) -> tuple[str, ...]:
    """Files that may belong to an array by their names, and are not read with it."""
    names = SCALE_NAMES | WEIGHT_NAMES
    if not (labelled or options.labelled or label_file):
        names |= LABEL_NAMES
    endings, own = [STATS, *(f"{name}.npy" for name in sorted(names))], {path, label_file}
    files = [*(f"{path.stem}_{ending}" for ending in endings), *endings]
    files = [file for file in files if path.with_name(file) not in own]
    files = [file for file in files if os.path.lexists(path.with_name(file))]
    if not files:
        return ()
    return (
        f"{list_some(files)} beside {path} is not read with it; labels and weights are given as"
        " files of their own, and a scale with normalize",
    )


def _read_header(archive: zipfile.ZipFile, name: str, path: Path) -> ArrayHeader:
    with archive.open(name) as stream:
        shape, _, dtype = read_npy_header(stream, f"{path}: {name}")
        return ArrayHeader(shape, dtype.kind)


def _open_member(archive: zipfile.ZipFile, info: zipfile.ZipInfo, path: Path, budget: int) -> Rows:
    """One array of the archive: read by rows where it is stored plain, else unpacked."""
    if info.compress_type != zipfile.ZIP_STORED:
        with archive.open(info) as stream:
            name = f"{path}: {info.filename}"
            shape, columns, dtype = read_npy_header(stream, name)
            check_numeric(dtype, name)
            advice = "write it with np.savez, to be read by rows"
            check_plausible(name, prod(shape) * dtype.itemsize, info.compress_size)
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
