"""Between stored values and points: point = (stored − mean) / std, per channel or for all.

Projects that multiply instead have a scale and a bias, point = stored · scale + bias, and are
followed to the last bit. One object is used in both directions, so that what is drawn is what was
stored, and held-out data can wear the training set's normalization. The arithmetic is float32,
element by element: the same stored value gives the same point in every block and on every machine.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from math import isfinite

import torch
from torch import Tensor

from floracle.run.errors import InputError

LEVELS = 127.5, 127.5
"""Mean and std that bring bytes 0 ... 255 to [−1, 1]."""
WORDS = "'stored', 'raw', 'standard', a positive number or a Normalizer"


@dataclass(frozen=True, eq=False)
class Normalizer:
    """Mean and std, scalars or one per channel [C]; float32. Use `scale_normalizer` for a scale.

    Channels are the first axis of a point: of pictures [C, H, W], and the axis of vectors [D].
    """

    mean: Tensor
    std: Tensor
    factors: tuple[Tensor, Tensor] | None = field(default=None, kw_only=True)
    """Scale and bias, where points are stored · scale + bias; `scale_normalizer` sets them."""

    def __post_init__(self) -> None:
        for name in ("mean", "std"):
            object.__setattr__(self, name, _plain(getattr(self, name), name))
        if not (self.std > 0).all():
            raise InputError("std must be positive in every channel")

    @cached_property
    def changes(self) -> bool:
        """Whether points differ from what is stored."""
        return bool((self.mean != 0).any() or (self.std != 1).any())

    def apply(self, z: Tensor) -> Tensor:
        """Points float32 [n, C, ...] of stored values; a view where nothing changes."""
        if not self.changes:
            return z.float()
        if self.factors:
            scale, bias = (_per_channel(value, z) for value in self.factors)
            return (z.float() * scale).add_(bias)
        z = z if z.dtype == torch.uint8 else z.float()  # bytes turn float32 in the subtraction
        return (z - _per_channel(self.mean, z)).div_(_per_channel(self.std, z))

    def apply_(self, values: Tensor) -> Tensor:
        """`apply` in place, on float32 values; the same to the last bit."""
        if not self.changes:
            return values
        if self.factors:
            scale, bias = (_per_channel(value, values) for value in self.factors)
            return values.mul_(scale).add_(bias)
        return values.sub_(_per_channel(self.mean, values)).div_(_per_channel(self.std, values))

    def apply_to_spread(self, stds: Tensor) -> Tensor:
        """Standard deviations [n, C, ...] of stored values as those of points, float32."""
        if self.factors:
            return stds.float() * _per_channel(self.factors[0], stds)
        return stds.float() / _per_channel(self.std, stds)

    def invert(self, x: Tensor) -> Tensor:
        """Stored values float32 of points [n, C, ...]."""
        if self.factors:
            scale, bias = (_per_channel(value, x) for value in self.factors)
            return (x.float() - bias).div_(scale)
        return x.float() * _per_channel(self.std, x) + _per_channel(self.mean, x)

    def per_channel(self, channels: int) -> tuple[Tensor, Tensor]:
        """Mean and std written out for every channel, both [C]."""
        for value in (self.mean, self.std):
            if value.ndim == 1 and len(value) != channels:
                raise InputError(
                    f"the normalizer has {len(value)} channels, but the points have {channels}"
                )
        return self.mean.expand(channels), self.std.expand(channels)

    def fingerprint_parts(self, channels: int) -> list[bytes]:
        """All that points depend on, for a fingerprint."""
        values = [*self.per_channel(channels), *(self.factors or ())]
        return [value.contiguous().numpy().tobytes() for value in values]


def scale_normalizer(scale: float | Tensor, bias: float | Tensor = 0.0) -> Normalizer:
    """Points are stored · scale + bias; both are scalars or one per channel [C]."""
    scale, bias = _plain(scale, "scale"), _plain(bias, "bias")
    if not (scale > 0).all():
        raise InputError(f"normalize multiplies by a positive number, not {scale.tolist()}")
    return Normalizer(-bias / scale, 1 / scale, factors=(scale, bias))


def choose_normalizer(
    asked: str | float | Normalizer, dtype: torch.dtype, *, own: Normalizer | None = None
) -> Normalizer | None:
    """What the user asked for; None for "standard", which takes a look at all of the data.

    `own` is that of the data's project, for "stored".
    """
    if isinstance(asked, Normalizer):
        return asked
    if isinstance(asked, (int, float)) and not isinstance(asked, bool) and isfinite(asked):
        return scale_normalizer(float(asked))
    if asked == "stored":
        return own or (Normalizer(*map(torch.tensor, LEVELS)) if dtype == torch.uint8 else RAW)
    if asked == "raw":
        return RAW
    if asked == "standard":
        return None
    raise InputError(f"normalize is {WORDS}, not {asked!r}")


def _plain(value: float | Tensor, name: str) -> Tensor:
    value = torch.as_tensor(value).detach().cpu().float().squeeze()
    if value.ndim > 1 or not value.isfinite().all():
        raise InputError(f"{name} must be finite, scalar or [channels]: {tuple(value.shape)}")
    return value


def _per_channel(value: Tensor, z: Tensor) -> Tensor:
    value = value.to(z.device)
    return value.reshape(-1, *[1] * (z.ndim - 2)) if value.ndim else value


RAW = Normalizer(torch.tensor(0.0), torch.tensor(1.0))
"""Points are what is stored."""
