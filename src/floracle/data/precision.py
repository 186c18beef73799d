"""What is lost where wider values become float32, in units of the spread of the data.

A float32 has 24 bits for the value and not for its distance from the others: 10⁴ + noise keeps
three digits of the noise, and 10⁸ + noise becomes one point. The same holds for whole numbers
beyond 2²⁴, and for numbers so small that float32 has no bits left. Values are compared before and
after, in the pass that checks them; types that float32 holds exactly are not looked at.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import reduce

import torch
from torch import Tensor

from floracle.run.errors import InputError

from .channel_statistics import CACHED_VALUES, ChannelStatistics
from .rows.rows import Rows, compact

WIDE = (torch.float64, torch.int32, torch.int64, torch.uint32, torch.uint64)
MAX_LOSS = 0.01
"""RMS error over standard deviation. At 1 % distances between near neighbours are wrong."""
NOTED_LOSS = 1e-5  # what the oracle promises for its velocity
NOTED_CHANNEL_LOSS = 1e-3  # of a single channel: it keeps three digits of its own spread
FAR = 10.0  # means so many times as far from 0 as values spread are what costs digits


@dataclass(frozen=True)
class ConversionLoss:
    """The statistics of float32 values, and of what they lack of the stored ones."""

    dtype: torch.dtype
    """Of the stored values."""
    values: ChannelStatistics
    errors: ChannelStatistics

    @property
    def by_channel(self) -> Tensor:
        """RMS error over standard deviation [C]; an error that all values share is none."""
        return self._share(self.errors.squares, self.values.squares)

    @property
    def pooled(self) -> float:
        """RMS error over standard deviation, of all channels together."""
        return float(self._share(self.errors.squares.sum(), self.values.squares.sum()).max())

    def _share(self, errors: Tensor, squares: Tensor) -> Tensor:
        """√(errors / all), where the spread of stored values is that of both parts together."""
        total = errors + squares
        # squares of values near 1e-200 vanish in float64 as well; then bounds say whether all did
        lost = (self.errors.low < self.errors.high).double()
        return torch.where(total > 0, (errors / total).sqrt(), lost)

    def check(self, name: str, *, each_channel: bool) -> None:
        """Refuse to go on with points that are not the data.

        `each_channel`: a normalizer gives every channel the same weight, however little it varies.
        """
        loss = max(self.pooled, float(self.by_channel.max()) if each_channel else 0.0)
        if loss > MAX_LOSS:
            raise InputError(f"{name}: {self._describe(loss)}; {self._remedy}")

    def remarks(self) -> tuple[str, ...]:
        """What was lost, where it is little but more than rounding."""
        by_channel, worst = self.by_channel, int(self.by_channel.argmax())
        if self.pooled > NOTED_LOSS:
            return (f"{self._describe(self.pooled)}; {self._remedy}",)
        if by_channel[worst] > NOTED_CHANNEL_LOSS:
            return (
                f"channel {worst}: {self._describe(float(by_channel[worst]))}; {self._remedy}",
            )
        return ()

    def _describe(self, loss: float) -> str:
        kind = str(self.dtype).removeprefix("torch.")
        share = "all" if loss > 0.5 else f"{100 * loss:.2g} %"
        return f"{kind} values lose {share} of their spread as float32"

    @property
    def _remedy(self) -> str:
        # values are spread by what float32 kept, and by what it lost
        spread = (self.values.high - self.values.low) + (self.errors.high - self.errors.low)
        if (self.values.mean.abs() > FAR * spread).any():
            mean = float(self.values.mean.abs().max())
            return (
                f"they lie far from 0, means {mean:.3g}; subtract the mean before, as in"
                " data - data.mean(0) in float64"
            )
        return "they are too small for it; multiply them before, so that their deviation is near 1"


def measure_errors(stored: Tensor, converted: Tensor) -> ChannelStatistics:
    """The statistics of what rows [n, C, ...] lose."""
    rows = max(1, CACHED_VALUES // stored[0].numel())
    pieces = zip(stored.split(rows), converted.split(rows), strict=True)
    errors = (ChannelStatistics.of_block(wide.double() - narrow) for wide, narrow in pieces)
    return reduce(ChannelStatistics.merge, errors)


def measure_loss(rows: Rows, step: int) -> ConversionLoss | None:
    """Of all rows, read once more, `step` at a time; None of types that lose nothing."""
    if rows.dtype not in WIDE:
        return None
    values, errors = [], []
    for first in range(0, len(rows), step):
        stored = rows[first : min(first + step, len(rows))]
        converted = compact(stored)
        values.append(ChannelStatistics.of_block(converted))
        errors.append(measure_errors(stored, converted))
    merged = (reduce(ChannelStatistics.merge, parts) for parts in (values, errors))
    return ConversionLoss(rows.dtype, *merged)


def check_merged(rows: Rows, first: Tensor, name: str, step: int) -> tuple[str, ...]:
    """A remark on rows that differ as stored and not as float32; many of them are refused.

    `first` int64 [N] is the first row that equals each as float32.
    """
    copies = (first != torch.arange(len(first))).nonzero().flatten()
    if rows.dtype not in WIDE or not len(copies):
        return ()
    merged = sum(
        int((rows[some] != rows[first[some]]).flatten(1).any(1).sum())
        for some in copies.split(step)
    )
    if not merged:
        return ()
    kind = str(rows.dtype).removeprefix("torch.")
    what = f"{merged} row(s) that differ as {kind} equal another one as float32"
    if merged > max(1, MAX_LOSS * len(first)):  # a single pair is as rare as that
        raise InputError(f"{name}: {what}; scale or centre the data in {kind} before")
    return (f"{what}, and are merged with it",)
