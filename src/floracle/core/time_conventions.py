"""Foreign times: what other projects call a moment, and how they write a shift.

On the linear path x_t = t · data + (1 − t) · noise a moment is known by its ratio of data to
noise, t / (1 − t), so a time on any path, scaled or not, is a function of t:

    σ, s       1 − t                      REPA, RAE, SD3, Flux
    timestep   1000 (1 − t)               what diffusers passes to SD3
    edm        (1 − t) / t                x = data + σ · noise             (Karras et al. 2022)
    edm2       (1 − t) / (2 t)            the same, data of deviation ½    (Karras et al. 2024)
    alphabar   t² / (t² + (1 − t)²)       x = √ᾱ data + √(1 − ᾱ) noise     (Ho et al. 2020)
    logsnr     2 log(t / (1 − t))         log α²/σ²                        (Kingma et al. 2021)
    dit        the step whose ᾱ this is   Π (1 − β), β from 1e-4 to .02 in 1000 steps

`Clock` holds those that are linear in t and may be given to `as_field`; here are the others, too.
"""

from __future__ import annotations

import difflib
import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from .clock import OURS, Clock
from .paths import check_times

DIT_STEPS = 1000
ROUNDING = 1e-9
"""How far, in steps, a time may lie beyond the last one and still be it."""
FLUX_MU = 1.15
"""The largest mu of Flux (BFL's code, and the pipeline of diffusers)."""
SD3_MU = 1.16
"""The largest mu where the SD3 pipeline of diffusers falls back on its own default."""


@dataclass(frozen=True)
class ForeignTime:
    """A time that need not be linear in ours: its readings, their range, whose it is."""

    name: str
    reading: Callable[[Tensor], Tensor]
    """Our times t, float64, as this project reads them; NaN where it has no such time."""
    time: Callable[[Tensor], Tensor]
    """Our times t at its readings, float64."""
    noise: float
    """The reading nearest to noise."""
    data: float
    """The reading nearest to data."""
    meaning: str

    @property
    def forward(self) -> bool:
        """Whether the readings grow from noise to data, as ours do."""
        return self.data > self.noise

    def reads(self, t: float) -> float:
        """What it shows at our time t."""
        return self.reading(check_times(_double(t))).item()

    def at(self, reading: float) -> float:
        """Our time t at a reading; refused outside its range."""
        low, high = sorted((self.noise, self.data))
        if not low <= reading <= high:
            raise ValueError(
                f"{self.name} lies in [{low:g}, {high:g}], got {reading:g};"
                f" {self.noise:g} is the side of noise, {self.data:g} that of data"
            )
        return self.time(_double(reading)).item() + 0.0  # which turns −0 into 0


def _double(value: float) -> Tensor:
    return torch.tensor(value, dtype=torch.float64)


def linear(name: str, clock: Clock, meaning: str) -> ForeignTime:
    """A clock that is linear in ours."""
    return ForeignTime(name, clock.reading, clock.time, clock.noise, clock.data, meaning)


def edm(deviation: float, name: str, meaning: str) -> ForeignTime:
    """EDM's σ beside data of this standard deviation, for t of the data scaled to deviation 1."""
    return ForeignTime(
        name,
        lambda t: deviation * (1 - t) / t,
        lambda sigma: deviation / (deviation + sigma),
        math.inf,
        0.0,
        meaning,
    )


def alphabar_of(t: Tensor) -> Tensor:
    """ᾱ of the variance-preserving state with the ratio of data to noise of time t."""
    return t.square() / (t.square() + (1 - t).square())


def time_of_alphabar(alphabar: Tensor) -> Tensor:
    """Our time, √ᾱ / (√ᾱ + √(1 − ᾱ))."""
    data, noise = alphabar.sqrt(), (1 - alphabar).sqrt()
    return data / (data + noise)


def logsnr_of(t: Tensor) -> Tensor:
    """The logarithm of the signal-to-noise ratio; −∞ at noise, ∞ at data."""
    return 2 * (t.log() - torch.log1p(-t))


def time_of_logsnr(logsnr: Tensor) -> Tensor:
    """Our time, 1 / (1 + e^(−λ/2))."""
    return torch.sigmoid(logsnr / 2)


def dit_times() -> Tensor:
    """Our times of the steps 0 … 999 of DiT and ADM [1000]; falls from .990 to .006."""
    beta = torch.linspace(1e-4, 0.02, DIT_STEPS, dtype=torch.float64)
    return time_of_alphabar((1 - beta).cumprod(0))


def dit_step(t: Tensor) -> Tensor:
    """The step of DiT and ADM at t, between steps linear in log-SNR; NaN beyond step 0 or 999.

    The network knows whole steps only; round.
    """
    known = logsnr_of(dit_times()).flip(0)
    return DIT_STEPS - 1 - _between(known, logsnr_of(t))


def time_of_dit_step(step: Tensor) -> Tensor:
    """Our time at a step of DiT and ADM, whole or between two."""
    known = logsnr_of(dit_times()).flip(0)
    return time_of_logsnr(_value_at(known, DIT_STEPS - 1 - step))


def step_time(grid: Tensor) -> ForeignTime:
    """The number of steps taken on an increasing grid [steps + 1]; between its points linear."""
    grid = check_times(grid)
    return ForeignTime(
        "step",
        lambda t: _between(grid, t),
        lambda step: _value_at(grid, step),
        0.0,
        float(len(grid) - 1),
        f"step of {len(grid) - 1}",
    )


def _between(points: Tensor, values: Tensor) -> Tensor:
    """The fractional index of values among increasing points; NaN outside of them."""
    right = torch.searchsorted(points, values.contiguous()).clamp(1, len(points) - 1)
    low, high = points[right - 1], points[right]
    index = right - 1 + (values - low) / (high - low)
    last = len(points) - 1
    inside = (index >= -ROUNDING) & (index <= last + ROUNDING)
    return torch.where(inside, index.clamp(0, last), math.nan)


def _value_at(points: Tensor, index: Tensor) -> Tensor:
    """The value at a fractional index among points."""
    left = index.floor().clamp(0, len(points) - 2).long()
    return torch.lerp(points[left], points[left + 1], index - left)


TIMES = {
    time.name: time
    for time in (
        linear("t", OURS, "floracle, SiT, LightningDiT, torchcfm, flow_matching"),
        linear("s", Clock(noise=1, data=0), "REPA, RAE, MeanFlow: 1 − t"),
        linear("sigma", Clock(noise=1, data=0), "SD3 and Flux: σ = 1 − t"),
        linear("timestep", Clock(noise=1000, data=0), "what diffusers passes to SD3: 1000 σ"),
        edm(1.0, "edm", "EDM's σ beside data of deviation 1: (1 − t) / t"),
        edm(0.5, "edm2", "EDM2's σ, its data has deviation ½: (1 − t) / (2 t)"),
        ForeignTime("logsnr", logsnr_of, time_of_logsnr, -math.inf, math.inf, "log α²/σ²"),
        ForeignTime("alphabar", alphabar_of, time_of_alphabar, 0.0, 1.0, "VP: ᾱ"),
        ForeignTime("dit", dit_step, time_of_dit_step, 999.0, 0.0, "DiT and ADM: step 0 … 999"),
    )
}
"""Every foreign time by its name."""


def foreign_times(name: str) -> ForeignTime:
    """A foreign time by its name."""
    if name not in TIMES:
        close = difflib.get_close_matches(name, TIMES, n=1, cutoff=0.5)
        hint = f"did you mean {close[0]!r}?" if close else f"one of: {', '.join(TIMES)}"
        raise ValueError(f"there is no clock {name!r}; {hint}")
    return TIMES[name]


@dataclass(frozen=True)
class Shift:
    """One curve in three notations: s on t (LightningDiT), k = 1/s on σ, mu = log k."""

    s: float = 1.0

    def __post_init__(self) -> None:
        if not 0 < self.s < math.inf:
            raise ValueError(f"a shift is positive and finite, got s = {self.s:g}; 1 is none")

    @classmethod
    def of(
        cls, *, s: float | None = None, k: float | None = None, mu: float | None = None
    ) -> Shift:
        """From one notation; without any, no shift."""
        if sum(given is not None for given in (s, k, mu)) > 1:
            raise ValueError("give a shift once: s, k = 1/s or mu = log k")
        if mu is not None:
            if not abs(mu) < 700:
                raise ValueError(f"mu is log k and near 1, got {mu:g}")
            return cls(math.exp(-mu))
        if k is not None:
            if not k > 0:
                raise ValueError(f"k must be positive, got {k:g}; 1 is no shift")
            return cls(1 / k)
        return cls(1.0 if s is None else s)

    @property
    def k(self) -> float:
        """The `shift` of SD3, Flux and RAE: σ' = k σ / (1 + (k − 1) σ)."""
        return 1 / self.s

    @property
    def mu(self) -> float:
        """What Flux computes from the picture's size."""
        return -math.log(self.s)


def mu_for(tokens: int, *, highest: float = FLUX_MU) -> float:
    """Flux.1's mu for a sequence of image tokens: .5 at 256, `highest` at 4096, linear.

    Flux.2 computes it otherwise.
    """
    if tokens < 1:
        raise ValueError(f"a picture has at least one token, got {tokens}")
    return 0.5 + (highest - 0.5) * (tokens - 256) / (4096 - 256)
