"""Posterior means on the linear path in the precision of training, for the targets of networks.

The logits are those of the scan at α = t, σ = 1 − t, with z_i = x_i − m, y = x − t m and
g = t / (1 − t)²,

    l_i = log w_i + g ⟨y, z_i⟩ − ½ g t ‖z_i‖²,        x̂ = Σ_i softmax_i(l) x_i.

They are not refined in float64: where several points have weight the velocity is within 1e-4 of
the oracle's, far below the noise of a gradient.
"""

from __future__ import annotations

import torch
from torch import Tensor

from floracle.run.errors import InputError

from .class_points import ClassPoints

MAX_PRODUCTS = 2**25
"""Products ⟨y, z_i⟩ in memory at once."""
STREAMED_BLOCK_BYTES = 2**28
"""Bytes of a block of float32 points of a class that is not resident."""


def class_means(members: ClassPoints, x: Tensor, t: Tensor) -> Tensor:
    """x̂ over a class given x [p, D] at times t [p]: [p, D] in the type of the products."""
    dtype = members.precision
    gain = t / (1 - t).square()  # g [p]
    centred = (x.double() - t[:, None] * members.centre).to(dtype)  # y [p, D]
    scaled, half = centred * gain[:, None].to(dtype), (gain * t / 2).to(dtype)
    norms, log_weights = members.norms.to(dtype), members.log_weights.to(dtype)
    max_logit, mass, total = None, None, None
    for block in members.blocks(_block_rows(members, len(x))):
        points = block.points.to(dtype)  # [n, D]
        rows = slice(block.start, block.start + len(points))
        logits = torch.addmm(log_weights[None, rows], scaled, points.T)  # l [p, n]
        logits.addcmul_(half[:, None], norms[None, rows], value=-1)
        block_max = logits.amax(1)
        highest = block_max if max_logit is None else torch.maximum(max_logit, block_max)
        weights = logits.sub_(highest[:, None]).exp_()
        if max_logit is None or mass is None or total is None:
            mass, total = weights.sum(1), weights @ points
        else:  # the sums so far, relative to the higher maximum
            scale = (max_logit - highest).exp()
            mass = mass * scale + weights.sum(1)
            total = total * scale[:, None] + weights @ points
        max_logit = highest
    if mass is None or total is None:
        raise InputError(f"class {members.label} has no points to average over")
    return total / mass[:, None] + members.offset.to(dtype)


def _block_rows(members: ClassPoints, pairs: int) -> int:
    rows = MAX_PRODUCTS // pairs
    if members.points is None:
        rows = min(rows, STREAMED_BLOCK_BYTES // (4 * members.dims))
    return max(1, rows)


def bank_means(
    points: Tensor,
    log_weights: Tensor,
    x: Tensor,
    t: Tensor,
    *,
    own: Tensor,
    own_log_weights: Tensor,
    own_in_bank: Tensor,
) -> Tensor:
    """x̂ [p, D] over a bank of points [n, D] that holds each pair's own point.

    A pair whose own point [p, D] is not in the bank (bool [p]) has it in place of the last one.
    All are of the type of x [p, D]; t is [p], log weights are [n] and [p].
    """
    gain, centre = t / (1 - t).square(), points.mean(0)
    y = (x - t[:, None] * centre) * gain[:, None]  # g y [p, D]
    half = (gain * t / 2)[:, None]
    logits = y @ (points - centre).T - half * (points - centre).square().sum(1)  # [p, n]
    logits += log_weights
    own_logits = (y * (own - centre)).sum(1) - half[:, 0] * (own - centre).square().sum(1)  # [p]
    own_logits += own_log_weights
    own_logits = own_logits.masked_fill(own_in_bank, -torch.inf)  # it counts once
    logits[:, -1] = logits[:, -1].masked_fill(~own_in_bank, -torch.inf)
    weights = torch.cat([logits, own_logits[:, None]], 1).softmax(1)  # [p, n + 1]
    return weights[:, :-1] @ points + weights[:, -1:] * own
