"""Where navigation ends, predicted from the number of points and their covariance spectrum alone.

A noisy sample at r = α/σ carries at most the information a Gaussian of the same covariance would,

    I_G(t) = ½ Σ_k log(1 + r² λ_k)      (nats),

and identifying one of N points takes log N. So the *centre* of navigation is predicted where
I_G = ½ log N and the *collapse* onto one training point where I_G = log N. Around the collapse the
information of a pair scatters like a Gaussian of variance Σ r²λ / (1 + r²λ), which gives its own
point the weight 1 / (1 + (N − 1) e^{−i}) on average.

Training points that are Gaussians themselves, of variance s² in every coordinate, lose some of
that: λ becomes λ / (1 + r²s²), and the information may never reach log N.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from floracle.core.fields import path_time
from floracle.core.paths import LINEAR, ProbabilityPath
from floracle.run.errors import InputError

MAX_LOG_RATIO = 40.0
"""Roots are sought at log r in [−40, 40]."""
NEWTON_STEPS, BISECTION_STEPS = 100, 64
HERMITE_NODES = 64
MAX_VARIANCE = 1e100  # of a spectrum, and its inverse the least: cubes fit into float64
CLASSES_PER_SEARCH = 16
"""Classes whose landmarks are found together: their spectra should stay in cache."""


@dataclass(frozen=True)
class PredictedStages:
    """The stages to expect of `points` equally likely points with a covariance spectrum."""

    points: float
    """Their number N; e^{H(w)} where weights are unequal."""
    spectrum: Tensor
    """Eigenvalues λ of their covariance, float64 [k]; or [c, k] for c classes at once."""
    path: ProbabilityPath = LINEAR
    within_variance: float = 0.0
    """The variance s² of every training point by itself, in each coordinate; 0 for points."""
    multiplicities: Tensor | None = None
    """How often each eigenvalue counts, float64 [k]; None for once."""

    def information(self, t: Tensor) -> Tensor:
        """I_G at times t [T] in [0, 1), in nats; an upper bound on the true I."""
        return self.information_at_ratio(self._ratio(t))

    def information_at_ratio(self, ratio: Tensor) -> Tensor:
        """I_G = ½ Σ log(1 + r²λ) where α/σ is `ratio` […]."""
        return self._sum(torch.log1p(self._signal(ratio.square()))) / 2

    def variance(self, t: Tensor) -> Tensor:
        """Σ λ / (1 + r²λ) [T]: tr Cov(data | x_t) of a Gaussian with this spectrum."""
        snr = self._ratio(t).square()
        damping = 1 + snr[:, None] * self.within_variance  # 1 + r²s², [T, 1]
        return (self.spectrum / (damping**2 * (1 + self._signal(snr)))).sum(1)

    def self_weight(self, t: Tensor) -> Tensor:
        """The expected weight of a pair's own point at times t [T]."""
        signal = self._signal(self._ratio(t).square())
        deviation = (signal / (1 + signal)).sum(1).sqrt()  # of a pair's information i, [T]
        # E 1 / (1 + (N − 1) e^{−i}) for i ~ N(I_G, deviation²), by Gauss-Hermite quadrature
        nodes, weights = np.polynomial.hermite_e.hermegauss(HERMITE_NODES)
        nats = self.information(t)[:, None] + deviation[:, None] * torch.from_numpy(nodes)
        weight = torch.sigmoid(nats - math.log(max(self.points - 1, 1e-300)))
        return weight @ torch.from_numpy(weights / weights.sum())

    def time_of(self, information: float) -> float:
        """The time at which I_G reaches so many nats."""
        return float(self.times_of(torch.tensor([information], dtype=torch.float64))[0])

    def times_of(self, information: Tensor) -> Tensor:
        """The times […] at which I_G reaches these many nats […]."""
        find = self._bisect_log_ratio if self.within_variance else self._newton_log_ratio
        return self.times_of_ratio(torch.where(information > 0, find(information).exp(), 0.0))

    def _newton_log_ratio(self, information: Tensor) -> Tensor:
        """Log r […] where I_G is so large: convex in log r, so Newton descends onto the root."""
        log_ratio = torch.full_like(information, MAX_LOG_RATIO)
        for _ in range(NEWTON_STEPS):
            signal = self._signal((2 * log_ratio).exp())
            excess = self._sum(torch.log1p(signal)) / 2 - information
            # d I_G / d log r = Σ r²λ / (1 + r²λ)
            step = excess / self._sum(signal / (1 + signal)).clamp(min=1e-300)
            log_ratio = (log_ratio - step).clamp(-MAX_LOG_RATIO, MAX_LOG_RATIO)
            if (step.abs() <= 1e-15 * log_ratio.abs().clamp(min=1e-2)).all():
                break
        return log_ratio

    def _bisect_log_ratio(self, information: Tensor) -> Tensor:
        """The same where the variance within points lets I_G level off."""
        low, high = (torch.full_like(information, end) for end in (-MAX_LOG_RATIO, MAX_LOG_RATIO))
        middle = (low + high) / 2
        for _ in range(BISECTION_STEPS):
            early = self.information_at_ratio(middle.exp()) < information
            low, high = torch.where(early, middle, low), torch.where(early, high, middle)
            middle = (low + high) / 2
        return middle

    def times_of_ratio(self, ratio: Tensor) -> Tensor:
        """The times [T] at which α/σ is `ratio` [T]."""
        return path_time(self.path, ratio / (1 + ratio))

    @property
    def centre(self) -> float:
        """The time at which half of log N is reached."""
        return self._landmarks[0]

    @property
    def collapse(self) -> float:
        """The time at which log N is reached."""
        return self._landmarks[1]

    @cached_property
    def _landmarks(self) -> tuple[float, float]:
        nats = math.log(self.points)
        levels = torch.tensor([nats / 2, nats], dtype=torch.float64)
        centre, collapse = self.times_of(levels).tolist()
        return centre, collapse

    def what_if(self, points: Sequence[float], scales: Sequence[float]) -> list[dict[str, float]]:
        """Landmarks for other numbers of points and for `scales` times as many dimensions.

        More dimensions means the same spectrum that many times over, as a larger image of the same
        kind would have. So I_G is multiplied by the scale, and log N / scale is reached instead.
        """
        cells = [(count, scale) for scale in scales for count in points]
        nats = torch.tensor([math.log(count) / scale for count, scale in cells]).double()
        centres, collapses = self.times_of(torch.stack([nats / 2, nats])).tolist()
        return [
            {"points": count, "scale": scale, "centre": centre, "collapse": collapse}
            for (count, scale), centre, collapse in zip(cells, centres, collapses, strict=True)
        ]

    def _sum(self, values: Tensor) -> Tensor:
        """Over eigenvalues [..., k], each as often as it counts."""
        if self.multiplicities is None:
            return values.sum(-1)
        return values @ self.multiplicities

    def _signal(self, snr: Tensor) -> Tensor:
        """r²λ / (1 + r²s²) […, k] at r² […]."""
        return snr[..., None] * self.spectrum / (1 + snr[..., None] * self.within_variance)

    def _ratio(self, t: Tensor) -> Tensor:
        """R = α/σ at times t."""
        c = self.path.coefficients(t)
        return c.signal_to_noise


def predict(
    points: float,
    *,
    dims: int | None = None,
    spectrum: Tensor | Sequence[float] | None = None,
    path: ProbabilityPath = LINEAR,
    within_variance: float = 0.0,
) -> PredictedStages:
    """The stages to expect of a set of points.

    Parameters
    ----------
    points
        Their number, at least 1. A single point has a spectrum of zeros and log 1 = 0 nats: both
        landmarks are 0.
    dims
        Dimensions of isotropic points of unit variance (the paper's Fig. 3). Give exactly one of
        `dims` and `spectrum`.
    spectrum
        Covariance eigenvalues, non-negative.
    path
        The path on which times are those of r = α/σ.
    within_variance
        The variance of a point by itself, where points are Gaussians. Then the result is an
        estimate, no bound, and a landmark of 1 is not reached.

    Raises
    ------
    InputError
        If these contradict each other or are out of range.
    """
    if not points >= 1:
        raise InputError(f"stages are those of at least 1 point, got {points:g}")
    if (dims is None) == (spectrum is None):
        raise InputError("give either dims or spectrum, one of the two")
    if dims is not None and dims < 1:
        raise InputError(f"dims counts dimensions and is at least 1, got {dims}")
    if dims is not None:
        values = torch.ones(dims, dtype=torch.float64)
    else:
        values = torch.as_tensor(spectrum, dtype=torch.float64).flatten()
    if not (values.numel() and values.isfinite().all() and (values >= 0).all()):
        raise InputError("a covariance spectrum is finite and non-negative, one value at least")
    if not values.sum() < MAX_VARIANCE or 0 < values.max() < 1 / MAX_VARIANCE:
        raise InputError(
            f"a variance of {float(values.max()):.3g} is beyond 1e-100 ... 1e100; give"
            " the spectrum in other units"
        )
    if (points > 1) != bool(values.sum() > 0):
        subject = "several points" if points > 1 else "a single point"
        fact = "not all zero" if points > 1 else "all zero: it does not vary"
        raise InputError(f"the covariance spectrum of {subject} is {fact}")
    if not 0 <= within_variance < float("inf"):
        raise InputError(
            f"the variance within points is finite and not negative, got {within_variance:g}"
        )
    return PredictedStages(float(points), values, path, within_variance)


def predict_landmarks(predicted: Sequence[PredictedStages]) -> list[tuple[float, float]]:
    """The predicted centre and collapse of every class, found for several classes at a time."""
    times = []
    for start in range(0, len(predicted), CLASSES_PER_SEARCH):
        times += _landmarks_of_batch(predicted[start : start + CLASSES_PER_SEARCH])
    return times


def _landmarks_of_batch(predicted: Sequence[PredictedStages]) -> list[tuple[float, float]]:
    if any(one.within_variance or one.multiplicities is not None for one in predicted):
        return [(one.centre, one.collapse) for one in predicted]
    nats = torch.tensor([math.log(one.points) for one in predicted], dtype=torch.float64)
    batch = stack_spectra(predicted)
    centres, collapses = batch.times_of(torch.stack([nats / 2, nats])).tolist()
    return list(zip(centres, collapses, strict=True))


def stack_spectra(predicted: Sequence[PredictedStages]) -> PredictedStages:
    """Several classes as one value: spectra [c, k], filled up with zeros, which add log 1 = 0."""
    spectra = pad_sequence([one.spectrum for one in predicted], batch_first=True)
    return replace(predicted[0], spectrum=spectra)


def entropy_nats(weights: Tensor) -> float:
    """H(w) = −Σ w log w of positive weights [n]: the information that identifies a point."""
    return float(-(weights * weights.log()).sum())


def effective_points(nats: float) -> float:
    """e^H: the number of equally likely points with an entropy of H nats."""
    return math.exp(nats)
