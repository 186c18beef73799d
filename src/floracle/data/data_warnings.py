"""What the numbers of the channels give away: moments, wrong scales.

Nothing here stops anybody: a remark says what was noticed and what to say if it is true.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from .channel_statistics import ChannelStatistics
from .layouts.content import LayoutContent, is_picture
from .layouts.moments import HIGHEST, LOWEST, MomentReading
from .normalize import Normalizer

UNIT = (0.5, 2.0)
FAR = 1.0
NARROWER = 0.5
LEAST = 4
PADDING = 63
OWN_SCALE = {"repa", "edm2", "mar", "fast-dit"}
"""Layouts whose projects do not bring their latents to deviation 1."""


@dataclass(frozen=True)
class Channels:
    """Mean, deviation and bounds of every channel [C], float64, as points have them."""

    mean: Tensor
    std: Tensor
    low: Tensor
    high: Tensor


def channels(spread: ChannelStatistics, normalizer: Normalizer) -> Channels:
    """Of points, from the spread of what is stored."""
    mean, std = (value.double() for value in normalizer.of(len(spread.mean)))
    centred = ((value - mean) / std for value in (spread.mean, spread.low, spread.high))
    moved, low, high = centred
    return Channels(moved, spread.std / std, low, high)


def data_warnings(
    content: LayoutContent,
    read: MomentReading,
    spread: ChannelStatistics,
    found: Channels,
    *,
    duplicates: int,
    how: str,
) -> tuple[str, ...]:
    """All that may be a wrong reading; `how` is the word that was said for normalize."""
    shape, remarks = tuple(read.points.shape[1:]), content.remarks
    if content.padded:
        remarks += looks_padded(duplicates, flips=content.flips)
    if not read.points.dtype.is_floating_point:
        return remarks
    if content.moments is None and (seen := looks_like_moments(spread, shape)):
        return remarks + seen
    own = how == "stored" and content.layout in OWN_SCALE
    if not own and how != "standard":
        remarks += looks_unnormalised(found, shape, spread, content.layout)
    if content.normalizer is None and how in ("stored", "raw"):
        remarks += looks_like_levels(found, shape)
    return remarks


def looks_like_moments(spread: ChannelStatistics, shape: tuple[int, ...]) -> tuple[str, ...]:
    """Whether the second half of the channels of points [C, H, W] looks like deviations."""
    count = len(spread.mean)
    if len(shape) != 3 or count % 2:
        return ()
    mean, second = spread.of(slice(count // 2)), spread.of(slice(count // 2, None))
    if not ((mean.low < 0) & (mean.high > 0)).all():
        return ()
    if (second.low > 0).all() and (second.std < NARROWER * mean.std).all():
        return (_moments("std", "mean-std"),)
    bounded = (second.low >= LOWEST) & (second.high <= HIGHEST)
    negative = second.mean + second.std < 0
    if (bounded & negative).all() and not (mean.mean + mean.std < 0).all():
        return (_moments("log variance", "mean-logvar"),)
    return ()


def looks_unnormalised(
    found: Channels, shape: tuple[int, ...], spread: ChannelStatistics, layout: str
) -> tuple[str, ...]:
    """Whether float latents [C ≥ 4, H, W] have another scale than their noise."""
    if len(shape) != 3 or shape[0] < LEAST or is_picture(shape):
        return ()
    low, high = UNIT
    narrow, wide = bool((found.std < low).any()), bool((found.std > high).any())
    if not (narrow or wide or (found.mean.abs() > FAR).any()):
        return ()
    std = (spread.squares.sum() / spread.count / len(spread.mean)).sqrt()
    stats = "its latents_stats.pt fits these latents, or " if layout == "lightningdit" else ""
    return (
        f"this looks unnormalised: channel deviations are {_range(found.std)} and means"
        f" {_range(found.mean)}, where noise has 1 and 0; check that {stats}the factor or"
        f" Normalizer of its project is given, such as normalize={1 / max(float(std), 1e-12):.4g},"
        " or say normalize='standard'",
    )


def looks_like_levels(found: Channels, shape: tuple[int, ...]) -> tuple[str, ...]:
    """Whether float pictures reach beyond −1 ... 1."""
    low, high = float(found.low.min()), float(found.high.max())
    if not is_picture(shape) or (low >= -1 and high <= 1):
        return ()
    reach = "0 ... 255" if low >= 0 and 1 < high <= 255 else f"{low:.4g} ... {high:.4g}"
    return (
        f"these look like pictures of floats beyond -1 ... 1: they reach {reach}; store bytes,"
        " or say how they are scaled with a Normalizer, such as mean 127.5 and std 127.5",
    )


def looks_padded(duplicates: int, *, flips: bool) -> tuple[str, ...]:
    """Whether a few rows repeat in a store that several processes wrote."""
    if not 1 <= duplicates <= PADDING * (1 + flips):
        return ()
    return (
        f"{duplicates} rows repeat others exactly, as where a DistributedSampler padded its last"
        " round; they are merged, and count as often as they are stored",
    )


def _moments(second: str, layout: str) -> str:
    return (
        f"these look like moments [mean ‖ {second}], not points: if they are, say"
        f" layout='{layout}' and moments='mean', 'sample' or 'gaussian'"
    )


def _range(values: Tensor) -> str:
    low, high = (float(value) for value in torch.aminmax(values))
    return f"{low:.3g} ... {high:.3g}"
