"""Stored rows as float32 points: in memory within the budget, else converted as they are read."""

from __future__ import annotations

from dataclasses import dataclass
from math import prod

import numpy as np
import torch
from torch import Tensor

from floracle.run.errors import InputError

from .channel_statistics import ChannelStatistics
from .integrity_check import block_rows
from .layouts.content import is_picture
from .normalize import Normalizer
from .rows.file_rows import FileRows
from .rows.rows import Rows, map_rows

POINT_BYTES = torch.float32.itemsize
PICTURE_RANGES = ((0.0, 1.0), (-1.0, 1.0), (0.0, 255.0))
"""Values for black and white that float pictures usually have, narrowest first."""


@dataclass(frozen=True, eq=False)
class PointBuffer:
    """Memory for all points, filled by the pass that checks the rows, so that it is the only one.

    Only where the rows do not lie in memory, all points fit, and the normalizer is known before
    that pass ("standard" comes out of it).
    """

    points: Tensor
    normalizer: Normalizer

    @classmethod
    def allocate(
        cls, rows: Rows, normalizer: Normalizer | None, budget: int
    ) -> PointBuffer | None:
        """An empty buffer; None where points cannot be kept during the check."""
        if isinstance(rows, Tensor) or normalizer is None or not fits(rows, budget):
            return None
        return cls(torch.empty(rows.shape), normalizer)

    def keep(self, first: int, stored: Tensor) -> None:
        """Keep the rows from `first` on, given as stored, as points."""
        self.points[first : first + len(stored)] = self.normalizer.apply(stored)


def points_of(rows: Rows, normalizer: Normalizer, budget: int) -> tuple[Rows, bool]:
    """Stored rows as points, and whether these are in memory."""
    plain = isinstance(rows, Tensor) and rows.dtype == torch.float32 and rows.is_contiguous()
    if plain and not normalizer.changes:
        return rows, True
    if isinstance(rows, FileRows):
        points = rows.as_points(normalizer, hold=False)
    else:
        points = map_rows(rows, normalizer.apply, dtype=torch.float32)
    return (_load(points), True) if fits(rows, budget) else (points, False)


def stds_of(rows: Rows, normalizer: Normalizer, budget: int) -> Rows:
    """Standard deviations in the units of points; in memory where points and they fit."""
    stds = map_rows(rows, normalizer.apply_to_spread, dtype=torch.float32)
    return _load(stds) if fits(rows, budget // 2) else stds


def fits(rows: Rows, budget: int) -> bool:
    """Whether the budget holds all points as float32."""
    return POINT_BYTES * prod(rows.shape) <= budget


def picture_range(
    rows: Rows, normalizer: Normalizer, statistics: ChannelStatistics, name: str
) -> tuple[float, float] | None:
    """Black and white in the units of points, the widest over the channels; None if no picture.

    `statistics` are those of the stored rows. A normalizer that makes a point infinite is refused.
    """
    channels = rows.shape[1]
    normalizer.per_channel(channels)

    def normalize_bounds(low: float, high: float) -> tuple[float, float]:
        bounds = torch.tensor([low, high])[:, None].expand(2, channels)
        bounds = normalizer.apply(bounds)  # [2, C]
        return float(bounds[0].min()), float(bounds[1].max())

    low, high = float(statistics.low.min()), float(statistics.high.max())
    if not np.isfinite(normalize_bounds(low, high)).all():
        raise InputError(f"{name}: the normalization makes points infinite; its std is too small")
    if not is_picture(tuple(rows.shape[1:])):
        return None
    if rows.dtype == torch.uint8:
        return normalize_bounds(0.0, 255.0)
    enclosing = (bounds for bounds in PICTURE_RANGES if bounds[0] <= low and high <= bounds[1])
    return normalize_bounds(*next(enclosing, (low, high)))


def _load(points: Rows) -> Tensor:
    """All rows in memory, read in the blocks of the integrity check."""
    if isinstance(points, FileRows):
        return points[:]
    loaded, step = torch.empty(points.shape), block_rows(points)
    for start in range(0, len(points), step):
        loaded[start : start + step] = points[start : min(start + step, len(points))]
    return loaded
