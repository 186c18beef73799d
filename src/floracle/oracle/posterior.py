"""The posterior over training points at a noisy point, as sums that can be merged.

Given x at time t the posterior weight of point i is γ_i ∝ e^{l_i}, where

    l_i = log w_i − ‖x − α x_i‖² / (2σ²).

Points are read in blocks. Each block leaves its sums relative to its own largest logit, and two
such sums merge by rescaling to the larger of both. Nothing depends on the order or size of blocks
beyond rounding, and the weights sum to 1 by construction.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

NEGLIGIBLE_LOGIT = -43.0
"""Nats below the largest logit at which a weight (2.2e-19) counts as 0. The bound keeps weights,
and their squares, among the normal float32 numbers; others take ten to forty times as long."""
NEGLIGIBLE_WEIGHT = 2.2e-19


def exp_or_zero(relative: Tensor, out: Tensor | None = None) -> Tensor:
    """e^l of logits relative to the largest, 0 where negligible; bounds `relative` in place."""
    weights = torch.exp(relative.clamp_(min=NEGLIGIBLE_LOGIT), out=out)
    return torch.threshold_(weights, NEGLIGIBLE_WEIGHT, 0.0)


@dataclass(frozen=True)
class PosteriorSums:
    """Sums over some points of e^{l − max} times what is named; float64, [b] unless stated."""

    max_logit: Tensor
    """The largest logit, by default of these points."""
    mass: Tensor
    """Of 1."""
    points: Tensor
    """Of the working points, [b, D]."""
    logits: Tensor
    """Of l − max."""
    squares: Tensor
    """Of e^{l − max} itself."""
    norms: Tensor
    """Of ‖x_i − centre‖²."""
    top_logits: Tensor
    """The k largest logits [b, k], largest first."""
    top: Tensor
    """The positions of those points in their class, int64 [b, k]."""

    @property
    def entropy(self) -> Tensor:
        """−Σ γ log γ in nats, [b]."""
        return (self.mass.log() - self.logits / self.mass).clamp(min=0)

    @property
    def participation(self) -> Tensor:
        """Σ γ², [b]."""
        return self.squares / self.mass**2

    def top_weights(self, count: int) -> Tensor:
        """The largest posterior weights, [b, count] at most."""
        relative = self.top_logits[:, :count] - self.max_logit[:, None]
        return relative.exp() / self.mass[:, None]

    def of(self, queries: Tensor) -> PosteriorSums:
        """The sums of some of the queries."""
        return PosteriorSums(*(value[queries] for value in vars(self).values()))

    @staticmethod
    def cat(parts: Sequence[PosteriorSums]) -> PosteriorSums:
        """The sums of several sets of queries."""
        columns = zip(*(vars(part).values() for part in parts), strict=True)
        return PosteriorSums(*(torch.cat(values) for values in columns))

    @staticmethod
    def merged(parts: Sequence[PosteriorSums], top_k: int | None = None) -> PosteriorSums:
        """The sums over several sets of points; `top_k` leaders are kept, by default all."""
        if len(parts) == 1:
            return parts[0]
        maxima = torch.stack([part.max_logit for part in parts])
        highest = maxima.amax(0)
        # Bounded, so that a part whose weights vanish gives 0 and not 0 · ∞.
        below = (maxima - highest).clamp(min=-1e300)
        scales = below.exp()
        mass = torch.stack([part.mass for part in parts]) * scales
        # Σ e^{l − M} (l − M) = s Σ e^{l − m} (l − m) + (m − M) s Σ e^{l − m}, with s = e^{m − M}.
        logits = torch.stack([part.logits for part in parts]) * scales + mass * below
        squares = torch.stack([part.squares for part in parts]) * scales.square()
        norms = torch.stack([part.norms for part in parts]) * scales
        points = parts[0].points * scales[0][:, None]
        for part, scale in zip(parts[1:], scales[1:], strict=True):
            points.addcmul_(part.points, scale[:, None])
        top_logits = torch.cat([part.top_logits for part in parts], 1)
        count = top_logits.shape[1]
        best = top_logits.topk(min(top_k or count, count), dim=1)
        top = torch.cat([part.top for part in parts], 1).gather(1, best.indices)
        totals = (mass.sum(0), points, logits.sum(0), squares.sum(0), norms.sum(0))
        return PosteriorSums(highest, *totals, best.values, top)


@dataclass(frozen=True)
class Posterior:
    """The posterior at each of b queries; float64 unless stated."""

    mean: Tensor
    """x̂ = Σ γ_i x_i, [b, *shape]."""
    log_mass: Tensor
    """log Σ w_i exp(−‖x − α x_i‖² / (2σ²)), [b]: log p_t(x) up to −D/2 log(2πσ²)."""
    top_weights: Tensor
    """The largest posterior weights [b, k], largest first."""
    top_rows: Tensor
    """Their row numbers in the data, int64 [b, k]."""
    entropy: Tensor
    """−Σ γ log γ in nats, [b]."""
    participation: Tensor
    """Σ γ², [b]; its inverse is the effective number of training points."""
    missing: Tensor
    """A proven upper bound on the posterior weight of all points left out, [b]; 0 where none
    was."""
    error: Tensor
    """A proven upper bound on the relative velocity error of leaving points out, rounding
    included, [b]; 0 where none was, and the velocity is exact to the contract's 1e-5."""
    touched: Tensor
    """How many points were evaluated over all coordinates, int64 [b]."""

    @staticmethod
    def joined(parts: list[Posterior], indices: list[Tensor]) -> Posterior:
        """One posterior from those of several sets of queries, each with the queries' indices."""
        if len(parts) == 1:
            return parts[0]
        order = torch.cat(indices).argsort()
        count = min(part.top_rows.shape[1] for part in parts)  # classes may have fewer points
        columns = {name: [getattr(part, name) for part in parts] for name in vars(parts[0])}
        for name in ("top_weights", "top_rows"):
            columns[name] = [values[:, :count] for values in columns[name]]
        return Posterior(**{name: torch.cat(values)[order] for name, values in columns.items()})
