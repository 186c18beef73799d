"""The store: training points of any layout as the mathematics needs them (`core.point_set`).

Rows are numbered as the file or array numbers them; points are float32. Opening reads everything
once, in blocks: rows that are not finite are named, duplicates are found, and the fingerprint is
taken. Within half of the memory budget the points stay in memory as float32 and blocks are views
of them; beyond it they are read and converted block by block. A packed store knows all this
beforehand and is opened without a look at its points. Whoever has read a store calls its
`check_unchanged` before saving anything: results carry the fingerprint from opening.
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
from .channel_statistics import Channels, point_channels
from .data_warnings import data_warnings, packed_warnings
from .integrity_check import block_rows, find_first_equal, row_digests
from .layout_registry import open_layout
from .layouts.content import LayoutContent, ReadOptions
from .layouts.labels import check_labels, check_weights, class_names, read_labels
from .layouts.moments import read_moments
from .normalize import Normalizer, choose_normalizer
from .packed.reader import PackedStore, packed_content
from .points import fits, read_points, stds_of
from .precision import check_merged
from .rows.rows import Key, Rows, compact
from .rows.source_files import SourceFiles, changed_row, record_opened_files
from .unlikely_readings import looks_numbered_otherwise, unlikely_readings


@dataclass(frozen=True, eq=False)
class Store:
    """Training points and all that was learnt at opening; use `open_store` to make one."""

    name: str
    layout: str
    """The name of the file format or project."""
    classes: tuple[str, ...]
    """Names by label: of class folders, else the numbers themselves."""
    normalizer: Normalizer
    flips: bool
    """Whether the left-right mirrors are points too: rows N ... 2N − 1."""
    fingerprint: str
    picture_range: tuple[float, float] | None
    """Values of points that mean black and white; None where points are not pictures."""
    class_index: ClassIndex
    """Labels, weights and duplicates."""
    stored: Rows
    """All points as they are stored, before the normalizer."""
    points: Rows
    """All points as float32, read by slice or by row numbers."""
    resident: bool
    """Points lie in memory as float32, so that blocks cost nothing."""
    channels: Channels
    """Mean, standard deviation and bounds of every channel of the points."""
    ignored: int = 0
    """Files of the folder that are no pictures."""
    stds: Rows | None = None
    """Where points are means of Gaussians, the standard deviations; read like points."""
    remarks: tuple[str, ...] = ()
    """What was noticed that may be a wrong reading, and which option to use if it is."""
    packed: PackedStore | None = None
    """The packed store that this is, with what it knows of its classes."""
    files: SourceFiles = field(default_factory=SourceFiles)
    """All that was opened, labels and weights as well; none where data is in memory."""
    digests: np.ndarray | None = None
    """Of every row as it was read at opening, bytes [N, 16]; None for a packed store, and where
    points are the means of what was read."""
    autoencoder: str = ""
    """Whose latents the points are: its name and the hash of its weights; "" where unknown."""
    joined_with: str | None = None
    """Of held-out data, the fingerprint of the training set whose labels it has."""

    def __len__(self) -> int:
        return len(self.class_index.labels)

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of one point."""
        return tuple(self.stored.shape[1:])

    @property
    def dtype(self) -> torch.dtype:
        """Of the values as stored."""
        return self.stored.dtype

    @property
    def size(self) -> int:
        """Bytes of all points as stored, before conversion to float32."""
        return prod(self.stored.shape) * self.stored.dtype.itemsize

    @property
    def labels(self) -> Tensor:
        """The class of every row, int64 [N]; −1 where there is none."""
        return self.class_index.labels

    @property
    def weights(self) -> Tensor | None:
        """How much each row counts, float64 [N] of any scale; None where all count the same."""
        return self.class_index.weights

    @property
    def duplicates(self) -> int:
        """Rows merged away over the whole set."""
        return self.class_index.duplicates

    @property
    def excluded(self) -> list[int]:
        """Of held-out data, the rows that were left out when it was joined with a training set."""
        included = self.class_index.included
        return [] if included is None else (~included).nonzero().flatten().tolist()

    @property
    def original(self) -> Tensor | None:
        """Of a packed store, the row that each row had in the data that was packed, int64 [N]."""
        return None if self.packed is None else self.packed.all_original_rows

    def atoms(self, label: int = NO_LABEL) -> WeightedRows:
        """The distinct rows of a class and their weights; of the whole set for −1."""
        return self.class_index.atoms(label)

    def blocks(self, label: int = NO_LABEL, *, rows: int) -> Iterator[Block]:
        """The atoms of a class in order, at most `rows` at a time; views where they can be."""
        if rows < 1:
            raise InputError(f"blocks need at least one row, got {rows}")
        atoms = self.atoms(label)
        pieces = zip(atoms.rows.split(rows), atoms.weights.split(rows), strict=True)
        return (
            Block(numbers, weights, self.points[_as_key(numbers)].reshape(len(numbers), -1))
            for numbers, weights in pieces
        )

    def prepared(self, label: int = NO_LABEL) -> Prepared | None:
        """What is known of a class without reading it; None where nothing is."""
        statistics = None if self.packed is None else self.packed.class_statistics
        return None if statistics is None else statistics.prepared(label)

    @property
    def kept(self) -> int:
        """How many leading coordinates of every row a packed store keeps; 0 where none."""
        view = None if self.packed is None else self.packed.coarse_view
        return 0 if view is None else view.band_edges[0]

    def coarse(self, label: int = NO_LABEL) -> CoarseView | None:
        """The coarse view of a class that a packed store keeps; None where there is none."""
        view = None if self.packed is None else self.packed.coarse_view
        return None if view is None else view.select(self.atoms(label).rows)

    def take(self, rows: Tensor) -> Tensor:
        """The points float32 [len(rows), *shape] of any rows, in the order asked."""
        return self.points[self._check_numbers(rows)]

    def take_stored(self, rows: Tensor) -> tuple[Tensor, np.ndarray]:
        """Any rows as they are stored, no wider than float32, and their digests [n, 16].

        A row that is not what was read at opening raises `Changed`.
        """
        block = compact(self.stored[self._check_numbers(rows)]).contiguous()
        # compared with opening, so that pack and encode copy what was checked
        digests = row_digests(block)
        if self.digests is not None:
            unlike = (digests != self.digests[rows.numpy()]).any(1)
            if unlike.any():
                raise changed_row(self.name, int(rows[int(unlike.argmax())]))
        return block, digests

    def take_stds(self, rows: Tensor) -> Tensor:
        """The standard deviations float32 [len(rows), *shape] of any rows that are Gaussians."""
        if self.stds is None:
            raise InputError(f"{self.name} was not opened with moments='gaussian': no deviations")
        return self.stds[self._check_numbers(rows)]

    def check_unchanged(self) -> None:
        """Raise the error `Changed` if a file of the data is not as it was at opening."""
        self.files.check_unchanged()

    def _check_numbers(self, rows: Tensor) -> Tensor:
        rows = rows.cpu()
        low, high = (int(bound) for bound in rows.aminmax()) if rows.numel() else (0, 0)
        if rows.dtype != torch.int64 or rows.ndim != 1 or low < 0 or high >= len(self):
            raise InputError(f"rows must be int64 [n] in 0 ... {len(self) - 1}")
        return rows


def open_store(
    data: str | Path | Tensor | np.ndarray,
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

    Parameters
    ----------
    data
        A path, a tensor or array [N, ...], "digits", or "gaussian:POINTSxDIMS".
    labels
        A list, array or .npy path [N]; goes before labels that lie with the data.
    flips
        Whether the mirror of every picture, or the stored mirror of every latent, is a point too.
    normalize
        "stored" feeds points as their own project does (bytes 0..255 become [−1, 1]), "raw" leaves
        all as it is, "standard" gives every channel mean 0 and standard deviation 1; a number
        multiplies, and a `Normalizer` is applied as it stands.
    layout, moments
        What files cannot say: whose layout it is, and whether stored Gaussians become their
        "mean", one "sample", or stay "gaussian"; see `layout_registry` and `layouts.moments`.
    weights
        A list, array or .npy path [N]: how much each row counts.
    memory
        Memory budget, bytes or like "4G" (default: half of the free memory).

    Raises
    ------
    InputError
        If the data cannot be read, or options are missing or do not fit.
    Changed
        If a file changes meanwhile.
    """
    budget = memory_budget(memory) // 2  # the other half is for those who work with the points
    stored = isinstance(normalize, str) and normalize == "stored"
    options = ReadOptions(budget, layout, moments, flips, stored, labelled=labels is not None)
    with record_opened_files() as states:
        name, content = open_layout(data, options)
        asks_more = any(value is not None for value in (labels, weights, moments)) or not stored
        if (
            isinstance(content, PackedStore)
            and not asks_more
            and flips in (None, content.manifest.flips)
        ):
            store = store_of_packed(content, name, budget)
        else:
            if isinstance(content, PackedStore):  # read again as any other data
                content = packed_content(content, options)
            store = _open_rows(name, content, options, labels, weights, normalize)
    store = replace(store, files=SourceFiles.of(states))
    store.check_unchanged()
    return store


def store_of_packed(packed: PackedStore, name: str, budget: int) -> Store:
    """A packed store as it is; nothing of its points is read."""
    manifest, rows = packed.manifest, packed.stored
    resident, remarks = fits(rows, budget), packed.remarks
    if not manifest.remarks and manifest.settings.get("normalize") in ("stored", "raw"):
        remarks += packed_warnings(
            manifest.channels, manifest.shape, manifest.dtype, packed.normalizer
        )
    return Store(
        name=name,
        layout="packed",
        classes=manifest.classes,
        normalizer=packed.normalizer,
        flips=manifest.flips,
        fingerprint=manifest.fingerprint,
        picture_range=manifest.picture_range,
        class_index=packed.class_index,
        stored=rows,
        points=rows.as_points(packed.normalizer, hold=resident),
        resident=resident,
        channels=manifest.channels,
        # stores of 0.1 have no remark on names; others keep it with those of the data
        remarks=(*dict.fromkeys((*remarks, *looks_numbered_otherwise(manifest.classes))),),
        packed=packed,
    )


def _open_rows(
    name: str,
    content: LayoutContent,
    options: ReadOptions,
    labels: Any,
    weights: Any,
    normalize: str | float | Normalizer,
) -> Store:
    """The steps of opening, from the rows of a layout to a store."""
    # 1. Stored Gaussians become points, and rows get their labels and weights.
    moments = read_moments(content, options, name)
    labelled = labels is not None
    labels = _choose_labels(labels, content)
    weights = content.weights if weights is None else check_weights(weights, len(labels))
    # 2. The one pass over all rows. Mirrors that are not stored are added after it.
    flips = content.flips if options.flips is None else bool(options.flips)
    reading = read_points(
        moments,
        name,
        choose_normalizer(normalize, moments.points.dtype, own=content.normalizer),
        budget=options.budget,
        add_mirrors=flips and not content.flips,
    )
    moments, normalizer = reading.moments, reading.normalizer
    if flips:
        labels, weights = labels.repeat(2), None if weights is None else weights.repeat(2)
    # 3. Duplicates, and with them the fingerprint; what looks like a wrong reading.
    identity = moments.identity
    first = find_first_equal(identity, reading.digests)
    merged = check_merged(identity, first, name, block_rows(identity))
    class_index = ClassIndex(first, labels, weights)
    channels = point_channels(reading.statistics, normalizer)
    word = normalize if isinstance(normalize, str) else ""
    # Labels that were given are not those of the layout, so its names are not theirs.
    names = class_names(labels, () if labelled else content.classes)
    remarks = data_warnings(content, reading, channels, class_index.duplicates, normalize=word)
    remarks += unlikely_readings(reading.points, names)
    return Store(
        name=name,
        layout=content.layout,
        classes=names,
        normalizer=normalizer,
        flips=flips,
        fingerprint=compute_fingerprint(
            identity,
            reading.digests,
            class_index,
            normalizer,
            channels=moments.points.shape[1],
            flips=flips,
        ),
        picture_range=reading.picture_range,
        class_index=class_index,
        stored=moments.points,
        points=reading.points,
        resident=reading.resident,
        channels=channels,
        ignored=content.ignored,
        stds=None if moments.stds is None else stds_of(moments.stds, normalizer, options.budget),
        remarks=(*merged, *remarks),
        digests=reading.digests if moments.stds is None else None,
        autoencoder=content.autoencoder,
    )


def _choose_labels(labels: Any, content: LayoutContent) -> Tensor:
    """Labels [N] without mirrors: those given, else those of the layout, else −1."""
    count = len(content.rows) // (2 if content.flips else 1)
    if labels is None:
        return content.labels if content.labels is not None else torch.full((count,), NO_LABEL)
    if isinstance(labels, (str, Path)):
        return read_labels(Path(labels).expanduser(), count)
    return check_labels(labels, count, "the labels given")


def compute_fingerprint(
    rows: Rows,
    digests: np.ndarray,
    class_index: ClassIndex,
    normalizer: Normalizer,
    *,
    channels: int,
    flips: bool,
) -> str:
    """A hash of points, labels, weights and normalization; `rows` is all that tells them apart."""
    header = f"{list(rows.shape)} {compact(rows[:1]).dtype} flips={flips}"
    labels, weights = class_index.labels, class_index.weights
    parts = [digests.tobytes(), labels.numpy().tobytes(), *normalizer.fingerprint_parts(channels)]
    if weights is not None:
        parts.append((weights / weights.max()).numpy().tobytes())  # the scale of weights is free
    return digest(header, *parts)


def _as_key(rows: Tensor) -> Key:
    """The same increasing rows as a slice where they are consecutive, so that blocks are views."""
    first, last = int(rows[0]), int(rows[-1])
    return slice(first, last + 1) if last - first == len(rows) - 1 else rows
