"""The store: points of any layout as the mathematics asks for them (`core.source.Source`).

Rows are numbered as the file or array numbers them; points are float32. Opening reads everything
once, in blocks: what is not finite is named, duplicates are found, and the fingerprint is taken.
Within half of the memory budget the points are held as float32 and blocks are views of them;
beyond it they are converted block by block from the mapped file.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from math import isfinite, prod
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from floracle.core.source import Atoms, Block
from floracle.run.budget import memory_budget
from floracle.run.errors import Mistake
from floracle.run.files import digest

from .arrays import read_labels
from .atoms import Groups
from .content import Content, Key, Mirrored, Rows, is_picture
from .labels import checked, class_names
from .normalize import Normalizer, standard, stored
from .places import find_content
from .scan import Scan, block_rows, compact, first_equal, scan

FLOAT = 4


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
    picture_range: tuple[float, float] | None
    """Values of points that mean black and white; None where points are not pictures."""
    resident: bool
    """Points lie in memory as float32, so that blocks cost nothing."""
    ignored: int
    """Files of the folder that are no pictures."""
    groups: Groups
    points: Rows
    """All points as float32, read by slice or by row numbers."""

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def duplicates(self) -> int:
        """Rows merged away over the whole set."""
        return self.groups.duplicates

    def atoms(self, label: int = -1) -> Atoms:
        """The distinct rows of a class and their weights; of the whole set for −1."""
        return self.groups.atoms(label)

    def blocks(self, label: int = -1, *, rows: int) -> Iterator[Block]:
        """The atoms of a class in order, at most `rows` at a time; views where they can be."""
        if rows < 1:
            raise Mistake(f"blocks need at least one row, got {rows}")
        parts = zip(*(part.split(rows) for part in self.atoms(label)), strict=True)
        return (
            Block(some, weights, self.points[_slice(some)].reshape(len(some), -1))
            for some, weights in parts
        )

    def take(self, rows: Tensor) -> Tensor:
        """The points float32 [len(rows), *shape] of any rows, in the order asked."""
        rows = rows.cpu()
        low, high = (int(bound) for bound in rows.aminmax()) if rows.numel() else (0, 0)
        if rows.dtype != torch.int64 or rows.ndim != 1 or low < 0 or high >= len(self):
            raise Mistake(f"rows must be int64 [n] in 0 ... {len(self) - 1}")
        return self.points[rows]


@dataclass(frozen=True, eq=False)
class Normalized:
    """Stored rows as points, converted whenever they are read."""

    rows: Rows
    normalizer: Normalizer
    dtype: torch.dtype = torch.float32

    @property
    def shape(self) -> tuple[int, ...]:
        """[N, *shape]."""
        return tuple(self.rows.shape)

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, key: Key, /) -> Tensor:
        return self.normalizer.apply(self.rows[key])


def open_store(
    where: str | Path | Tensor | np.ndarray,
    *,
    labels: Any = None,
    flips: bool | None = None,
    normalize: str | Normalizer = "stored",
    memory: int | str | None = None,
) -> Store:
    """Open data of any layout people already have: arrays, array files, picture folders, idx.

    `normalize`: "stored" maps bytes 0..255 to [−1, 1] and leaves all else as it is, "standard"
    gives every channel mean 0 and deviation 1, and a `Normalizer` is applied as it stands.
    `labels` (a list, array or .npy path) go before those found with the data. `flips` adds the
    mirror of every picture as a point of its own. "digits" and "gaussian:POINTSxDIMS" are names.
    """
    budget = memory_budget(memory) // 2
    name, content = find_content(where, budget)
    rows, classed = content.rows, _labels(labels, content)
    found = scan(rows, name, spread=normalize == "standard")
    normalizer = _normalizer(normalize, rows, found)
    digests, shown = found.digests, _picture_range(rows, normalizer, found, name)
    if flips:
        rows, digests = _with_mirrors(rows, digests, name)
        classed = classed.repeat(2)
    points, resident = _points(rows, normalizer, budget, mapped=content.mapped)
    return Store(
        name=name,
        layout=content.layout,
        shape=tuple(rows.shape[1:]),
        labels=classed,
        classes=class_names(classed, content.classes),
        normalizer=normalizer,
        flips=bool(flips),
        fingerprint=_fingerprint(rows, classed, digests, normalizer, flips=bool(flips)),
        size=prod(rows.shape) * rows.dtype.itemsize,
        picture_range=shown,
        resident=resident,
        ignored=content.ignored,
        groups=Groups(first_equal(rows, digests), classed),
        points=points,
    )


def _labels(given: Any, content: Content) -> Tensor:
    count = len(content.rows)
    if given is None:
        return content.labels if content.labels is not None else torch.full((count,), -1)
    if isinstance(given, (str, Path)):
        return read_labels(Path(given).expanduser(), count)
    return checked(given, count, "the labels given")


def _normalizer(asked: str | Normalizer, rows: Rows, found: Scan) -> Normalizer:
    if isinstance(asked, Normalizer):
        asked.of(rows.shape[1])
        return asked
    if asked == "standard" and found.spread is not None:
        return standard(found.spread)
    if asked != "stored":
        raise Mistake(f"normalize is 'stored', 'standard' or a Normalizer, not {asked!r}")
    return stored(rows.dtype)


def _picture_range(
    rows: Rows, normalizer: Normalizer, found: Scan, name: str
) -> tuple[float, float] | None:
    """Black and white as points have them, the widest over the channels."""
    mean, std = normalizer.of(rows.shape[1])

    def widest(low: float, high: float) -> tuple[float, float]:
        return float(((low - mean) / std).min()), float(((high - mean) / std).max())

    if not all(map(isfinite, widest(found.low, found.high))):
        raise Mistake(f"{name}: the normalization makes points infinite; its std is too small")
    if not is_picture(tuple(rows.shape[1:])):
        return None
    if rows.dtype == torch.uint8:
        return widest(0.0, 255.0)
    usual = ((0.0, 1.0), (-1.0, 1.0), (0.0, 255.0))
    fitting = (pair for pair in usual if pair[0] <= found.low and found.high <= pair[1])
    return widest(*next(fitting, (found.low, found.high)))


def _with_mirrors(rows: Rows, digests: np.ndarray, name: str) -> tuple[Rows, np.ndarray]:
    shape = tuple(rows.shape[1:])
    if not is_picture(shape):
        raise Mistake(f"{name}: points {list(shape)} are no pictures [1 or 3, H, W] to mirror")
    mirrored = Mirrored(rows)
    again = scan(mirrored, name, start=len(rows))
    return mirrored, np.concatenate([digests, again.digests])


def _points(rows: Rows, normalizer: Normalizer, budget: int, *, mapped: bool) -> tuple[Rows, bool]:
    """Points that are ready where they are so already or fit, and whether they are in memory."""
    fits = FLOAT * prod(rows.shape) <= budget
    plain = isinstance(rows, Tensor) and rows.dtype == torch.float32 and rows.is_contiguous()
    if plain and not normalizer.changes:
        return rows, fits or not mapped
    lazy = Normalized(rows, normalizer)
    return (_held(lazy), True) if fits else (lazy, False)


def _held(points: Normalized) -> Tensor:
    held = torch.empty(points.shape)
    step = block_rows(points)
    for start in range(0, len(points), step):
        held[start : start + step] = points[start : min(start + step, len(points))]
    return held


def _fingerprint(
    rows: Rows, labels: Tensor, digests: np.ndarray, normalizer: Normalizer, *, flips: bool
) -> str:
    mean, std = (value.contiguous().numpy() for value in normalizer.of(rows.shape[1]))
    words = f"{list(rows.shape)} {compact(rows[:1]).dtype} flips={flips}"
    parts = (digests, labels.numpy(), mean, std)
    return digest(words, *(part.tobytes() for part in parts))


def _slice(rows: Tensor) -> Key:
    """The same increasing rows as a slice where they are consecutive."""
    first, last = int(rows[0]), int(rows[-1])
    return slice(first, last + 1) if last - first == len(rows) - 1 else rows
