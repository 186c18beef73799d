"""The files of a packed store beside its shards: atoms, class statistics, the coarse view.

Classes are processed a few at a time, and each part is kept until the store is finished. The
passes read the packed store itself, in blocks that depend on the size of a point alone.
"""

from __future__ import annotations

from collections.abc import Iterator
from math import prod
from pathlib import Path

import torch

from floracle.core.coarse_view import NUMBERS, frame_of
from floracle.core.point_set import NO_LABEL, prepared
from floracle.data.destination import UNFINISHED
from floracle.data.packed.class_statistics import (
    ARRAYS,
    compute_statistics,
    labels_with_statistics,
    statistics_arrays,
)
from floracle.data.packed.files import StoreFile, TensorStream, one_block, write_tensors
from floracle.data.packed.manifest import CLASSES, COARSE, ROWS, PackedManifest
from floracle.data.rows.tensorfile import TensorFile, read_header
from floracle.data.store import Store
from floracle.run.progress import track

from .plan import ShardPlan

ROWS_PER_PART = 2**14
"""Rows of the classes whose statistics are computed between two writes."""
MAX_COORDINATES = 128
"""Coordinates of the coarse view; a quarter of the dimensions where that is less."""
MIN_ROWS_FOR_COARSE, MIN_DIMENSIONS_FOR_COARSE, MAX_DIMENSIONS_FOR_COARSE = 512, 64, 2**20
"""Below the first two a full scan is as fast; above the third the frame takes too long."""
MAX_FLOAT16_COORDINATE = 3e4  # float16 holds 65504; the margin covers rounding
BLOCK_NUMBERS = 2**22
"""Numbers in a float64 block of points: 32 MiB."""


def write_rows(folder: Path, plan: ShardPlan, first_equal_rows: torch.Tensor) -> StoreFile:
    """Write the original row numbers, duplicates, weights and the normalizer."""
    normalizer, weights = plan.store.normalizer, plan.store.weights
    arrays = {"original": plan.order}
    if (first_equal_rows != torch.arange(len(first_equal_rows))).any():
        arrays["first"] = first_equal_rows
    if weights is not None:
        arrays["weights"] = weights[plan.order]
    arrays |= {"mean": normalizer.mean.reshape(-1), "std": normalizer.std.reshape(-1)}
    if normalizer.factors:
        scale, bias = (value.reshape(-1) for value in normalizer.factors)
        arrays |= {"scale": scale, "bias": bias}
    streams = {name: one_block(array) for name, array in arrays.items()}
    return write_tensors(folder, ROWS, streams, {})


def write_class_statistics(
    folder: Path, store: Store, manifest: PackedManifest, *, spectra: bool, quiet: bool
) -> StoreFile:
    """Write the statistics of every class and of the whole set, part by part."""
    parts = list(_class_parts(manifest))
    names = [f"{UNFINISHED}/classes-{number:05d}.tensors" for number in range(len(parts))]
    progress = track(parts, "classes", len(parts), quiet=quiet)
    for name, labels in zip(names, progress, strict=True):
        if not (folder / name).is_file():
            statistics = [
                compute_statistics(store, label, with_spectrum=spectra) for label in labels
            ]
            arrays = statistics_arrays(labels, statistics)
            streams = {array: one_block(values) for array, values in arrays.items()}
            write_tensors(folder, name, streams, {})
    files = [read_header(folder / name) for name in names]
    return write_tensors(folder, CLASSES, {name: _join(files, name) for name in ARRAYS}, {})


def write_coarse(folder: Path, store: Store, *, quiet: bool) -> StoreFile | None:
    """Write the coarse view along the leading directions of the set; None if it is of no use."""
    statistics, dims = prepared(store), prod(store.shape)
    fits = MIN_DIMENSIONS_FOR_COARSE <= dims <= MAX_DIMENSIONS_FOR_COARSE
    if len(store) < MIN_ROWS_FOR_COARSE or not fits or statistics is None:
        return None
    # An even number: the float32 array after float16 coordinates then starts at a multiple of 4.
    count = min(MAX_COORDINATES, dims // 4, NUMBERS // dims) // 2 * 2
    # |V (x − c)| is at most twice the largest norm of a point
    half = 2 * statistics.largest < MAX_FLOAT16_COORDINATE
    frame = frame_of(store, width=count)
    remainders = torch.empty(len(store), len(frame.edges))

    def coordinates() -> Iterator[torch.Tensor]:
        rows = max(1, BLOCK_NUMBERS // dims)
        starts = range(0, len(store), rows)
        for start in track(starts, "coarse view", len(starts), quiet=quiet):
            view = frame.of_block(store.points[start : start + rows].flatten(1), half=half)
            remainders[start : start + rows] = view.remainders
            yield view.coordinates

    dtype, shape = torch.float16 if half else torch.float32, (len(store), frame.edges[0])
    arrays = {
        "edges": one_block(torch.tensor(frame.edges)),
        "centre": one_block(frame.centre.float()),
        "directions": one_block(frame.directions),
        "coordinates": TensorStream(dtype, shape, coordinates()),
        "remainders": one_block(remainders),  # filled while coordinates are written
    }
    return write_tensors(folder, COARSE, arrays, {})


def _class_parts(manifest: PackedManifest) -> Iterator[list[int]]:
    """Classes whose statistics are written together; the whole set is last and alone."""
    sizes = {span.label: span.end - span.first for span in manifest.spans}
    part, rows = [], 0
    for label in labels_with_statistics(manifest):
        if part and (label == NO_LABEL or rows + sizes[label] > ROWS_PER_PART):
            yield part
            part, rows = [], 0
        part.append(label)
        rows += sizes.get(label, 0)
    yield part


def _join(files: list[TensorFile], name: str) -> TensorStream:
    """One array of all parts, one after the other."""
    arrays = [file.rows(name)[0] for file in files]
    shape = (sum(map(len, arrays)), *arrays[0].shape[1:])
    return TensorStream(arrays[0].dtype, shape, (array[:] for array in arrays))
