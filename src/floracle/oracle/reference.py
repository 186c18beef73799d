"""The oracle written down as in the paper, in float64 and without any economy.

    u*(x, t) = A(t) Σ_i γ_i x_i + B(t) x        A = α' − α σ'/σ,  B = σ'/σ
    γ_i      = softmax_i( log w_i − ‖x − α x_i‖² / (2σ²) )           (Theorem 2.1, Eq. 6 and 7)

Everything faster in this package is measured against these lines. Distances enter relative to the
nearest atom, the only digits of them that the softmax sees: off the forward path and close to the
data they are so large that float64 would lose those.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from floracle.core.paths import LINEAR, ProbabilityPath, expand


class Reference(NamedTuple):
    """What the formula gives at each query; all float64."""

    velocity: Tensor
    """u*, [b, D]."""
    mean: Tensor
    """The posterior mean x̂, [b, D]."""
    posterior: Tensor
    """The weights γ, [b, N]."""
    log_mass: Tensor
    """log Σ_i w_i exp(−‖x − α x_i‖² / (2σ²)), [b]: log p_t(x) up to −D/2 log(2πσ²)."""


def reference(
    points: Tensor,
    x: Tensor,
    t: Tensor,
    *,
    weights: Tensor | None = None,
    path: ProbabilityPath = LINEAR,
) -> Reference:
    """The oracle at queries x [b, D], times t [b], for points [N, D] of the given weights [N]."""
    points, x, c = points.double(), x.double(), path.coefficients(t)
    if weights is None:
        weights = torch.full((len(points),), 1 / len(points), dtype=torch.float64)
    nearest, further = squared_distances(x, points, c.alpha)
    logits = weights.log() - further / (2 * c.sigma**2)[:, None]
    posterior = logits.softmax(dim=1)
    mean = posterior @ points
    velocity = expand(c.d_alpha, x) * mean + expand(c.d_sigma / c.sigma, x) * (
        x - c.alpha[:, None] * mean
    )
    log_mass = logits.logsumexp(dim=1) - nearest / (2 * c.sigma**2)
    return Reference(velocity, mean, posterior, log_mass)


def squared_distances(x: Tensor, points: Tensor, alpha: Tensor) -> tuple[Tensor, Tensor]:
    """‖x − α x_L‖² [b] of the nearest atom L, and how much larger ‖x − α x_i‖² is [b, N]."""
    nearest, further = [], []
    for query, a in zip(x, alpha, strict=True):
        distances = (query - a * points).square().sum(1)
        leader = points[distances.argmin()]
        apart = points - leader
        nearest.append((query - a * leader).square().sum())
        further.append(-2 * a * ((query - a * leader - a * apart / 2) * apart).sum(1))
    return torch.stack(nearest), torch.stack(further)
