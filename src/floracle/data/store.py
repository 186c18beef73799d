"""The store: points of any layout as the mathematics asks for them (`core.source.Source`).

Rows are numbered as the file or array numbers them; points are float32. Opening reads everything
once, in blocks: what is not finite is named, duplicates are found, and the fingerprint is taken.
Within half of the memory budget the points are held as float32 and blocks are views of them;
beyond it they are read and converted block by block. A packed store knows all this beforehand and
is opened without a look at its points. Whoever has read a store asks it to `check_unchanged`
before anything of that is kept: results carry the fingerprint from opening.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from floracle.core.coarse_view import CoarseView
from floracle.core.point_set import NO_LABEL, Block, Prepared, WeightedRows
from floracle.run.budget import memory_budget
from floracle.run.errors import InputError
from floracle.run.files import digest

from .atoms import ClassIndex
from .data_warnings import Channels, channels, data_warnings
from .integrity_check import check_rows, compact, first_equal, row_digests
from .layouts.arrays import read_labels
from .layouts.content import Key, LayoutContent, Rows
from .layouts.labels import checked, class_names
from .layouts.moments import read_moments
from .layouts.read_options import ReadOptions
from .layouts.registry import open_layout
from .layouts.weights import checked_weights
from .normalize import Normalizer, choose_normalizer, standard
from .packed.class_statistics import ClassStatistics
from .packed.coarse import StoredCoarseView
from .packed.reader import PackedStore
from .points import fits, holding, picture_range, points_of, stds_of, with_mirrors
from .rows.source_files import SourceFiles, changed_row, noted_files


@dataclass(frozen=True, eq=False)
class Store:
    """Points, labels and what was learnt when they were opened; use `open_store` to make one."""

    name: str
    layout: str
    shape: tuple[int, ...]
    labels: Tensor
    classes: tuple[str, ...]
    """Names by label: of class folders, else the numbers themselves."""
    normalizer: Normalizer
    flips: bool
    """Whether the left-right mirrors are points too: rows N ... 2N − 1."""
    fingerprint: str
    size: int
    """Bytes of all points as stored (before conversion to float32)."""
    dtype: torch.dtype
    """Of the values as stored."""
    picture_range: tuple[float, float] | None
    """Values of points that mean black and white; None where points are not pictures."""
    resident: bool
    """Points lie in memory as float32, so that blocks cost nothing."""
    ignored: int
    """Files of the folder that are no pictures."""
    groups: ClassIndex
    stored: Rows
    """All points as they are stored, before the normalizer."""
    points: Rows
    """All points as float32, read by slice or by row numbers."""
    channels: Channels
    """Mean, deviation and bounds of every channel of the points."""
    stds: Rows | None = None
    """Where points are means of Gaussians, the deviations in the same units; read like points."""
    weights: Tensor | None = None
    """How much each row counts, float64 [N] of any scale; None where all count the same."""
    remarks: tuple[str, ...] = ()
    """What was noticed that may be a wrong reading, and what to say if it is."""
    known: ClassStatistics | None = None
    """What a packed store knows of its classes."""
    view: StoredCoarseView | None = None
    """The coarse view that a packed store keeps of its rows."""
    original: Tensor | None = None
    """Of a packed store, the row that each row had in the data that was packed, int64 [N]."""
    files: SourceFiles = field(default_factory=SourceFiles)
    """All that was opened, labels and weights as well; none where data is in memory."""
    digests: np.ndarray | None = None
    """Of every row as it was read at opening, bytes [N, 16]; None where no row was, or the rows
    are means alone of what was read."""

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def duplicates(self) -> int:
        """Rows merged away over the whole set."""
        return self.groups.duplicates

    def atoms(self, label: int = -1) -> WeightedRows:
        """The distinct rows of a class and their weights; of the whole set for −1."""
        return self.groups.atoms(label)

    def blocks(self, label: int = -1, *, rows: int) -> Iterator[Block]:
        """The atoms of a class in order, at most `rows` at a time; views where they can be."""
        if rows < 1:
            raise InputError(f"blocks need at least one row, got {rows}")
        atoms = self.atoms(label)
        parts = zip(*(part.split(rows) for part in atoms), strict=True)
        return (
            Block(some, weights, self.points[_slice(some)].reshape(len(some), -1))
            for some, weights in parts
        )

    def prepared(self, label: int = NO_LABEL) -> Prepared | None:
        """What is known of a class without reading it; None where nothing is."""
        return None if self.known is None else self.known.prepared(label)

    @property
    def kept(self) -> int:
        """How many leading coordinates of every row are kept; 0 where none are."""
        return 0 if self.view is None else self.view.band_edges[0]

    def coarse(self, label: int = NO_LABEL) -> CoarseView | None:
        """The coarse view of a class that is kept; None where none is."""
        return None if self.view is None else self.view.select(self.atoms(label).rows)

    def take(self, rows: Tensor) -> Tensor:
        """The points float32 [len(rows), *shape] of any rows, in the order asked."""
        return self.points[self._checked(rows)]

    def check_unchanged(self) -> None:
        """Raise the mistake `Changed` if a file of the data is not as it was at opening."""
        self.files.check_unchanged()

    def take_stored(self, rows: Tensor) -> tuple[Tensor, np.ndarray]:
        """Any rows as they are stored, no wider than float32, and their digests [n, 16].

        A row that is not what was read at opening raises `Changed`.
        """
        block = compact(self.stored[self._checked(rows)]).contiguous()
        digests = row_digests(block)
        if self.digests is not None:
            unlike = (digests != self.digests[rows.numpy()]).any(1)
            if unlike.any():
                raise changed_row(self.name, int(rows[int(unlike.argmax())]))
        return block, digests

    def spreads(self, rows: Tensor) -> Tensor:
        """The deviations float32 [len(rows), *shape] of any rows, where they are Gaussians."""
        if self.stds is None:
            raise InputError(f"{self.name} was not opened with moments='gaussian': no deviations")
        return self.stds[self._checked(rows)]

    def _checked(self, rows: Tensor) -> Tensor:
        rows = rows.cpu()
        low, high = (int(bound) for bound in rows.aminmax()) if rows.numel() else (0, 0)
        if rows.dtype != torch.int64 or rows.ndim != 1 or low < 0 or high >= len(self):
            raise InputError(f"rows must be int64 [n] in 0 ... {len(self) - 1}")
        return rows


def open_store(
    where: str | Path | Tensor | np.ndarray,
    *,
    labels: Any = None,
    flips: bool | None = None,
    normalize: str | float | Normalizer = "stored",
    layout: str | None = None,
    moments: str | None = None,
    weights: Any = None,
    memory: int | str | None = None,
) -> Store:
    """Open data as people have it: arrays, files, pictures, latents of other projects.

    `normalize`: "stored" feeds points as their own project does (bytes 0..255 become [−1, 1]),
    "raw" leaves all as it is, "standard" gives every channel mean 0 and deviation 1; a number
    multiplies, and a `Normalizer` is applied as it stands. `labels` (a list, array or .npy path)
    go before those found with the data; `weights` say how much each row counts. `flips` adds the
    mirror of every picture, or the stored mirror of every latent, as a point of its own. `layout`
    and `moments` ("mean", "sample", "gaussian") say what files cannot tell; see `asked.py`.
    "digits" and "gaussian:POINTSxDIMS" are names.
    """
    with noted_files() as looks:
        store = _opened(
            where,
            labels=labels,
            flips=flips,
            normalize=normalize,
            layout=layout,
            moments=moments,
            weights=weights,
            memory=memory,
        )
    store = replace(store, files=SourceFiles.of(looks))
    store.check_unchanged()
    return store


def _opened(
    where: str | Path | Tensor | np.ndarray,
    *,
    labels: Any,
    flips: bool | None,
    normalize: str | float | Normalizer,
    layout: str | None,
    moments: str | None,
    weights: Any,
    memory: int | str | None,
) -> Store:
    """See `open_store`."""
    budget, how = memory_budget(memory) // 2, normalize if isinstance(normalize, str) else ""
    stored = how == "stored"
    asked = ReadOptions(budget, layout, moments, flips, stored=stored, labelled=labels is not None)
    name, content = open_layout(where, asked)
    given = any(one is not None for one in (labels, weights, moments)) or how != "stored"
    packed = content.packed
    if packed is not None and not given and flips in (None, packed.manifest.flips):
        return ready(packed, name, budget)
    read, classed = read_moments(content, asked, name), _labels(labels, content)
    weighed = checked_weights(weights, len(classed)) if weights is not None else content.weights
    flips = content.flips if flips is None else flips
    at_once = read.whole is read.points and (content.flips or not flips)
    normalizer = choose_normalizer(normalize, read.points.dtype, own=content.normalizer)
    early = holding(read.points, normalizer, budget) if at_once else None
    found = check_rows(read.whole, name, keep=None if early is None else early.keep)
    digests, spread = found.digests, found.spread.of(slice(read.points.shape[1]))
    normalizer = normalizer or standard(spread)
    shown = picture_range(read.points, normalizer, spread, name)
    if flips and not content.flips:
        read, digests = with_mirrors(read, digests, name)
    if flips:
        classed, weighed = classed.repeat(2), None if weighed is None else weighed.repeat(2)
    rows, summary = read.points, channels(spread, normalizer)
    points, resident = (early.points, True) if early else points_of(rows, normalizer, budget)
    groups = ClassIndex(first_equal(read.whole, digests), classed, weighed)
    remarks = data_warnings(content, read, spread, summary, duplicates=groups.duplicates, how=how)
    return Store(
        name=name,
        layout=content.layout,
        shape=tuple(rows.shape[1:]),
        labels=classed,
        classes=class_names(classed, content.classes),
        normalizer=normalizer,
        flips=bool(flips),
        fingerprint=fingerprint_of(
            read.whole, digests, groups, normalizer, channels=rows.shape[1], flips=bool(flips)
        ),
        size=prod(rows.shape) * rows.dtype.itemsize,
        dtype=rows.dtype,
        picture_range=shown,
        resident=resident,
        ignored=content.ignored,
        groups=groups,
        stored=rows,
        points=points,
        channels=summary,
        stds=None if read.stds is None else stds_of(read.stds, normalizer, budget),
        weights=weighed,
        remarks=remarks,
        digests=digests if read.stds is None else None,
    )


def ready(packed: PackedStore, name: str, budget: int) -> Store:
    """A packed store as it is; nothing of its points is read."""
    manifest, rows = packed.manifest, packed.stored
    held = fits(rows, budget)
    return Store(
        name=name,
        layout="packed",
        shape=manifest.shape,
        labels=packed.class_index.labels,
        classes=manifest.classes,
        normalizer=packed.normalizer,
        flips=manifest.flips,
        fingerprint=manifest.fingerprint,
        size=prod(rows.shape) * rows.dtype.itemsize,
        dtype=rows.dtype,
        picture_range=manifest.picture_range,
        resident=held,
        ignored=0,
        groups=packed.class_index,
        stored=rows,
        points=rows.as_points(packed.normalizer, hold=held),
        channels=manifest.channels,
        weights=packed.class_index.weights,
        remarks=packed.remarks,
        known=packed.class_statistics,
        view=packed.coarse_view,
        original=packed.all_original_rows,
    )


def _labels(given: Any, content: LayoutContent) -> Tensor:
    count = len(content.rows) // (2 if content.flips else 1)
    if given is None:
        return content.labels if content.labels is not None else torch.full((count,), -1)
    if isinstance(given, (str, Path)):
        return read_labels(Path(given).expanduser(), count)
    return checked(given, count, "the labels given")


def fingerprint_of(
    whole: Rows,
    digests: np.ndarray,
    groups: ClassIndex,
    normalizer: Normalizer,
    *,
    channels: int,
    flips: bool,
) -> str:
    """A hash of points, labels, weights and normalization; `whole` are all rows as stored."""
    words = f"{list(whole.shape)} {compact(whole[:1]).dtype} flips={flips}"
    parts = [digests.tobytes(), groups.labels.numpy().tobytes(), *normalizer.parts(channels)]
    if groups.weights is not None:
        parts.append((groups.weights / groups.weights.max()).numpy().tobytes())
    return digest(words, *parts)


def _slice(rows: Tensor) -> Key:
    """The same increasing rows as a slice where they are consecutive."""
    first, last = int(rows[0]), int(rows[-1])
    return slice(first, last + 1) if last - first == len(rows) - 1 else rows
