"""Mean, standard deviation and bounds of every channel, in float64, gathered block by block."""

from __future__ import annotations

from dataclasses import dataclass, fields
from functools import reduce

import torch
from torch import Tensor

from .normalize import Normalizer

CACHED_VALUES = 2**17  # values looked at together: their float64 copies stay in cache


@dataclass(frozen=True)
class ChannelStatistics:
    """Count, and by channel [C] mean, summed squared deviations and bounds, float64; mergeable."""

    count: int
    mean: Tensor
    squares: Tensor
    low: Tensor
    high: Tensor

    @classmethod
    def of_block(cls, stored: Tensor) -> ChannelStatistics:
        """Of stored values [n, C, ...]."""
        values = stored.reshape(len(stored), stored.shape[1], -1)  # [n, C, k]
        pieces = values.split(max(1, CACHED_VALUES // values[0].numel()))
        return reduce(ChannelStatistics.merge, map(ChannelStatistics._of_piece, pieces))

    @classmethod
    def _of_piece(cls, values: Tensor) -> ChannelStatistics:
        # two passes: Σx² − n·mean² would cancel where the mean is large beside the deviation
        low, high = values.amin((0, 2)).double(), values.amax((0, 2)).double()
        count = values.shape[0] * values.shape[2]
        values = values.to(torch.float64, copy=True)  # changed in place below
        mean = values.sum((0, 2)) / count
        squares = values.sub_(mean[:, None]).square_().sum((0, 2))
        return cls(count, mean, squares, low, high)

    @property
    def std(self) -> Tensor:
        """Standard deviations [C], divided by the count."""
        return (self.squares / self.count).sqrt()

    def merge(self, other: ChannelStatistics) -> ChannelStatistics:
        """Of both sets of values (Chan et al. 1979)."""
        count, shift = self.count + other.count, other.mean - self.mean
        fraction = other.count / count
        return ChannelStatistics(
            count,
            self.mean + shift * fraction,
            self.squares + other.squares + shift.square() * (self.count * fraction),
            torch.minimum(self.low, other.low),
            torch.maximum(self.high, other.high),
        )

    def select(self, channels: slice) -> ChannelStatistics:
        """Of some channels alone."""
        _, *values = (getattr(self, field.name) for field in fields(self))
        return ChannelStatistics(self.count, *(value[channels] for value in values))


@dataclass(frozen=True)
class Channels:
    """Mean, standard deviation and bounds of every channel [C] of the points, float64."""

    mean: Tensor
    std: Tensor
    low: Tensor
    high: Tensor


def point_channels(statistics: ChannelStatistics, normalizer: Normalizer) -> Channels:
    """The channels of points, from the statistics of stored values."""
    mean, std = (value.double() for value in normalizer.per_channel(len(statistics.mean)))
    bounds = (statistics.mean, statistics.low, statistics.high)
    point_mean, low, high = ((value - mean) / std for value in bounds)
    return Channels(point_mean, statistics.std / std, low, high)


def standard_normalizer(statistics: ChannelStatistics) -> Normalizer:
    """Mean 0 and std 1 in every channel, for normalize="standard"."""
    std = statistics.std.float()
    # A constant channel becomes 0 and its std counts as 1. Its mean is taken from the bounds, for
    # a mean of equal values may differ from them in the last bit.
    constant = statistics.low == statistics.high
    mean = torch.where(constant, statistics.low, statistics.mean)
    return Normalizer(mean, torch.where(constant | (std == 0), torch.ones_like(std), std))
