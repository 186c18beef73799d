"""The idx files of MNIST and its kin: a magic number, big-endian sizes, then bytes.

`*-images-idx3-ubyte`, plain or .gz (unpacked, never beyond what the header declares);
the labels lie beside it under the same name with `labels` and `idx1`.
"""

from __future__ import annotations

import gzip
import os
import re
import struct
from math import prod
from pathlib import Path
from typing import IO

import numpy as np

from floracle.data.rows.file_rows import rows_at
from floracle.data.rows.rows import Rows, array_rows
from floracle.data.rows.source_files import explain_read_errors, open_source, source_file
from floracle.run.errors import InputError

from .array_files import unpack
from .containers import check_plausible
from .content import LayoutContent, ReadOptions, as_points
from .labels import check_label_shape, check_labels

IMAGES = re.compile(r".*images[-.]idx3-ubyte(\.gz)?")
UNSIGNED_BYTES, BYTES = 0x08, np.dtype(np.uint8)  # the type in the magic number, and numpy's

Stream = IO[bytes] | gzip.GzipFile


def is_idx(path: Path) -> bool:
    """Whether the name is that of an idx file of images, or a folder holds such files."""
    return bool(_image_files(path)) if path.is_dir() else bool(IMAGES.fullmatch(path.name))


def _image_files(folder: Path) -> list[Path]:
    return [file for file in sorted(folder.iterdir()) if IMAGES.fullmatch(file.name)]


def open_idx(path: Path, options: ReadOptions) -> LayoutContent:
    """Pictures [1, H, W] and the labels beside them; of a folder, its images for training."""
    path = training_images(path) if path.is_dir() else path
    rows = as_points(read_idx(path, 3, options.budget), str(path))
    file = next((file for file in idx_label_files(path) if os.path.lexists(file)), None)
    if file is None:
        return LayoutContent(rows, "idx")
    labels = read_idx(file, 1, options.budget)
    check_label_shape(tuple(labels.shape), len(rows), f"labels in {file}")
    return LayoutContent(rows, "idx", check_labels(labels[:], len(rows), f"labels in {file}"))


def training_images(folder: Path) -> Path:
    """The idx images of a folder, those for training where there are several."""
    files = _image_files(folder)
    training = [file for file in files if "train" in file.name] or files
    if len({file.name.removesuffix(".gz") for file in training}) > 1:
        names = ", ".join(file.name for file in training)
        raise InputError(f"{folder} holds several sets of idx images; name one of them: {names}")
    return training[0]


def read_idx(path: Path, axes: int, budget: int) -> Rows:
    """The bytes of an idx file of so many axes."""
    with explain_read_errors(path, "an idx file"), open_source(path) as file:
        if path.suffix == ".gz":
            with gzip.open(file) as stream:
                shape = _read_sizes(stream, path, axes)
                advice = "unpack it with gunzip"
                check_plausible(str(path), prod(shape), source_file(path, file).state.size)
                values = unpack(stream, BYTES, shape, name=str(path), budget=budget, advice=advice)
                return array_rows(values.reshape(shape))
        shape = _read_sizes(file, path, axes)
        source, start = source_file(path, file), 4 + 4 * axes
        size = source.state.size
        if size != start + prod(shape):
            raise InputError(f"{path} is cut short or damaged: {size} bytes for sizes {shape}")
        if not prod(shape):
            raise InputError(f"{path} is empty: its sizes are {shape}")
        return rows_at(source, start, shape, BYTES)


def _read_sizes(stream: Stream, path: Path, axes: int) -> tuple[int, ...]:
    header = stream.read(4 + 4 * axes)
    if len(header) < 4 + 4 * axes:
        raise InputError(f"{path} is cut short: no idx header of {axes} axes")
    if header[:4] != bytes([0, 0, UNSIGNED_BYTES, axes]):
        raise InputError(
            f"{path} is no idx file of bytes of {axes} axes: it begins {header[:4]!r}"
        )
    return struct.unpack(f">{axes}I", header[4:])


def idx_label_files(path: Path) -> tuple[Path, ...]:
    """Where the labels of an idx file of images may lie, the likeliest first."""
    name = path.name.removesuffix(".gz")
    head, images, tail = name.rpartition("images")
    labels = head + images.replace("images", "labels") + tail.replace("idx3", "idx1")
    return path.with_name(labels), path.with_name(labels + ".gz")
