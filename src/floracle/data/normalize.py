"""Between stored values and points: point = (stored − mean) / std, per channel or for all.

One object is used in both directions, so that what is drawn is what was stored, and held-out data
can wear the training set's normalization. The arithmetic is float32, element by element: the same
stored value gives the same point in every block and on every machine.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from floracle.run.errors import Mistake


@dataclass(frozen=True, eq=False)
class Normalizer:
    """Mean and std, scalars or one per channel [C]; float32.

    Channels are the first axis of a point: of pictures [C, H, W], and the axis of vectors [D].
    """

    mean: Tensor
    std: Tensor

    def __post_init__(self) -> None:
        for name in ("mean", "std"):
            value = torch.as_tensor(getattr(self, name)).detach().cpu().float().squeeze()
            if value.ndim > 1 or not value.isfinite().all():
                raise Mistake(f"{name} must be finite, scalar or [channels]: {tuple(value.shape)}")
            object.__setattr__(self, name, value)
        if not (self.std > 0).all():
            raise Mistake("std must be positive in every channel")

    @property
    def changes(self) -> bool:
        """Whether points differ from what is stored."""
        return bool((self.mean != 0).any() or (self.std != 1).any())

    def apply(self, z: Tensor) -> Tensor:
        """Points float32 [n, C, ...] of stored values; a view where nothing changes."""
        if not self.changes:
            return z.float()
        z = z if z.dtype == torch.uint8 else z.float()  # bytes turn float32 in the subtraction
        return (z - self._per_channel(self.mean, z)).div_(self._per_channel(self.std, z))

    def invert(self, x: Tensor) -> Tensor:
        """Stored values float32 of points [n, C, ...]."""
        return x.float() * self._per_channel(self.std, x) + self._per_channel(self.mean, x)

    def of(self, channels: int) -> tuple[Tensor, Tensor]:
        """Mean and std written out for every channel, both [C]."""
        for value in (self.mean, self.std):
            if value.ndim == 1 and len(value) != channels:
                raise Mistake(
                    f"the normalizer has {len(value)} channels, but the points have {channels}"
                )
        return self.mean.expand(channels), self.std.expand(channels)

    def _per_channel(self, value: Tensor, z: Tensor) -> Tensor:
        value = value.to(z.device)
        return value.reshape(-1, *[1] * (z.ndim - 2)) if value.ndim else value


def stored(dtype: torch.dtype) -> Normalizer:
    """Of "stored": bytes 0..255 become [−1, 1] (mean 127.5, std 127.5), all else stays."""
    scale = (127.5, 127.5) if dtype == torch.uint8 else (0.0, 1.0)
    return Normalizer(*map(torch.tensor, scale))


@dataclass(frozen=True)
class Spread:
    """Count, and by channel [C] mean, squared deviations and bounds in float64; mergeable."""

    count: int
    mean: Tensor
    squares: Tensor
    low: Tensor
    high: Tensor

    @classmethod
    def of_block(cls, stored: Tensor) -> Spread:
        """Of stored values [n, C, ...], two passes over the block."""
        values = stored.double().reshape(len(stored), stored.shape[1], -1)
        mean = values.mean((0, 2))
        squares = (values - mean[:, None]).square_().sum((0, 2))
        count = values.shape[0] * values.shape[2]
        return cls(count, mean, squares, values.amin((0, 2)), values.amax((0, 2)))

    def merge(self, other: Spread) -> Spread:
        """Of both (Chan et al. 1979)."""
        count, apart = self.count + other.count, other.mean - self.mean
        share = other.count / count
        return Spread(
            count,
            self.mean + apart * share,
            self.squares + other.squares + apart.square() * (self.count * share),
            torch.minimum(self.low, other.low),
            torch.maximum(self.high, other.high),
        )


def standard(spread: Spread) -> Normalizer:
    """Of "standard": each channel's mean and std (divided by the count); constants get 1."""
    std = (spread.squares / spread.count).sqrt().float()
    constant = (spread.low == spread.high) | (std == 0)
    mean = torch.where(spread.low == spread.high, spread.low, spread.mean)
    return Normalizer(mean, torch.where(constant, torch.ones_like(std), std))
