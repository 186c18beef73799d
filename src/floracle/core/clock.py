"""Foreign clocks: what other code calls its times.

Ours runs from t = 0 (noise) to t = 1 (data). A foreign clock is linear in ours and is known by its
two readings, so `Clock(noise=1000, data=0)` is the diffusers timestep and `Clock(noise=1, data=0)`
the σ of Flux, SD3 and REPA.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True)
class Clock:
    """The readings that foreign code uses for noise and for data."""

    noise: float = 0.0
    data: float = 1.0

    def __post_init__(self) -> None:
        if not (math.isfinite(self.noise) and math.isfinite(self.data)):
            raise ValueError(f"a clock reads finite times, got {self.noise:g} and {self.data:g}")
        if self.noise == self.data:
            raise ValueError(f"a clock must run, but noise and data both read {self.noise:g}")

    def reading(self, t: Tensor) -> Tensor:
        """What the foreign clock shows at our times t."""
        return self.noise + (self.data - self.noise) * t

    def time(self, reading: Tensor) -> Tensor:
        """Our time t at a reading of the foreign clock."""
        return (reading - self.noise) / (self.data - self.noise)

    @property
    def forward(self) -> bool:
        """Whether the readings grow from noise to data, as ours do."""
        return self.data > self.noise


OURS = Clock()
