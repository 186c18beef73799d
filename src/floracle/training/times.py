"""The times at which a network is trained, and their effect on the loss it minimises.

Every density turns a uniform number into a time t of density p(t), and gives each pair a weight
m(t); what is minimised is ∫ p(t) m(t) E‖v − c‖² dt. With p · m = 1 (`Uniform`, `SplitAware`) that
is the loss of uniform times, *unbiased*, and only its noise differs. Otherwise it is another loss:
logit-normal and shifted times, as people use them, are reweightings. The minimiser at any single t
is the same for all; a network of finite size spends itself where p · m is large.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from floracle.run.errors import InputError

from .config import TrainingSettings

MARGIN = 1e-12  # kept from 0 and 1, where logits are infinite


class TimeDensity(Protocol):
    """A density of times; all tensors are float64 [b]."""

    def of(self, uniform: Tensor) -> Tensor:
        """Times in [0, 1) from numbers in [0, 1), increasing: the inverse of the distribution."""
        ...

    def density(self, t: Tensor) -> Tensor:
        """The density p(t)."""
        ...

    def weight(self, t: Tensor) -> Tensor:
        """The weight m(t) of a pair's loss."""
        ...


@dataclass(frozen=True)
class Uniform:
    """p = 1, as in the paper and SiT."""

    def of(self, uniform: Tensor) -> Tensor:
        """Themselves."""
        return uniform

    def density(self, t: Tensor) -> Tensor:
        """1."""
        return torch.ones_like(t)

    def weight(self, t: Tensor) -> Tensor:
        """1."""
        return torch.ones_like(t)


@dataclass(frozen=True)
class LogitNormal:
    """log(t / (1 − t)) is standard normal: LightningDiT, REPA, SD3. A reweighting."""

    def of(self, uniform: Tensor) -> Tensor:
        """By the inverse of the normal distribution."""
        return torch.special.ndtri(uniform.clamp(MARGIN, 1 - MARGIN)).sigmoid()

    def density(self, t: Tensor) -> Tensor:
        """φ(log t/(1 − t)) / (t (1 − t)); 0 at the ends."""
        inside = t.clamp(MARGIN, 1 - MARGIN)
        normal = torch.exp(-torch.logit(inside).square() / 2) / math.sqrt(2 * math.pi)
        return normal / (inside * (1 - inside))

    def weight(self, t: Tensor) -> Tensor:
        """1, as people use it."""
        return torch.ones_like(t)


@dataclass(frozen=True)
class Shifted:
    """s u / (1 + (s − 1) u) of a uniform u: s below 1 stays longer near the noise.

    A reweighting. The `shift` k of SD3 and RAE acts on the noise's time: s = 1 / k.
    """

    shift: float

    def of(self, uniform: Tensor) -> Tensor:
        """Shifted."""
        return self.shift * uniform / (1 + (self.shift - 1) * uniform)

    def density(self, t: Tensor) -> Tensor:
        """du/dt = s / (s − (s − 1) t)²."""
        return self.shift / (self.shift - (self.shift - 1) * t).square()

    def weight(self, t: Tensor) -> Tensor:
        """1."""
        return torch.ones_like(t)


@dataclass(frozen=True)
class SplitAware:
    """Half of the times before the end of navigation, half after it, uniform in each.

    Weights 1 / p(t) make it unbiased: navigation is seen more often, and counts no more.
    """

    split: float
    half: float = 0.5
    """The share of times before the split."""

    def of(self, uniform: Tensor) -> Tensor:
        """Piecewise linear, through (half, split)."""
        early = uniform * (self.split / self.half)
        late = self.split + (uniform - self.half) * ((1 - self.split) / (1 - self.half))
        # rounding must not reach t = 1, where targets are undefined
        return torch.where(uniform < self.half, early, late.clamp(max=1 - 2**-53))

    def density(self, t: Tensor) -> Tensor:
        """A constant on either side."""
        early, late = self.half / self.split, (1 - self.half) / (1 - self.split)
        return torch.where(t < self.split, early, late).to(t)

    def weight(self, t: Tensor) -> Tensor:
        """1 / p(t)."""
        return 1 / self.density(t)


def times_for(settings: TrainingSettings, split: float | None = None) -> TimeDensity:
    """The times of the settings; `split`, the end of navigation, is used if they have none."""
    if settings.times == "uniform":
        return Uniform()
    if settings.times == "logit-normal":
        return LogitNormal()
    if settings.times == "shifted":
        return Shifted(settings.shift)
    split = settings.split if settings.split is not None else split
    if split is None or not 0 < split < 1:
        raise InputError(f"split-aware times need a split inside (0, 1), got {split}; give split=")
    return SplitAware(split)
