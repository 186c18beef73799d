"""All times of pairs whose data is not an atom: what the oracle makes of points it does not know.

As for known pairs, two rows of inner products give the posterior of x_t = α x_h + σ ε at every t,

    l_j = log w_j + r ⟨ε, x_j⟩ + r² (⟨x_h, x_j⟩ − ½ ‖x_j‖²),        r = α/σ,

here in float64, since no own atom stands out. Its mean is one more product at each time, over the
atoms that still have weight: all of them in navigation, a few afterwards.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from floracle.core.paths import ProbabilityPath
from floracle.oracle.class_points import ClassPoints
from floracle.oracle.posterior import exp_or_zero

UNHEARD = 1e-9
"""Weights below this are left out of the mean."""
ROWS, ROW_BYTES = 1024, 2**29
"""Atoms that are read at a time, as long as they take no more than these bytes in float64."""
BYTES_OF_ATOM, COPIES = 64, 8
"""Bytes that a pair takes for every atom, its products and weights by time, and how many float64
copies of its point and noise there are."""


@dataclass(frozen=True)
class HeldOutPairs:
    """Curves of p pairs at T times; float64 [p, T]."""

    gap: Tensor
    """‖u* − (data − noise)‖²: the oracle's own error on a point outside its set."""
    max_weight: Tensor
    """The largest weight."""
    entropy: Tensor
    """−Σ γ log γ in nats."""


def held_out_pair_bytes(members: ClassPoints) -> int:
    """Bytes that a pair takes while it is followed."""
    return BYTES_OF_ATOM * len(members) + COPIES * 8 * members.dims


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
    pieces = zip(points.split(size), noise.split(size), strict=True)
    curves = [_curves(members, path, *piece, times) for piece in pieces]
    return HeldOutPairs(*torch.cat(curves, 1))


def _curves(
    members: ClassPoints, path: ProbabilityPath, points: Tensor, noise: Tensor, times: Tensor
) -> Tensor:
    """Gap, largest weight and entropy of all pairs, float64 [3, p, T]."""
    device = members.centre.device
    centred = points.flatten(1).to(device, torch.float64) - members.centre
    working = (centred + members.centre - members.offset).float()
    along, pull = _rows(members, centred, noise.flatten(1).to(device, torch.float64))
    c = path.coefficients(times)
    amplification = c.amplification.tolist()
    curves = []
    for r, a in zip(c.signal_to_noise.tolist(), amplification, strict=True):
        logits = r * pull + r * r * along + members.log_weights
        weights = exp_or_zero(logits.sub_(logits.amax(1, keepdim=True)))
        weights /= weights.sum(1, keepdim=True)
        entropy = -torch.special.xlogy(weights, weights).sum(1)
        missed = (_mean(members, weights) - working).square_().sum(1, dtype=torch.float64)
        curves.append(torch.stack([a * a * missed, weights.amax(1), entropy]))
    return torch.stack(curves, 2).cpu()


def _block_rows(members: ClassPoints) -> int:
    return max(1, min(ROWS, ROW_BYTES // (8 * members.dims)))


def _rows(members: ClassPoints, centred: Tensor, noise: Tensor) -> tuple[Tensor, Tensor]:
    """⟨x_h, x_j⟩ − ½‖x_j‖² and ⟨ε, x_j⟩ about the centre, float64 [p, n] each."""
    both = torch.cat([centred, noise])
    products = torch.cat(
        [both @ block.points.double().T for block in members.blocks(_block_rows(members))], 1
    )
    products -= (both @ (members.centre - members.offset))[:, None]
    along, pull = products.chunk(2)
    return along - members.norms / 2, pull


def _mean(members: ClassPoints, weights: Tensor) -> Tensor:
    """Σ γ_j x_j of working points, float32 [p, D], over the atoms that have a weight."""
    mean = torch.zeros(len(weights), members.dims, device=weights.device)
    for block in members.blocks(_block_rows(members)):
        here = weights[:, block.start : block.start + len(block.points)].float()
        heard = (here > UNHEARD).any(0)
        if int(heard.sum()) > len(heard) // 2:
            mean.addmm_(here, block.points)
        elif heard.any():
            mean += here[:, heard] @ block.points[heard]
    return mean
