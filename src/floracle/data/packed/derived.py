"""Everything of a packed store that is not its shards: atoms, classes, a coarse view, statistics.

Classes are taken a few at a time, each part kept until the store is finished. The passes read the
packed store itself, in blocks that depend on the size of a point alone.
"""

from __future__ import annotations

import io
from collections.abc import Iterator
from math import prod
from pathlib import Path

import torch

from floracle.core.coarse_view import NUMBERS, frame_of
from floracle.core.point_set import NO_LABEL, prepared
from floracle.data.rows.tensorfile import TensorFile, read_header
from floracle.data.store import Store
from floracle.run.files import write_bytes
from floracle.run.progress import track

from .class_statistics import NAMES, arrays_of, known_labels, prepare
from .files import StoreFile, TensorStream, one_block, sha256_of, write_tensors
from .manifest import CLASSES, COARSE, ROWS, STATS, PackedManifest
from .plan import ShardPlan
from .reader import UNFINISHED

TOGETHER = 2**14
"""Rows of the classes that are taken together."""
VIEWED = 128
"""Coordinates of the coarse view, at most."""
FEWEST, NARROW, WIDE = 512, 64, 2**20
"""Rows and dimensions below which there is none, as a scan is as quick; and above which."""
HALF = 3e4
"""Norms up to which coordinates are kept in float16."""
BLOCK = 2**22
"""Numbers of a float64 block of points that are looked at together."""


def write_rows(folder: Path, plan: ShardPlan, first: torch.Tensor) -> StoreFile:
    """Numbers that the rows had, duplicates, weights, and the normalizer."""
    normalizer, weights = plan.store.normalizer, plan.store.weights
    arrays = {"original": plan.order}
    if (first != torch.arange(len(first))).any():
        arrays["first"] = first
    if weights is not None:
        arrays["weights"] = weights[plan.order]
    arrays |= {"mean": normalizer.mean.reshape(-1), "std": normalizer.std.reshape(-1)}
    if normalizer.factors:
        scale, bias = (value.reshape(-1) for value in normalizer.factors)
        arrays |= {"scale": scale, "bias": bias}
    return write_tensors(
        folder, ROWS, {name: one_block(each) for name, each in arrays.items()}, {}
    )


def write_stats(folder: Path, plan: ShardPlan) -> StoreFile | None:
    """Mean and std as LightningDiT keeps them; a factor and a bias are no such thing."""
    if plan.store.normalizer.factors:
        return None
    mean, std = plan.store.normalizer.per_channel(plan.store.shape[0])
    stats = {
        name: value.reshape(1, -1, 1, 1).clone() for name, value in (("mean", mean), ("std", std))
    }
    content = io.BytesIO()
    torch.save(stats, content)
    write_bytes(folder / STATS, content.getvalue())
    return StoreFile(STATS, len(content.getvalue()), sha256_of(folder / STATS))


def write_classes(
    folder: Path, store: Store, manifest: PackedManifest, *, spectra: bool, quiet: bool
) -> StoreFile:
    """What is known of every class, and of the whole set."""
    parts = list(_parts(manifest))
    for number, labels in enumerate(track(parts, "classes", len(parts), quiet=quiet)):
        if not (folder / _record(number)).is_file():
            found = [prepare(store, label, with_spectrum=spectra) for label in labels]
            tensors = {name: one_block(each) for name, each in arrays_of(labels, found).items()}
            write_tensors(folder, _record(number), tensors, {})
    files = [read_header(folder / _record(number)) for number in range(len(parts))]
    return write_tensors(folder, CLASSES, {name: _joined(files, name) for name in NAMES}, {})


def write_coarse(folder: Path, store: Store, *, quiet: bool) -> StoreFile | None:
    """Look at every row along the leading directions of the set; None where that is no use."""
    known, dims = prepared(store), prod(store.shape)
    if len(store) < FEWEST or not NARROW <= dims <= WIDE or known is None:
        return None
    kept = min(VIEWED, dims // 4, NUMBERS // dims) // 2 * 2
    frame, half = frame_of(store, kept=kept), 2 * known.largest < HALF
    first, remainders = frame.edges[0], torch.empty(len(store), len(frame.edges))

    def coordinates() -> Iterator[torch.Tensor]:
        rows = max(1, BLOCK // dims)
        starts = range(0, len(store), rows)
        for start in track(starts, "coarse view", len(starts), quiet=quiet):
            found = frame.of_block(store.points[start : start + rows].flatten(1), half=half)
            remainders[start : start + rows] = found.remainders
            yield found.coordinates

    stream = TensorStream(
        torch.float16 if half else torch.float32, (len(store), first), coordinates()
    )
    arrays = {
        "edges": one_block(torch.tensor(frame.edges)),
        "centre": one_block(frame.centre.float()),
        "directions": one_block(frame.directions),
        "coordinates": stream,
        "remainders": one_block(remainders),  # filled while coordinates are written
    }
    return write_tensors(folder, COARSE, arrays, {})


def _parts(manifest: PackedManifest) -> Iterator[list[int]]:
    """Classes taken together, the whole set last and by itself."""
    sizes = {span.label: span.end - span.first for span in manifest.spans}
    part, rows = [], 0
    for label in known_labels(manifest):
        if part and (label == NO_LABEL or rows + sizes[label] > TOGETHER):
            yield part
            part, rows = [], 0
        part.append(label)
        rows += sizes.get(label, 0)
    yield part


def _joined(files: list[TensorFile], name: str) -> TensorStream:
    """One array of all parts after each other."""
    rows = [file.rows(name)[0] for file in files]
    shape = (sum(len(each) for each in rows), *rows[0].shape[1:])
    return TensorStream(rows[0].dtype, shape, (each[:] for each in rows))


def _record(number: int) -> str:
    return f"{UNFINISHED}/classes-{number:05d}.tensors"


def spectra_bytes(shape: tuple[int, ...], rows: int) -> int:
    """What the largest spectrum needs at its peak: the smaller side squared, a few times."""
    return 4 * 8 * min(prod(shape), rows) ** 2
