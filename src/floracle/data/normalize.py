"""Between stored values and points: point = (stored − mean) / std, per channel or for all.

Projects that multiply instead have a scale and a bias, point = stored · scale + bias, computed as
they do, to the last bit. One object serves both directions, so that pictures show what was stored,
and held-out data gets the training set's normalization. The arithmetic is float32,
element by element: the same stored value gives the same point in every block and on every machine.
"""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass, field
from functools import cached_property
from math import isfinite

import torch
from torch import Tensor

from floracle.run.errors import InputError, brief

BYTE_MEAN, BYTE_STD = 127.5, 127.5  # bring bytes 0 ... 255 to [−1, 1]


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
            object.__setattr__(self, name, _check_values(getattr(self, name), name))
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
        z = z if z.dtype == torch.uint8 else z.float()  # bytes become float32 by the subtraction
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
        """Mean and std of every channel, both [C]."""
        for value in (self.mean, self.std):
            if value.ndim == 1 and len(value) != channels:
                raise InputError(
                    f"the normalizer has {len(value)} channels, but the points have {channels}"
                )
        return self.mean.expand(channels), self.std.expand(channels)

    def fingerprint_parts(self, channels: int) -> list[bytes]:
        """The bytes of all that points depend on."""
        values = [*self.per_channel(channels), *(self.factors or ())]
        return [value.contiguous().numpy().tobytes() for value in values]


def scale_normalizer(scale: float | Tensor, bias: float | Tensor = 0.0) -> Normalizer:
    """Points are stored · scale + bias; both are scalars or one per channel [C]."""
    scale, bias = _check_values(scale, "scale"), _check_values(bias, "bias")
    if not (scale > 0).all():
        raise InputError(f"normalize multiplies by a positive number, not {scale.tolist()}")
    # mean and std are for those who ask; points are computed from the factors, as projects do
    return Normalizer(-bias / scale, 1 / scale, factors=(scale, bias))


def choose_normalizer(
    normalize: str | float | Normalizer, dtype: torch.dtype, *, own: Normalizer | None = None
) -> Normalizer | None:
    """The normalizer of an option; None for "standard", which needs statistics of all rows.

    `own` is that of the data's project, for "stored"; `dtype` is that of stored values.
    """
    if isinstance(normalize, Normalizer):
        return normalize
    if isinstance(normalize, (int, float)) and not isinstance(normalize, bool):
        with suppress(OverflowError):  # of an integer beyond all floats
            if isfinite(normalize):
                return scale_normalizer(float(normalize))
    elif normalize == "standard":
        return None
    elif normalize == "raw":
        return RAW
    elif normalize == "stored":
        of_bytes = Normalizer(torch.tensor(BYTE_MEAN), torch.tensor(BYTE_STD))
        return own or (of_bytes if dtype == torch.uint8 else RAW)
    raise InputError(
        f"normalize is 'stored', 'raw', 'standard', a positive number or a Normalizer, not"
        f" {brief(normalize)}"
    )


def _check_values(value: float | Tensor, name: str) -> Tensor:
    try:
        value = torch.as_tensor(value)
    except (TypeError, ValueError, RuntimeError) as error:
        raise InputError(
            f"{name} is a number or an array of one for each channel, not a {type(value).__name__}"
        ) from error
    if value.is_complex() or value.dtype == torch.bool:
        kind = str(value.dtype).removeprefix("torch.")
        raise InputError(f"{name} holds {kind}; it takes real numbers")
    value = value.detach().cpu().float().squeeze()
    if value.ndim > 1 or not value.isfinite().all():
        raise InputError(f"{name} must be finite, scalar or [channels]: {tuple(value.shape)}")
    return value


def _per_channel(value: Tensor, z: Tensor) -> Tensor:
    value = value.to(z.device)
    return value.reshape(-1, *[1] * (z.ndim - 2)) if value.ndim else value  # [C, 1, ...]


RAW = Normalizer(torch.tensor(0.0), torch.tensor(1.0))
"""Points are what is stored."""
