"""The oracle written down as in the paper, in float64 and without any economy.

    u*(x, t) = A(t) Σ_i γ_i x_i + B(t) x        A = α' − α σ'/σ,  B = σ'/σ
    γ_i      = softmax_i( log w_i − ‖x − α x_i‖² / (2σ²) )           (Theorem 2.1, Eq. 6 and 7)

Everything faster in this package is measured against these lines.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from floracle.core.paths import LINEAR, Path, expand


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
    points: Tensor, x: Tensor, t: Tensor, *, weights: Tensor | None = None, path: Path = LINEAR
) -> Reference:
    """The oracle at queries x [b, D], times t [b], for points [N, D] of the given weights [N]."""
    points, x, c = points.double(), x.double(), path.coefficients(t)
    if weights is None:
        weights = torch.full((len(points),), 1 / len(points), dtype=torch.float64)
    logits = weights.log() - squared_distances(x, points, c.alpha) / (2 * c.sigma**2)[:, None]
    posterior = logits.softmax(dim=1)
    mean = posterior @ points
    velocity = expand(c.d_alpha, x) * mean + expand(c.d_sigma / c.sigma, x) * (
        x - c.alpha[:, None] * mean
    )
    return Reference(velocity, mean, posterior, logits.logsumexp(dim=1))


def squared_distances(x: Tensor, points: Tensor, alpha: Tensor) -> Tensor:
    """‖x − α x_i‖² [b, N], from the differences themselves."""
    rows = [(query - a * points).square().sum(1) for query, a in zip(x, alpha, strict=True)]
    return torch.stack(rows)
