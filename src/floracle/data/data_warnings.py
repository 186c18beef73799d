"""Warnings about data: moments taken for points, wrong scales, padding.

Nothing here is an error: a warning says what was noticed, and which option to use if it is true.
"""

from __future__ import annotations

from torch import Tensor, aminmax

from .channel_statistics import Channels, ChannelStatistics
from .layout_registry import has_own_scale
from .layouts.content import LayoutContent, is_picture
from .layouts.moments import MAX_LOG_VARIANCE, MIN_LOG_VARIANCE
from .points import PointReading

USUAL_STD = (0.5, 2.0)  # of channels of latents that fit noise of standard deviation 1
USUAL_MEAN = 1.0  # largest |mean| of such channels
MAX_STD_RATIO = 0.5  # deviations vary less than means: std of the second half over the first
MIN_LATENT_CHANNELS = 4
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
    shape, warnings = tuple(reading.points.shape[1:]), content.remarks
    statistics = reading.statistics
    if content.padded:
        warnings += looks_padded(duplicates, flips=content.flips)
    if not reading.moments.points.dtype.is_floating_point:
        return warnings
    if content.moments is None and (moments := looks_like_moments(statistics, shape)):
        return warnings + moments
    as_its_project = normalize == "stored" and has_own_scale(content.layout)
    if not as_its_project and normalize != "standard":
        warnings += looks_unnormalised(channels, shape, statistics, content.layout)
    if content.normalizer is None and normalize in ("stored", "raw"):
        warnings += looks_like_levels(channels, shape)
    return warnings


def looks_like_moments(statistics: ChannelStatistics, shape: tuple[int, ...]) -> tuple[str, ...]:
    """Whether the second half of the channels of points [C, H, W] looks like deviations."""
    count = len(statistics.mean)
    if len(shape) != 3 or count % 2:
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


def looks_unnormalised(
    channels: Channels, shape: tuple[int, ...], statistics: ChannelStatistics, layout: str
) -> tuple[str, ...]:
    """Whether float latents [C ≥ 4, H, W] have another scale than their noise."""
    if len(shape) != 3 or shape[0] < MIN_LATENT_CHANNELS or is_picture(shape):
        return ()
    low, high = USUAL_STD
    scaled = bool((channels.std < low).any() or (channels.std > high).any())
    if not (scaled or (channels.mean.abs() > USUAL_MEAN).any()):
        return ()
    std = (statistics.squares.sum() / statistics.count / len(statistics.mean)).sqrt()
    stats = "its latents_stats.pt fits these latents, or " if layout == "lightningdit" else ""
    return (
        f"this looks unnormalised: channel deviations are {_range(channels.std)} and means"
        f" {_range(channels.mean)}, where noise has 1 and 0; check that {stats}the factor or"
        f" Normalizer of its project is given, such as normalize={1 / max(float(std), 1e-12):.4g},"
        " or say normalize='standard'",
    )


def looks_like_levels(channels: Channels, shape: tuple[int, ...]) -> tuple[str, ...]:
    """Whether float pictures reach beyond −1 ... 1."""
    low, high = float(channels.low.min()), float(channels.high.max())
    if not is_picture(shape) or (low >= -1 and high <= 1):
        return ()
    reach = "0 ... 255" if low >= 0 and 1 < high <= 255 else f"{low:.4g} ... {high:.4g}"
    return (
        f"these look like pictures of floats beyond -1 ... 1: they reach {reach}; store bytes,"
        " or say how they are scaled with a Normalizer, such as mean 127.5 and std 127.5",
    )


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


def _range(values: Tensor) -> str:
    low, high = (float(value) for value in aminmax(values))
    return f"{low:.3g} ... {high:.3g}"
