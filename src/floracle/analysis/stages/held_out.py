"""Held-out points in the same curves: what the oracle of the training set makes of new data.

On held-out pairs the oracle's loss against (data − noise) equals that on training pairs as long as
the posterior generalises, and stays up where it has collapsed onto training samples.
"""

from __future__ import annotations

import torch
from torch import Tensor

from floracle.analysis.curves import Curve
from floracle.core.point_set import PointSet
from floracle.core.seeds import generator, noise
from floracle.oracle.oracle import Oracle
from floracle.run.budget import memory_budget
from floracle.run.errors import InputError

MOST, LEAST, NUMBERS = 64, 16, 2**22
"""Held-out pairs a class: each costs a product with the data at every time, so at most 64, and
towards 16 where points have so many dimensions that they would hold more than these numbers."""
DRAWN = 8
"""Bytes that a pair takes for every dimension while it is drawn: its point and its noise."""
CURVES = ("gap", "max_weight", "entropy")


def held_out_curves(
    oracle: Oracle, held_out: PointSet, times: Tensor, label: int, *, pairs: int, seed: int
) -> dict[str, Curve]:
    """The oracle's loss, top weight and entropy on held-out pairs of a class, by time."""
    if tuple(held_out.shape) != tuple(oracle.data.shape):
        raise InputError(
            f"held-out points have shape {held_out.shape}, those of the data {oracle.data.shape}"
        )
    rows, weights = held_out.atoms(label)
    if not len(rows):
        raise InputError(f"there are no held-out points of class {label}")
    dims = torch.Size(held_out.shape).numel()
    count = held_out_pairs(pairs, dims)
    drawn = rows[torch.multinomial(weights, count, replacement=True, generator=generator(seed))]
    size = max(1, memory_budget(oracle.memory) // 8 // (DRAWN * dims))
    pieces = []
    for some in torch.arange(count).split(size):
        fresh = noise((some + seed).tolist(), oracle.data.shape)
        points = held_out.take(drawn[some])
        pieces.append(oracle.held_out_pairs(points, fresh, times, label=label))
    values = {name: torch.cat([getattr(piece, name) for piece in pieces]) for name in CURVES}
    return {f"held_out_{name}": Curve.of(curves) for name, curves in values.items()}


def held_out_pairs(pairs: int, dims: int) -> int:
    """How many held-out pairs of a class are measured where `pairs` of the data are."""
    return min(pairs, MOST, max(LEAST, NUMBERS // dims))
