"""Where navigation ends, predicted from the number of points and their covariance spectrum alone.

A noisy sample at r = α/σ carries at most the information a Gaussian of the same covariance would,

    I_G(t) = ½ Σ_k log(1 + r² λ_k)      (nats),

and telling N points apart takes log N. So the *centre* of navigation is predicted where
I_G = ½ log N and the *collapse* onto one sample where I_G = log N. Around the collapse the
information of a pair scatters like a Gaussian of variance Σ r²λ / (1 + r²λ), which gives its own
atom the weight 1 / (1 + (N − 1) e^{−i}) on average.

Atoms that are Gaussians themselves, of variance s² in every coordinate, drown what tells them
apart: λ becomes λ / (1 + r²s²), and the information may never reach log N.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from floracle.core.fields import path_time
from floracle.core.paths import LINEAR, ProbabilityPath
from floracle.run.errors import InputError

FARTHEST = 40.0
"""Log r beyond which nothing is looked for."""
STEPS = 100


@dataclass(frozen=True)
class PredictedStages:
    """The stages to expect of `points` equally likely points with a covariance spectrum."""

    points: float
    """Their number N; e^{H(w)} where weights are unequal."""
    spectrum: Tensor
    """Eigenvalues λ of their covariance, float64 [k]."""
    path: ProbabilityPath = LINEAR
    within: float = 0.0
    """The variance s² of every atom by itself, in each coordinate; 0 for points."""
    counts: Tensor | None = None
    """How often each eigenvalue counts, float64 [k]; None for once."""

    def information(self, t: Tensor) -> Tensor:
        """I_G at times t [T] in [0, 1), in nats; an upper bound on the true I."""
        return self.at_ratio(self._ratio(t))

    def at_ratio(self, ratio: Tensor) -> Tensor:
        """I_G where α/σ is `ratio` […]."""
        return self._summed(torch.log1p(self._signal(ratio.square()))) / 2

    def variance(self, t: Tensor) -> Tensor:
        """Σ λ / (1 + r²λ) [T]: tr Cov(data | x_t) of a Gaussian with this spectrum."""
        snr = self._ratio(t).square()
        drowned = 1 + snr[:, None] * self.within
        return (self.spectrum / (drowned**2 * (1 + self._signal(snr)))).sum(1)

    def own(self, t: Tensor) -> Tensor:
        """The expected weight of a pair's own atom at times t [T]."""
        signal = self._signal(self._ratio(t).square())
        spread = (signal / (1 + signal)).sum(1).sqrt()
        nodes, weights = np.polynomial.hermite_e.hermegauss(64)
        drawn = self.information(t)[:, None] + spread[:, None] * torch.from_numpy(nodes)
        own = torch.sigmoid(drawn - math.log(max(self.points - 1, 1e-300)))
        return own @ torch.from_numpy(weights / weights.sum())

    def time_of(self, information: float) -> float:
        """The time at which I_G reaches so many nats."""
        return float(self.times_of(torch.tensor([information], dtype=torch.float64))[0])

    def times_of(self, information: Tensor) -> Tensor:
        """The times […] at which I_G reaches these many nats […]."""
        found = self._bisected(information) if self.within else self._descended(information)
        return self.times_at(torch.where(information > 0, found.exp(), 0.0))

    def _descended(self, information: Tensor) -> Tensor:
        """Log r […] where I_G is so large: it is convex there, so Newton's steps fall upon it."""
        found = torch.full_like(information, FARTHEST)
        for _ in range(STEPS):
            signal = self._signal((2 * found).exp())
            excess = self._summed(torch.log1p(signal)) / 2 - information
            step = excess / self._summed(signal / (1 + signal)).clamp(min=1e-300)
            found = (found - step).clamp(-FARTHEST, FARTHEST)
            if (step.abs() <= 1e-15 * found.abs().clamp(min=1e-2)).all():
                break
        return found

    def _bisected(self, information: Tensor) -> Tensor:
        """The same where the variance within points lets I_G level off."""
        low, high = (torch.full_like(information, end) for end in (-FARTHEST, FARTHEST))
        middle = (low + high) / 2
        for _ in range(64):
            early = self.at_ratio(middle.exp()) < information
            low, high = torch.where(early, middle, low), torch.where(early, high, middle)
            middle = (low + high) / 2
        return middle

    def times_at(self, ratio: Tensor) -> Tensor:
        """The times [T] at which α/σ is `ratio` [T]."""
        return path_time(self.path, ratio / (1 + ratio))

    @property
    def centre(self) -> float:
        """Where half of log N is known."""
        return self._landmarks[0]

    @property
    def collapse(self) -> float:
        """Where all of log N is known."""
        return self._landmarks[1]

    @cached_property
    def _landmarks(self) -> tuple[float, float]:
        known = math.log(self.points)
        centre, collapse = self.times_of(
            torch.tensor([known / 2, known], dtype=torch.float64)
        ).tolist()
        return centre, collapse

    def what_if(self, points: Sequence[float], scales: Sequence[float]) -> list[dict[str, float]]:
        """Landmarks for other numbers of points and for `scales` times as many dimensions.

        More dimensions means the same spectrum that many times over, as a larger image of the same
        kind would have.
        """
        cells = [(count, scale) for scale in scales for count in points]
        known = torch.tensor([math.log(count) / scale for count, scale in cells]).double()
        centres, collapses = self.times_of(torch.stack([known / 2, known])).tolist()
        return [
            {"points": count, "scale": scale, "centre": centre, "collapse": collapse}
            for (count, scale), centre, collapse in zip(cells, centres, collapses, strict=True)
        ]

    def _summed(self, values: Tensor) -> Tensor:
        """Over eigenvalues [..., k]."""
        return values.sum(-1) if self.counts is None else values @ self.counts

    def _signal(self, snr: Tensor) -> Tensor:
        """r²λ […, k] at r² […], less what the atoms' own variance drowns."""
        return snr[..., None] * self.spectrum / (1 + snr[..., None] * self.within)

    def _ratio(self, t: Tensor) -> Tensor:
        c = self.path.coefficients(t)
        return c.signal_to_noise


def predict(
    points: float,
    *,
    dims: int | None = None,
    spectrum: Tensor | Sequence[float] | None = None,
    path: ProbabilityPath = LINEAR,
    within: float = 0.0,
) -> PredictedStages:
    """The stages to expect of `points` points, from their spectrum or as `dims` unit Gaussians.

    Give exactly one of `dims` (isotropic, unit variance: the paper's Fig 3) and `spectrum`
    (covariance eigenvalues, non-negative). `within` is the variance of a point by itself, where
    points are Gaussians; then this is an estimate, no bound, and a landmark of 1 is not reached.
    A single point has a spectrum of zeros and log 1 = 0 nats to know: both landmarks are 0.
    """
    if not points >= 1:
        raise InputError(f"stages are those of at least 1 point, got {points:g}")
    if (dims is None) == (spectrum is None):
        raise InputError("give either dims or spectrum, one of the two")
    values = (
        torch.ones(dims, dtype=torch.float64)
        if dims is not None
        else torch.as_tensor(spectrum, dtype=torch.float64).flatten()
    )
    if dims is not None and dims < 1:
        raise InputError(f"dims counts dimensions and is at least 1, got {dims}")
    if not (values.numel() and values.isfinite().all() and (values >= 0).all()):
        raise InputError("a covariance spectrum is finite and non-negative, one value at least")
    if (points > 1) != bool(values.sum() > 0):
        told = "several points" if points > 1 else "a single point"
        spread = "not all zero" if points > 1 else "all zero: it does not vary"
        raise InputError(f"the covariance spectrum of {told} is {spread}")
    if not 0 <= within < float("inf"):
        raise InputError(f"the variance within points is finite and not negative, got {within:g}")
    return PredictedStages(float(points), values, path, within)
