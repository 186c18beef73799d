"""Mean, deviation and bounds of every channel, in float64, gathered block by block."""

from __future__ import annotations

from dataclasses import dataclass, fields
from functools import reduce

import torch
from torch import Tensor

PIECE = 2**17
"""Values that are looked at together: their float64 copies should stay in cache."""


@dataclass(frozen=True)
class ChannelStatistics:
    """Count, and by channel [C] mean, squared deviations and bounds in float64; mergeable."""

    count: int
    mean: Tensor
    squares: Tensor
    low: Tensor
    high: Tensor

    @classmethod
    def of_block(cls, stored: Tensor) -> ChannelStatistics:
        """Of stored values [n, C, ...]."""
        values = stored.reshape(len(stored), stored.shape[1], -1)
        pieces = values.split(max(1, PIECE // values[0].numel()))
        return reduce(ChannelStatistics.merge, map(ChannelStatistics._of_piece, pieces))

    @classmethod
    def _of_piece(cls, values: Tensor) -> ChannelStatistics:
        """Of stored values [n, C, k], in two passes."""
        low, high = values.amin((0, 2)).double(), values.amax((0, 2)).double()
        count, values = values.shape[0] * values.shape[2], values.double()
        mean = values.sum((0, 2)) / count
        squares = values.sub_(mean[:, None]).square_().sum((0, 2))
        return cls(count, mean, squares, low, high)

    @property
    def std(self) -> Tensor:
        """Divided by the count [C]."""
        return (self.squares / self.count).sqrt()

    def merge(self, other: ChannelStatistics) -> ChannelStatistics:
        """Of both (Chan et al. 1979)."""
        count, apart = self.count + other.count, other.mean - self.mean
        share = other.count / count
        return ChannelStatistics(
            count,
            self.mean + apart * share,
            self.squares + other.squares + apart.square() * (self.count * share),
            torch.minimum(self.low, other.low),
            torch.maximum(self.high, other.high),
        )

    def of(self, channels: slice) -> ChannelStatistics:
        """Of some channels alone."""
        _, *values = (getattr(self, field.name) for field in fields(self))
        return ChannelStatistics(self.count, *(value[channels] for value in values))
