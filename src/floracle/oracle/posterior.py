"""The posterior over atoms at a noisy point, as a summary that can be merged.

Given x at time t the weight of atom i is γ_i ∝ e^{l_i}, where

    l_i = log w_i − ‖x − α x_i‖² / (2σ²).

Blocks of atoms are read one after the other; each leaves its sums relative to its own largest
logit (the peak), and two such `Sums` merge by rescaling to the larger peak. Nothing depends on the
order or size of blocks beyond rounding, and the weights sum to 1 by construction.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

NEGLIGIBLE = -43.0
"""Atoms whose logit is further below the peak have no weight: it would be under 2.2e-19. The bound
keeps exponentials, and their squares, among the normal float32 numbers; others take ten to forty
times as long."""
SMALLEST = 2.2e-19


def exp_or_zero(relative: Tensor, out: Tensor | None = None) -> Tensor:
    """Exponentials of logits relative to the peak (bounded in place), 0 where negligible."""
    weights = torch.exp(relative.clamp_(min=NEGLIGIBLE), out=out)
    return torch.threshold_(weights, SMALLEST, 0.0)


@dataclass(frozen=True)
class PosteriorSums:
    """Sums over some atoms of e^{l − peak} times what is named; float64, [b] unless stated."""

    peak: Tensor
    mass: Tensor
    points: Tensor
    """Of the working points, [b, D]."""
    logits: Tensor
    """Of l − peak."""
    squares: Tensor
    """Of e^{l − peak} itself."""
    norms: Tensor
    """Of ‖x_i − centre‖²."""
    top_logits: Tensor
    """The k largest logits [b, k], largest first."""
    top: Tensor
    """Positions of those atoms within their class, int64 [b, k]."""

    def merge(self, other: PosteriorSums) -> PosteriorSums:
        """The sums over both sets of atoms; all leaders of both are kept."""
        return PosteriorSums.merged([self, other])

    @staticmethod
    def merged(parts: Sequence[PosteriorSums], keep: int | None = None) -> PosteriorSums:
        """The sums over several sets of atoms; all leaders are kept unless told how many."""
        if len(parts) == 1:
            return parts[0]
        peaks = torch.stack([part.peak for part in parts])
        peak = peaks.amax(0)
        apart = (peaks - peak).clamp(min=-1e300)  # so that a vanished side gives 0, not 0 · ∞
        scales = apart.exp()
        mass = torch.stack([part.mass for part in parts]) * scales
        logits = torch.stack([part.logits for part in parts]) * scales + mass * apart
        squares = torch.stack([part.squares for part in parts]) * scales.square()
        norms = torch.stack([part.norms for part in parts]) * scales
        points = parts[0].points * scales[0][:, None]
        for part, scale in zip(parts[1:], scales[1:], strict=True):
            points.addcmul_(part.points, scale[:, None])
        top_logits = torch.cat([part.top_logits for part in parts], 1)
        held = top_logits.shape[1]
        best = top_logits.topk(min(keep or held, held), dim=1)
        top = torch.cat([part.top for part in parts], 1).gather(1, best.indices)
        sums = (mass.sum(0), points, logits.sum(0), squares.sum(0), norms.sum(0))
        return PosteriorSums(peak, *sums, best.values, top)


@dataclass(frozen=True)
class Posterior:
    """The posterior at each of b queries; float64 unless stated."""

    mean: Tensor
    """x̂ = Σ γ_i x_i, [b, *shape]."""
    log_mass: Tensor
    """log Σ w_i exp(−‖x − α x_i‖² / (2σ²)), [b]: log p_t(x) up to −D/2 log(2πσ²)."""
    top_weights: Tensor
    """The largest weights [b, k], largest first."""
    top_rows: Tensor
    """Their row numbers in the data, int64 [b, k]."""
    entropy: Tensor
    """−Σ γ log γ in nats, [b]."""
    participation: Tensor
    """Σ γ², [b]; its inverse is the effective number of votes."""
    missing: Tensor
    """A proven upper bound on the mass not looked at, [b]; 0 where all atoms were read."""
    error: Tensor
    """A proven upper bound on the relative velocity error of leaving atoms out, rounding included,
    [b]; 0 where all atoms were read, which is exact to the contract's 1e-5."""
    touched: Tensor
    """How many atoms were looked at in full, int64 [b]."""

    @staticmethod
    def joined(parts: list[Posterior], places: list[Tensor]) -> Posterior:
        """One posterior from those of several groups of queries, each with its places."""
        if len(parts) == 1:
            return parts[0]
        order = torch.cat(places).argsort()
        columns = min(part.top_rows.shape[1] for part in parts)

        def column(name: str) -> Tensor:
            values = [getattr(part, name) for part in parts]
            if name in {"top_weights", "top_rows"}:
                values = [value[:, :columns] for value in values]
            return torch.cat(values)[order]

        fields = ("mean", "log_mass", "top_weights", "top_rows", "entropy", "participation")
        return Posterior(
            **{name: column(name) for name in (*fields, "missing", "error", "touched")},
        )
