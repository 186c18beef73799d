"""Whether two sets of points can be in one unit, from the statistics of their channels alone.

Held-out data takes the normalizer of the training set, so bytes beside floats of [−1, 1] become
points that are all nearly black, or 255 times too far, and every number that follows is wrong.
Other data in the same unit is not meant: the pictures of another set, one class, or five points
differ from the training set in mean and deviation too. What they cannot do is to leave the range
that a unit has, or to be the training set times a small number. Both sets are compared in the
units in which the training set is stored.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from .channel_statistics import Channels
from .layouts.content import INTEGERS
from .normalize import RAW, Normalizer
from .store import Store
from .value_range import PICTURE_RANGES

MAX_RATIO = 3.0
"""Of the deviations of two sets of one unit: one class of a set, or another set of its kind, has
at most about twice the deviation of the whole, and at least half."""
CERTAIN_RATIO = 30.0
"""Beyond it another unit is certain whatever the data is; below, few channels leave a doubt."""
MIN_CHANNELS = 4  # that share one ratio: of fewer that may be chance
SAME_RATIO = 2.0  # within such a factor of each other, ratios of channels are one ratio
MIN_LEVELS = 8.0  # the largest of integers that are more than masks of 0 and 1
MAX_NORMALIZED = 4.0  # of float pictures normalized in any usual way; ImageNet's reach 2.7
LEVEL_RATIO = 8.0  # the deviation of levels is more than 8 times that of what is so normalized
MAX_OVERSHOOT = 0.5  # of the range of pictures, by resizing or noise; another unit doubles it
ROUNDING = 1e-3  # of values in [−1, 1]; bytes are .0078 apart there
BYTES = (0.0, 255.0)
FEW_POINTS = 8.0
"""The deviation of n points is known to a factor of about 1 + 8 / (n − 1), taken generously."""


@dataclass(frozen=True)
class Units:
    """What is compared of a set: how many points, their channels, and how they are stored."""

    count: int
    channels: Channels
    """Of the points."""
    dtype: torch.dtype | None = None
    """Of the stored values, where it is known."""
    normalizer: Normalizer = RAW

    @classmethod
    def of(cls, store: Store) -> Units:
        """Of an opened store."""
        return cls(len(store), store.channels, store.dtype, store.normalizer)


@dataclass(frozen=True)
class UnitMismatch:
    """Two sets that are not in one unit, in one sentence."""

    sentence: str
    certain: bool
    """Otherwise it may be meant, as where the points are one narrow class."""


def compare_units(
    training: Units, other: Units, *, names: tuple[str, str] = ("training", "held-out")
) -> UnitMismatch | None:
    """Why two sets of points of one shape are not in one unit; None if they may be."""
    values = [_stored_values(units, training.normalizer) for units in (training, other)]
    reasons = sorted(_reasons(training, other, *values), key=lambda reason: not reason[1])
    if not reasons:
        return None
    reason, certain = reasons[0]
    first, second = (
        _describe(units.dtype, seen) for units, seen in zip((training, other), values, strict=True)
    )
    return UnitMismatch(
        f"the {names[1]} data {'is not' if certain else 'may not be'} in the unit of the"
        f" {names[0]} data: {reason} ({names[0]} values are {first}, {names[1]} values {second},"
        f" in the scale in which the {names[0]} data is stored); store both alike, in one type and"
        " scale",
        certain,
    )


def _reasons(
    training: Units, other: Units, a: Channels, b: Channels
) -> Iterator[tuple[str, bool]]:
    """All that speaks against one unit, and whether it is certain; a, b are stored values."""
    low, high = float(a.low.min()), float(a.high.max())
    other_low, other_high = float(b.low.min()), float(b.high.max())
    std, other_std = _pooled_std(a, training.count), _pooled_std(b, other.count)
    # 1. Ranges that are fixed: of levels, and of floats that reach both ends of [0, 1] or [−1, 1].
    bounds = _fixed_range(training, low, high)
    if 0 < LEVEL_RATIO * other_std < std and _are_levels(training, a) and _are_floats(other, b):
        yield "levels against normalized values", True
    if 0 < LEVEL_RATIO * std < other_std and _are_levels(other, b) and _are_floats(training, a):
        yield "normalized values against levels", True
    if bounds is not None:
        room = MAX_OVERSHOOT * (bounds[1] - bounds[0])
        if other_low < bounds[0] - room or other_high > bounds[1] + room:
            yield f"values beyond {bounds[0]:g} ... {bounds[1]:g}", True
        # bytes brought to [−1, 1] are odd multiples of 1/255, never 0
        starts_at_zero = abs(other_low) < ROUNDING and 0.5 < other_high <= 1 + ROUNDING
        if bounds[0] == -1 and starts_at_zero:
            yield "values in [-1, 1] against values in [0, 1]", True
    if not (std and other_std):
        return
    # 2. A multiple of the training set, up to a shift of a few deviations. Neither a narrow class
    #    nor the whole of which it is one is that: their means lie too far apart.
    ratio = other_std / std
    proportional = float((b.mean - ratio * a.mean).square().mean()) ** 0.5 < MAX_RATIO * other_std
    factor, channels = max(ratio, 1 / ratio), len(a.mean)
    few = _few(training.count if ratio > 1 else other.count, channels)
    if proportional and factor > MAX_RATIO * few:
        certain = factor > CERTAIN_RATIO * few or _is_uniform(a, b, ratio)
        yield f"its standard deviation is {ratio:.3g} times as large", certain
    # 3. Elsewhere: RMS distance from the training mean, in standard deviations.
    distance = float((b.std.square() + (b.mean - a.mean).square()).mean()) ** 0.5 / std
    room = (high - low) / 2
    outside = other_low < low - room or other_high > high + room
    if outside and distance > MAX_RATIO * _few(training.count, channels):
        yield f"its points lie {distance:.3g} standard deviations from the mean", False


def _stored_values(units: Units, normalizer: Normalizer) -> Channels:
    """The channels of points, in the scale of what `normalizer` is applied to."""
    channels = units.channels
    mean, std = (value.double() for value in normalizer.per_channel(len(channels.mean)))
    values = (value * std + mean for value in (channels.mean, channels.low, channels.high))
    stored_mean, low, high = values
    return Channels(stored_mean, channels.std * std, low, high)


def _pooled_std(channels: Channels, count: int) -> float:
    """Over all channels, as if of all points; 0 where one point says nothing of it."""
    return float(channels.std.square().mean() * count / max(1, count - 1)) ** 0.5


def _are_levels(units: Units, values: Channels) -> bool:
    """Whether values are integers from 0 on, or floats that reach from 0 to 255."""
    low, high = float(values.low.min()), float(values.high.max())
    integers = units.dtype in INTEGERS and low >= 0 and high > MIN_LEVELS
    return integers or _fixed_range(units, low, high) == BYTES


def _are_floats(units: Units, values: Channels) -> bool:
    """Whether values are small enough for normalized ones, and no masks of several integers."""
    low, high = float(values.low.min()), float(values.high.max())
    masks = units.dtype in INTEGERS and high > 1
    return max(-low, high) <= MAX_NORMALIZED and not masks


def _fixed_range(units: Units, low: float, high: float) -> tuple[float, float] | None:
    """The range of the unit of stored values where they show it, as those of pictures do."""
    if units.dtype in INTEGERS:  # 0 ... 1 of those are masks or counts
        return BYTES if units.dtype == torch.uint8 else None
    reached = (
        (black, white)
        for black, white in PICTURE_RANGES
        if abs(low - black) < ROUNDING * white and abs(high - white) < ROUNDING * white
    )
    return next(reached, None)


def _is_uniform(a: Channels, b: Channels, ratio: float) -> bool:
    """Whether the deviations of many channels have one ratio; those that hardly vary aside."""
    wide: Tensor = a.std > 0.1 * a.std.max()
    ratios = b.std[wide] / a.std[wide]
    same = (ratios < ratio * SAME_RATIO) & (ratios * SAME_RATIO > ratio)
    return len(ratios) >= MIN_CHANNELS and bool(same.all())


def _describe(dtype: torch.dtype | None, channels: Channels) -> str:
    """Type and range, such as "uint8 0 ... 255"."""
    low, high = float(channels.low.min()), float(channels.high.max())
    digit = 1e-5 * max(abs(low), abs(high))  # a normalizer that is undone leaves rounding errors
    low, high = (value if abs(value) > digit else 0.0 for value in (low, high))
    name = "" if dtype is None else str(dtype).removeprefix("torch.") + " "
    return f"{name}{low:.4g} ... {high:.4g}"


def _few(count: int, channels: int) -> float:
    """By how much the deviation of so few points may be off; channels count by their root."""
    return 1 + FEW_POINTS / max(1.0, (count - 1) * channels**0.5)
