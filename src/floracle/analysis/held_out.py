"""Held-out points in the same curves: what the oracle of the training set makes of new data.

On held-out pairs the oracle's loss against (data − noise) equals that on training pairs as long as
the posterior generalises, and stays up where it has collapsed onto training samples.
"""

from __future__ import annotations

import torch
from torch import Tensor

from floracle.core.seeds import generator, noise
from floracle.core.source import Source
from floracle.oracle.oracle import Oracle
from floracle.run.errors import Mistake

from .curves import Curve

MOST, LEAST, NUMBERS = 64, 16, 2**22
"""Held-out pairs a class: each costs a product with the data at every time, so at most 64, and
towards 16 where points have so many dimensions that they would hold more than these numbers."""
CURVES = ("gap", "top", "entropy")


def held_out_curves(
    oracle: Oracle, held_out: Source, times: Tensor, label: int, *, pairs: int, seed: int
) -> dict[str, Curve]:
    """The oracle's loss, top weight and entropy on held-out pairs of a class, by time."""
    if tuple(held_out.shape) != tuple(oracle.data.shape):
        raise Mistake(
            f"held-out points have shape {held_out.shape}, those of the data {oracle.data.shape}"
        )
    rows, weights = held_out.atoms(label)
    if not len(rows):
        raise Mistake(f"there are no held-out points of class {label}")
    fitting = NUMBERS // torch.Size(held_out.shape).numel()
    count = min(pairs, MOST, max(LEAST, fitting))
    drawn = torch.multinomial(weights, count, replacement=True, generator=generator(seed))
    fresh = noise(range(seed, seed + count), oracle.data.shape)
    found = oracle.strangers(held_out.take(rows[drawn]), fresh, times, label=label)
    return {f"held_out_{name}": Curve.of(getattr(found, name)) for name in CURVES}
