"""From which time on the conditional target will do: where little of its noise is left.

The residual variance of conditional targets is Gap(t) = E‖u* − (data − noise)‖², which is all in
navigation. Trained on the oracle up to s and on conditional targets after it, what is left is

    ∫_{t > s} p m Gap dt = share · ∫ p m Gap dt,

p the density of times and m their weight. A few pairs of a few classes measure it well enough:
any switch is unbiased, and this one only has to be near.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from floracle.core.point_set import NO_LABEL, classes, mass
from floracle.core.seeds import noise
from floracle.oracle.oracle import Oracle

from .data_order import drawing, seed_for
from .times import TimeDensity

CLASSES, PAIRS = 16, 24
"""How many classes are looked at, and pairs of each."""
LAST = 0.98
"""Where the look ends: near the data float32 would measure its own rounding."""


class MeasuredGap(NamedTuple):
    """The residual variance of conditional targets by time, per dimension; float64 [T]."""

    times: Tensor
    gap: Tensor


def look_times(count: int = 200) -> Tensor:
    """Times in [0, LAST], denser towards the noise, float64 [count]."""
    return LAST * torch.linspace(0, 1, count, dtype=torch.float64).square()


def measured_gap(oracle: Oracle, *, seed: int, pairs: int = PAIRS) -> MeasuredGap:
    """Gap by time, averaged by mass over some classes of the oracle's data."""
    data, times, gaps, masses = oracle.data, look_times(), [], []
    known = [label for label in classes(data) if len(data.atoms(label).rows) > 1] or [NO_LABEL]
    order = torch.randperm(len(known), generator=drawing(seed, "look"))[:CLASSES]
    for place in order.tolist():
        atoms = data.atoms(known[place])
        source = drawing(seed, "look", place + 1)
        drawn = torch.multinomial(atoms.weights, pairs, replacement=True, generator=source)
        first = seed_for(seed, "look", (place + 1) * 2**12) % (2**32 - pairs)
        fresh = noise(range(first, first + pairs), data.shape)
        rows = atoms.rows[drawn]
        found = oracle.pairs(rows, fresh, times, label=known[place], mirrored=True)
        gaps.append((found.amplification.square() * found.variance).mean(0))
        masses.append(mass(data, known[place]))
    dims = torch.Size(data.shape).numel()
    shares = torch.tensor(masses, dtype=torch.float64)
    return MeasuredGap(times, (shares / shares.sum()) @ torch.stack(gaps).double().cpu() / dims)


def left_after(found: MeasuredGap, times: TimeDensity) -> Tensor:
    """The share of the residual variance beyond each time, falling from 1 to 0; float64 [T]."""
    height = found.gap * times.density(found.times) * times.weight(found.times)
    pieces = (height[1:] + height[:-1]) / 2 * found.times.diff()
    beyond = pieces.flip(0).cumsum(0).flip(0)
    whole = beyond[0].clamp(min=1e-300)
    return torch.cat([beyond / whole, beyond.new_zeros(1)])


def switch_time(found: MeasuredGap, times: TimeDensity, share: float) -> float:
    """The first time beyond which no more than the share is left."""
    left = left_after(found, times)
    place = int((left <= share).to(torch.int8).argmax())
    if place == 0:
        return 0.0
    low, high = float(left[place]), float(left[place - 1])
    part = (high - share) / max(high - low, 1e-300)
    start, stop = found.times[place - 1 : place + 1].tolist()
    return start + part * (stop - start)
