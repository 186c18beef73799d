"""Stored rows as float32 points: in memory within the budget, else converted as they are read."""

from __future__ import annotations

from dataclasses import dataclass
from math import prod

import numpy as np
import torch
from torch import Tensor

from floracle.run.errors import InputError

from .channel_statistics import ChannelStatistics, standard_normalizer
from .integrity_check import block_rows, check_rows
from .layouts.content import is_picture
from .layouts.moments import MomentReading
from .normalize import Normalizer
from .precision import ConversionLoss, measure_loss
from .rows.file_rows import FileRows
from .rows.rows import Rows, map_rows, mirror_rows
from .value_range import check_mirrors, check_standard, enclosing_range

POINT_BYTES = torch.float32.itemsize


@dataclass(frozen=True, eq=False)
class PointReading:
    """Rows that were read once, with their mirrors, as points."""

    points: Rows  # float32 [N, *shape]
    resident: bool  # whether points are in memory
    moments: MomentReading  # the same rows as they are stored
    digests: np.ndarray  # of all rows, bytes [N, 16]
    statistics: ChannelStatistics
    """Of the channels of stored points, without mirrors that were added."""
    normalizer: Normalizer
    picture_range: tuple[float, float] | None
    loss: ConversionLoss | None
    """What float32 loses of wider values."""


def read_points(
    moments: MomentReading,
    name: str,
    normalizer: Normalizer | None,
    *,
    budget: int,
    add_mirrors: bool,
) -> PointReading:
    """Read all rows once: check them, hash them, and convert them to points.

    Without a normalizer ("standard") it is computed from the statistics of the rows.
    """
    rows = moments.points
    if normalizer is None:
        check_standard(tuple(rows.shape[1:]), name)
    else:
        normalizer.per_channel(rows.shape[1])  # refuses another number of channels
    # Within the budget, rows of files become points in the pass that checks them, which is then
    # the only one. Not where rows hold more than points, or mirrors or the normalizer come after.
    buffer: Tensor | None = None
    in_one_pass = moments.identity is rows and not add_mirrors and normalizer is not None
    if in_one_pass and not isinstance(rows, Tensor) and fits(rows, budget):
        buffer = torch.empty(rows.shape)

    def keep(first: int, stored: Tensor) -> None:
        if buffer is not None and normalizer is not None:
            buffer[first : first + len(stored)] = normalizer.apply(stored)

    check = check_rows(moments.identity, name, keep=keep)
    digests, statistics = check.digests, check.statistics.select(slice(rows.shape[1]))
    loss, wide = check.loss, moments.wide
    if wide is not None:
        loss = measure_loss(wide, block_rows(wide))
    if loss is not None:
        loss.check(name, each_channel=normalizer is None or normalizer.std.ndim > 0)
    chosen = normalizer or standard_normalizer(statistics)
    bounds = picture_range(rows, chosen, statistics, name)
    if add_mirrors:
        count, *shape = rows.shape
        check_mirrors(statistics, tuple(shape), rows.dtype, name)
        rows = mirror_rows(rows)
        moments = MomentReading(rows, rows)
        digests = np.concatenate([digests, check_rows(rows, name, start=count).digests])
    resident = fits(rows, budget)
    points = _convert(rows, chosen, load=resident) if buffer is None else buffer
    resident = resident or points is rows
    return PointReading(points, resident, moments, digests, statistics, chosen, bounds, loss)


def _convert(rows: Rows, normalizer: Normalizer, *, load: bool) -> Rows:
    """Rows as points, loaded or read on demand; a tensor that is points already stays itself."""
    plain = isinstance(rows, Tensor) and rows.dtype == torch.float32 and rows.is_contiguous()
    if plain and not normalizer.changes:
        return rows
    if isinstance(rows, FileRows):
        points = rows.as_points(normalizer, hold=False)
    else:
        points = map_rows(rows, normalizer.apply, dtype=torch.float32)
    return _load(points) if load else points


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
    return normalize_bounds(*(enclosing_range(low, high) or (low, high)))


def _load(points: Rows) -> Tensor:
    """All rows in memory, read in the blocks of the integrity check."""
    if isinstance(points, FileRows):
        return points[:]
    loaded, step = torch.empty(points.shape), block_rows(points)
    for start in range(0, len(points), step):
        loaded[start : start + step] = points[start : min(start + step, len(points))]
    return loaded
