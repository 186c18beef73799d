"""Warnings about data: moments taken for points, wrong scales, padding.

Nothing here is an error: a warning says what was noticed, and which option to use if it is true.
"""

from __future__ import annotations

import torch

from .channel_statistics import Channels, ChannelStatistics
from .layout_registry import has_own_scale
from .layouts.content import LayoutContent
from .layouts.moments import MAX_LOG_VARIANCE, MIN_LOG_VARIANCE
from .normalize import Normalizer
from .points import PointReading
from .value_range import (
    looks_channels_last,
    looks_like_few_bytes,
    looks_like_levels,
    looks_unnormalised,
)

MAX_STD_RATIO = 0.5  # deviations vary less than means: std of the second half over the first
MIN_VECTOR_MOMENTS = 16  # coordinates of a vector [mean ‖ std]; a few look like it by chance
MAX_PADDED_ROWS = 63  # a DistributedSampler of 64 processes repeats fewer rows than that


def data_warnings(
    content: LayoutContent,
    reading: PointReading,
    channels: Channels,
    duplicates: int,
    *,
    normalize: str,
) -> tuple[str, ...]:
    """All warnings; `channels` are those of points.

    `normalize` is the word that was given for it, "" for a number or a `Normalizer`.
    """
    shape, dtype = tuple(reading.points.shape[1:]), reading.moments.points.dtype
    warnings = content.remarks
    warnings += reading.loss.remarks() if reading.loss else ()
    if content.padded:
        warnings += looks_padded(duplicates, flips=content.flips)
    plain = dtype.is_floating_point and content.moments is None
    if plain and (moments := looks_like_moments(reading.statistics, shape)):
        return warnings + moments
    return warnings + value_warnings(
        channels,
        shape,
        dtype,
        reading.normalizer,
        normalize=normalize,
        layout=content.layout,
        scaled=content.normalizer is not None,
    )


def value_warnings(
    channels: Channels,
    shape: tuple[int, ...],
    dtype: torch.dtype,
    normalizer: Normalizer,
    *,
    normalize: str,
    layout: str,
    scaled: bool = False,
) -> tuple[str, ...]:
    """What range, scale and axes of points say; `scaled` is data of which its project knows it."""
    warnings = looks_channels_last(shape)
    if normalize == "stored" and dtype == torch.uint8:
        return warnings + looks_like_few_bytes(channels)
    as_stored = not scaled and normalize in ("stored", "raw") and dtype != torch.uint8
    if as_stored and (levels := looks_like_levels(channels, shape, dtype)):
        return warnings + levels
    as_its_project = normalize == "stored" and has_own_scale(layout)
    if dtype.is_floating_point and not as_its_project and normalize != "standard":
        warnings += looks_unnormalised(channels, shape, normalizer, layout)
    return warnings


def packed_warnings(
    channels: Channels, shape: tuple[int, ...], dtype: torch.dtype, normalizer: Normalizer
) -> tuple[str, ...]:
    """What a packed store says whose data was packed without a warning, maybe by 0.1.

    Its scale is left alone: it may be that of its project, which a packed store does not name.
    """
    levels = () if normalizer.changes else looks_like_levels(channels, shape, dtype)
    return looks_channels_last(shape) + (() if dtype == torch.uint8 else levels)


def looks_like_moments(statistics: ChannelStatistics, shape: tuple[int, ...]) -> tuple[str, ...]:
    """Whether the second half of the channels of points [C, ...] looks like deviations."""
    count = len(statistics.mean)
    if count % 2 or len(shape) == 2 or (len(shape) == 1 and count < MIN_VECTOR_MOMENTS):
        return ()
    mean = statistics.select(slice(count // 2))
    second = statistics.select(slice(count // 2, None))
    if not ((mean.low < 0) & (mean.high > 0)).all():
        return ()
    if (second.low > 0).all() and (second.std < MAX_STD_RATIO * mean.std).all():
        return (_say_moments("std", "mean-std"),)
    # log variances are clamped, and nearly all negative: an autoencoder's deviations are small
    clamped = (second.low >= MIN_LOG_VARIANCE) & (second.high <= MAX_LOG_VARIANCE)
    negative = second.mean + second.std < 0
    if (clamped & negative).all() and not (mean.mean + mean.std < 0).all():
        return (_say_moments("log variance", "mean-logvar"),)
    return ()


def looks_padded(duplicates: int, *, flips: bool) -> tuple[str, ...]:
    """Whether a few rows repeat in a store that several processes wrote."""
    if not 1 <= duplicates <= MAX_PADDED_ROWS * (1 + flips):
        return ()
    return (
        f"{duplicates} rows repeat others exactly, as where a DistributedSampler padded its last"
        " round; they are merged, and count as often as they are stored",
    )


def _say_moments(second: str, layout: str) -> str:
    return (
        f"these look like moments [mean ‖ {second}], not points: if they are, say"
        f" layout='{layout}' and moments='mean', 'sample' or 'gaussian'"
    )
