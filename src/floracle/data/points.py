"""Stored rows as float32 points: in memory within the budget, else converted as they are read."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from math import prod

import numpy as np
import torch
from torch import Tensor

from floracle.run.errors import InputError

from .channel_statistics import ChannelStatistics
from .integrity_check import block_rows, check_rows
from .layouts.content import Key, Mirrored, Rows, is_picture
from .layouts.moments import MomentReading
from .normalize import Normalizer
from .rows.file_rows import FileRows

FLOAT = 4


@dataclass(frozen=True, eq=False)
class Normalized:
    """Stored rows as points, converted whenever they are read."""

    rows: Rows
    convert: Callable[[Tensor], Tensor]
    dtype: torch.dtype = torch.float32

    @property
    def shape(self) -> tuple[int, ...]:
        """[N, *shape]."""
        return tuple(self.rows.shape)

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, key: Key, /) -> Tensor:
        return self.convert(self.rows[key])


@dataclass(frozen=True, eq=False)
class Holding:
    """Points that are held from the moment when they are first read."""

    points: Tensor
    normalizer: Normalizer

    def keep(self, first: int, stored: Tensor) -> None:
        """Hold some rows as points."""
        self.points[first : first + len(stored)] = self.normalizer.apply(stored)


def holding(rows: Rows, normalizer: Normalizer | None, budget: int) -> Holding | None:
    """Room for all points, where they are not in memory, fit there, and can be told at once."""
    if isinstance(rows, Tensor) or normalizer is None or not fits(rows, budget):
        return None
    return Holding(torch.empty(rows.shape), normalizer)


def points_of(rows: Rows, normalizer: Normalizer, budget: int) -> tuple[Rows, bool]:
    """Points that are ready where they are so already or fit, and whether they are in memory."""
    plain = isinstance(rows, Tensor) and rows.dtype == torch.float32 and rows.is_contiguous()
    if plain and not normalizer.changes:
        return rows, True
    if isinstance(rows, FileRows):
        lazy = rows.as_points(normalizer, hold=False)
    else:
        lazy = Normalized(rows, normalizer.apply)
    return (_held(lazy), True) if fits(rows, budget) else (lazy, False)


def stds_of(rows: Rows, normalizer: Normalizer, budget: int) -> Rows:
    """The deviations of points; in memory where both fit there."""
    lazy = Normalized(rows, normalizer.apply_to_spread)
    return _held(lazy) if fits(rows, budget // 2) else lazy


def fits(rows: Rows, budget: int) -> bool:
    """Whether the budget holds all points as float32."""
    return FLOAT * prod(rows.shape) <= budget


def with_mirrors(
    read: MomentReading, digests: np.ndarray, name: str
) -> tuple[MomentReading, np.ndarray]:
    """The points and their left-right mirrors."""
    shape = list(read.points.shape[1:])
    if not is_picture(tuple(shape)):
        raise InputError(f"{name}: points {shape} are no pictures [1 or 3, H, W] to mirror")
    mirrored = Mirrored(read.points)
    again = check_rows(mirrored, name, start=len(read.points))
    return MomentReading(mirrored, mirrored), np.concatenate([digests, again.digests])


def picture_range(
    rows: Rows, normalizer: Normalizer, spread: ChannelStatistics, name: str
) -> tuple[float, float] | None:
    """Black and white as points have them, the widest over the channels."""
    channels = rows.shape[1]
    normalizer.of(channels)

    def widest(low: float, high: float) -> tuple[float, float]:
        ends = normalizer.apply(torch.tensor([low, high])[:, None].expand(2, channels))
        return float(ends[0].min()), float(ends[1].max())

    low, high = float(spread.low.min()), float(spread.high.max())
    if not np.isfinite(widest(low, high)).all():
        raise InputError(f"{name}: the normalization makes points infinite; its std is too small")
    if not is_picture(tuple(rows.shape[1:])):
        return None
    if rows.dtype == torch.uint8:
        return widest(0.0, 255.0)
    usual = ((0.0, 1.0), (-1.0, 1.0), (0.0, 255.0))
    fitting = (pair for pair in usual if pair[0] <= low and high <= pair[1])
    return widest(*next(fitting, (low, high)))


def _held(points: Rows) -> Tensor:
    if isinstance(points, FileRows):
        return points[:]
    held = torch.empty(points.shape)
    step = block_rows(points)
    for start in range(0, len(points), step):
        held[start : start + step] = points[start : min(start + step, len(points))]
    return held
