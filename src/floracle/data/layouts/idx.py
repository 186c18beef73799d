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
from floracle.data.rows.source_files import open_source, source_file
from floracle.run.errors import InputError

from .archives import fill
from .content import LayoutContent, Rows, as_points, readable, shared
from .labels import checked

IMAGES = re.compile(r".*images[-.]idx3-ubyte(\.gz)?")
BYTES = 0x08

Stream = IO[bytes] | gzip.GzipFile


def is_idx(path: Path) -> bool:
    """Whether the name is that of an idx file of images."""
    return IMAGES.fullmatch(path.name) is not None


def open_idx(path: Path, budget: int) -> LayoutContent:
    """Pictures [1, H, W] and the labels found beside them."""
    images = read_idx(path, 3, budget)
    rows, beside = as_points(images, str(path)), _labels_beside(path)
    labels = None
    if beside:
        labels = checked(read_idx(beside, 1, budget)[:], len(rows), f"labels in {beside}")
    return LayoutContent(rows, "idx", labels)


def training_images(folder: Path) -> Path | None:
    """The idx images of a folder, those for training where there are several."""
    files = [file for file in sorted(folder.iterdir()) if is_idx(file)]
    train = [file for file in files if "train" in file.name] or files
    if len({file.name.removesuffix(".gz") for file in train}) > 1:
        names = ", ".join(file.name for file in train)
        raise InputError(f"{folder} holds several sets of idx images; name one of them: {names}")
    return train[0] if train else None


def read_idx(path: Path, axes: int, budget: int) -> Rows:
    """The bytes of an idx file of so many axes."""
    with readable(path, "an idx file"), open_source(path) as file:
        if path.suffix == ".gz":
            with gzip.open(file) as stream:
                return _unpacked(stream, path, axes, budget)
        shape = _sizes(file, path, axes)
        source, start = source_file(path, file), 4 + 4 * axes
        if source.look.size != start + prod(shape):
            raise InputError(
                f"{path} is cut short or damaged: {source.look.size} bytes for sizes {shape}"
            )
        if not prod(shape):
            raise InputError(f"{path} is empty: its sizes are {shape}")
        return rows_at(source, start, shape, np.dtype(np.uint8))


def _unpacked(stream: Stream, path: Path, axes: int, budget: int) -> Rows:
    shape = _sizes(stream, path, axes)
    if prod(shape) > budget:
        raise InputError(
            f"{path} unpacks to {prod(shape) >> 20} MiB, more than the memory of"
            f" {budget >> 20} MiB; unpack it with gunzip, or raise the memory"
        )
    content = np.empty(prod(shape), np.uint8)
    fill(stream, content, str(path))
    return shared(content.reshape(shape))


def _sizes(stream: Stream, path: Path, axes: int) -> tuple[int, ...]:
    start = stream.read(4 + 4 * axes)
    if len(start) < 4 + 4 * axes:
        raise InputError(f"{path} is cut short: no idx header of {axes} axes")
    if start[:4] != bytes([0, 0, BYTES, axes]):
        raise InputError(
            f"{path} is no idx file of bytes with {axes} axes: it begins {start[:4]!r}"
        )
    return struct.unpack(f">{axes}I", start[4:])


def label_files(path: Path) -> tuple[Path, ...]:
    """Where the labels of an idx file of images may lie, the likeliest first."""
    name = path.name.removesuffix(".gz")
    head, images, tail = name.rpartition("images")
    own = head + images.replace("images", "labels") + tail.replace("idx3", "idx1")
    return path.with_name(own), path.with_name(own + ".gz")


def _labels_beside(path: Path) -> Path | None:
    return next((file for file in label_files(path) if os.path.lexists(file)), None)
