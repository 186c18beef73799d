"""Time conventions: what other projects call a time, and how they write a shift of times.

On the linear path x_t = t · data + (1 − t) · noise a time is known by its signal-to-noise ratio
r = t / (1 − t). Rescaling x does not change r, so times on any path are functions of t:

    σ, s       1 − t                      REPA, RAE, SD3, Flux
    timestep   1000 (1 − t)               what diffusers passes to SD3
    edm        (1 − t) / t                x = data + σ · noise             (Karras et al. 2022)
    edm2       (1 − t) / (2 t)            the same, data of deviation ½    (Karras et al. 2024)
    alphabar   t² / (t² + (1 − t)²)       x = √ᾱ data + √(1 − ᾱ) noise     (Ho et al. 2020)
    logsnr     2 log(t / (1 − t))         log α²/σ²                        (Kingma et al. 2021)
    dit        the step with this ᾱ       Π (1 − β), β from 1e-4 to .02 in 1000 steps

`floracle.core.fields.Convention` holds the times of a network, which are linear in t.
"""

from __future__ import annotations

import difflib
import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from .paths import check_times

DIT_STEPS = 1000
STEP_TOLERANCE = 1e-9  # in steps: rounding puts the last time of a grid this far beyond it
FLUX_MU = 1.15  # the largest mu of Flux (BFL's code, and its pipeline in diffusers)
MAX_MU = 700  # exp overflows float64 above 709


@dataclass(frozen=True)
class TimeConvention:
    """One project's times as a function of ours, not necessarily linear."""

    name: str
    from_t: Callable[[Tensor], Tensor]
    """Its times at our t, float64 to float64; NaN where it has none."""
    to_t: Callable[[Tensor], Tensor]
    """Our t at its times, float64 to float64."""
    noise_time: float
    """Its time at t = 0."""
    data_time: float
    """Its time at t = 1."""
    meaning: str

    @property
    def towards_data(self) -> bool:
        """Whether its times grow from noise to data, as ours do."""
        return self.data_time > self.noise_time

    def float_from_t(self, t: float) -> float:
        """Its time at our time t in [0, 1]."""
        return self.from_t(check_times(_float64(t))).item()

    def float_to_t(self, time: float) -> float:
        """Our t at its `time`; a ValueError outside its range."""
        low, high = sorted((self.noise_time, self.data_time))
        if not low <= time <= high:  # false for NaN, too
            raise ValueError(
                f"{self.name} lies in [{low:g}, {high:g}], got {time:g};"
                f" {self.noise_time:g} is noise, {self.data_time:g} is data"
            )
        return self.to_t(_float64(time)).item() + 0.0  # + 0.0 turns −0 into 0


def _float64(value: float) -> Tensor:
    return torch.tensor(value, dtype=torch.float64)


def linear_time(
    name: str, noise_time: float, data_time: float, meaning: str = ""
) -> TimeConvention:
    """Times that are linear in ours, from `noise_time` at t = 0 to `data_time` at t = 1."""
    span = data_time - noise_time
    return TimeConvention(
        name,
        lambda t: noise_time + span * t,
        lambda time: (time - noise_time) / span,
        noise_time,
        data_time,
        meaning,
    )


def edm_sigma(deviation: float, name: str, meaning: str) -> TimeConvention:
    """EDM's σ for data of standard deviation `deviation`, σ = deviation (1 − t) / t.

    Our t is that of the data scaled to deviation 1.
    """
    return TimeConvention(
        name,
        lambda t: deviation * (1 - t) / t,
        lambda sigma: deviation / (deviation + sigma),
        math.inf,
        0.0,
        meaning,
    )


def alphabar_from_t(t: Tensor) -> Tensor:
    """ᾱ = t² / (t² + (1 − t)²): the variance-preserving state of the same ratio r."""
    return t.square() / (t.square() + (1 - t).square())


def t_from_alphabar(alphabar: Tensor) -> Tensor:
    """T = √ᾱ / (√ᾱ + √(1 − ᾱ))."""
    alpha, sigma = alphabar.sqrt(), (1 - alphabar).sqrt()
    return alpha / (alpha + sigma)


def logsnr_from_t(t: Tensor) -> Tensor:
    """λ = 2 log(t / (1 − t)); −∞ at noise, ∞ at data."""
    return 2 * (t.log() - torch.log1p(-t))


def t_from_logsnr(logsnr: Tensor) -> Tensor:
    """T = 1 / (1 + e^(−λ/2))."""
    return torch.sigmoid(logsnr / 2)


def dit_times() -> Tensor:
    """Our times of the steps 0 … 999 of DiT and ADM, float64 [1000]; falls from .990 to .006."""
    beta = torch.linspace(1e-4, 0.02, DIT_STEPS, dtype=torch.float64)
    return t_from_alphabar((1 - beta).cumprod(0))


def dit_step_from_t(t: Tensor) -> Tensor:
    """The step of DiT and ADM at t; NaN beyond step 0 or 999.

    Between two steps it is linear in λ. The network was trained at whole steps only: round.
    """
    # The steps in increasing λ: step 999 first.
    step_logsnr = logsnr_from_t(dit_times()).flip(0)
    return DIT_STEPS - 1 - _fractional_index(step_logsnr, logsnr_from_t(t))


def t_from_dit_step(step: Tensor) -> Tensor:
    """Our time at a step of DiT and ADM, whole or between two."""
    step_logsnr = logsnr_from_t(dit_times()).flip(0)
    return t_from_logsnr(_value_at_index(step_logsnr, DIT_STEPS - 1 - step))


def grid_step_convention(grid: Tensor) -> TimeConvention:
    """The number of steps taken on an increasing grid [steps + 1]; linear between its points."""
    grid = check_times(grid)
    return TimeConvention(
        "step",
        lambda t: _fractional_index(grid, t),
        lambda step: _value_at_index(grid, step),
        0.0,
        float(len(grid) - 1),
        f"step of {len(grid) - 1}",
    )


def _fractional_index(points: Tensor, values: Tensor) -> Tensor:
    """The fractional index of values among increasing points; NaN outside of them."""
    last = len(points) - 1
    right = torch.searchsorted(points, values.contiguous()).clamp(1, last)
    low, high = points[right - 1], points[right]
    index = right - 1 + (values - low) / (high - low)
    inside = (index >= -STEP_TOLERANCE) & (index <= last + STEP_TOLERANCE)
    return torch.where(inside, index.clamp(0, last), math.nan)


def _value_at_index(points: Tensor, index: Tensor) -> Tensor:
    """The value at a fractional index among points."""
    below = index.floor().clamp(0, len(points) - 2).long()
    return torch.lerp(points[below], points[below + 1], index - below)


OUR_TIME = linear_time("t", 0.0, 1.0, "floracle, SiT, LightningDiT, torchcfm, flow_matching")
SIGMA = linear_time("sigma", 1.0, 0.0, "SD3 and Flux: σ = 1 − t")
TIME_CONVENTIONS = {
    convention.name: convention
    for convention in (
        OUR_TIME,
        linear_time("s", 1.0, 0.0, "REPA, RAE, MeanFlow: 1 − t"),
        SIGMA,
        linear_time("timestep", 1000.0, 0.0, "what diffusers passes to SD3: 1000 σ"),
        edm_sigma(1.0, "edm", "EDM's σ beside data of deviation 1: (1 − t) / t"),
        edm_sigma(0.5, "edm2", "EDM2's σ, its data has deviation ½: (1 − t) / (2 t)"),
        TimeConvention("logsnr", logsnr_from_t, t_from_logsnr, -math.inf, math.inf, "log α²/σ²"),
        TimeConvention("alphabar", alphabar_from_t, t_from_alphabar, 0.0, 1.0, "VP: ᾱ"),
        TimeConvention(
            "dit", dit_step_from_t, t_from_dit_step, 999.0, 0.0, "DiT and ADM: step 0 … 999"
        ),
    )
}


def time_convention(name: str) -> TimeConvention:
    """A time convention by its name."""
    if name not in TIME_CONVENTIONS:
        close = difflib.get_close_matches(name, TIME_CONVENTIONS, n=1, cutoff=0.5)
        names = ", ".join(TIME_CONVENTIONS)
        hint = f"did you mean {close[0]!r}?" if close else f"one of: {names}"
        raise ValueError(f"unknown time convention {name!r}; {hint}")
    return TIME_CONVENTIONS[name]


@dataclass(frozen=True)
class Shift:
    """A shift of times in three notations: s on t (LightningDiT), k = 1/s on σ, mu = log k."""

    s: float = 1.0

    def __post_init__(self) -> None:
        if not 0 < self.s < math.inf:
            raise ValueError(
                f"the shift s must be positive and finite, got {self.s:g}; 1 is no shift"
            )

    @classmethod
    def of(
        cls, *, s: float | None = None, k: float | None = None, mu: float | None = None
    ) -> Shift:
        """From one notation; without any, no shift."""
        if sum(number is not None for number in (s, k, mu)) > 1:
            raise ValueError("more than one shift given; pass one of s, k = 1/s and mu = log k")
        if mu is not None:
            if not abs(mu) < MAX_MU:
                raise ValueError(f"mu must lie within ±{MAX_MU} (mu = log k), got {mu:g}")
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
        """Log k, which Flux computes from the size of the image."""
        return -math.log(self.s)


def flux_mu(tokens: int, *, highest: float = FLUX_MU) -> float:
    """Flux.1's mu for a sequence of image tokens: .5 at 256, `highest` at 4096, linear between.

    Flux.2 computes it differently.
    """
    if tokens < 1:
        raise ValueError(f"an image has at least one token, got {tokens}")
    return 0.5 + (highest - 0.5) * (tokens - 256) / (4096 - 256)
