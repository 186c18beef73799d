"""All times of pairs whose data is held out: what the oracle makes of points outside its set.

As for forward-path pairs, two rows of inner products give the posterior of x_t = α x_h + σ ε at
every t,

    l_j = log w_j + r ⟨ε, x_j⟩ + r² (⟨x_h, x_j⟩ − ½ ‖x_j‖²),        r = α/σ,

here in float64, since no own point stands out. Its mean is one more product at each time, over the
points that still have weight: all of them in navigation, a few afterwards.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from floracle.core.paths import ProbabilityPath
from floracle.oracle.class_points import ClassPoints
from floracle.oracle.posterior import exp_or_zero

MIN_AVERAGED_WEIGHT = 1e-9
"""Posterior weights below this are left out of the mean."""
BLOCK_ROWS, BLOCK_BYTES = 1024, 2**29
"""Points of a block, as long as they take no more than these bytes in float64."""
POINT_BYTES, COPIES = 64, 8
"""Bytes that a pair takes for every point, its products and weights by time; and how many float64
copies of its point and noise there are."""


@dataclass(frozen=True)
class HeldOutPairs:
    """Curves of p pairs at T times; float64 [p, T]."""

    gap: Tensor
    """‖u* − (data − noise)‖²: the oracle's own error on a point outside its set."""
    max_weight: Tensor
    """The largest posterior weight."""
    entropy: Tensor
    """−Σ γ log γ in nats."""


def held_out_pair_bytes(members: ClassPoints) -> int:
    """Bytes that a pair takes."""
    return POINT_BYTES * len(members) + COPIES * 8 * members.dims


def held_out_pair_curves(
    members: ClassPoints,
    path: ProbabilityPath,
    points: Tensor,
    noise: Tensor,
    times: Tensor,
    *,
    size: int,
) -> HeldOutPairs:
    """The curves of points [p, *shape] with noise [p, *shape] at times [T], `size` at a time."""
    batches = zip(points.split(size), noise.split(size), strict=True)
    parts = [_batch_curves(members, path, *batch, times) for batch in batches]
    names = HeldOutPairs.__dataclass_fields__
    return HeldOutPairs(*(torch.cat([getattr(part, name) for part in parts]) for name in names))


def _batch_curves(
    members: ClassPoints, path: ProbabilityPath, points: Tensor, noise: Tensor, times: Tensor
) -> HeldOutPairs:
    device = members.centre.device
    centred = points.flatten(1).to(device, torch.float64) - members.centre
    working = (centred + members.centre - members.offset).float()
    along, noise_products = _products(members, centred, noise.flatten(1).to(device, torch.float64))
    c = path.coefficients(times)
    gaps, max_weights, entropies = [], [], []
    for r, a in zip(c.signal_to_noise.tolist(), c.amplification.tolist(), strict=True):
        logits = r * noise_products + r * r * along + members.log_weights  # l [p, n]
        weights = exp_or_zero(logits.sub_(logits.amax(1, keepdim=True)))
        weights /= weights.sum(1, keepdim=True)  # γ
        entropies.append(-torch.special.xlogy(weights, weights).sum(1))
        max_weights.append(weights.amax(1))
        # u* − target = A (x̂ − data)
        missed = (_mean(members, weights) - working).square_().sum(1, dtype=torch.float64)
        gaps.append(a * a * missed)
    return HeldOutPairs(*(torch.stack(curve, 1).cpu() for curve in (gaps, max_weights, entropies)))


def _block_rows(members: ClassPoints) -> int:
    return max(1, min(BLOCK_ROWS, BLOCK_BYTES // (8 * members.dims)))


def _products(members: ClassPoints, centred: Tensor, noise: Tensor) -> tuple[Tensor, Tensor]:
    """⟨x_h, x_j⟩ − ½‖x_j‖² and ⟨ε, x_j⟩ about the centre, float64 [p, n] each."""
    factors = torch.cat([centred, noise])
    blocks = members.blocks(_block_rows(members))
    products = torch.cat([factors @ block.points.double().T for block in blocks], 1)
    products -= (factors @ (members.centre - members.offset))[:, None]
    along, noise_products = products.chunk(2)
    return along - members.norms / 2, noise_products


def _mean(members: ClassPoints, weights: Tensor) -> Tensor:
    """Σ γ_j x_j of working points, float32 [p, D], over the points that have a weight."""
    mean = torch.zeros(len(weights), members.dims, device=weights.device)
    for block in members.blocks(_block_rows(members)):
        block_weights = weights[:, block.start : block.start + len(block.points)].float()
        averaged = (block_weights > MIN_AVERAGED_WEIGHT).any(0)
        if int(averaged.sum()) > len(averaged) // 2:  # else copying costs more than it saves
            mean.addmm_(block_weights, block.points)
        elif averaged.any():
            mean += block_weights[:, averaged] @ block.points[averaged]
    return mean
