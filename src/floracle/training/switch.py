"""The switch: the time from which on the conditional target is used, as little noise is left.

The irreducible loss of conditional targets is Gap(t) = E‖u* − (data − noise)‖², nearly all in
navigation. Trained on the oracle up to s and on conditional targets after it, what is left is

    ∫_{t > s} p m Gap dt = share · ∫ p m Gap dt,

p the density of times and m their weight. A few pairs of a few classes measure it well enough:
training is unbiased for any switch, and this one only has to be near.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from floracle.core.point_set import NO_LABEL, classes, mass
from floracle.core.seeds import noise
from floracle.oracle.oracle import Oracle

from .data_order import generator_for, seed_for
from .times import TimeDensity

MAX_CLASSES, PAIRS_PER_CLASS = 16, 24
LAST_TIME = 0.98  # nearer to the data float32 would measure its own rounding


class MeasuredGap(NamedTuple):
    """The irreducible loss of conditional targets by time, per dimension; float64 [T]."""

    times: Tensor
    gap: Tensor


def measure_gap(oracle: Oracle, *, seed: int, pairs: int = PAIRS_PER_CLASS) -> MeasuredGap:
    """Gap(t), averaged by mass over some classes of the oracle's data."""
    # squares of equal steps: denser towards the noise, where the gap is
    times = LAST_TIME * torch.linspace(0, 1, 200, dtype=torch.float64).square()
    data, gaps, masses = oracle.data, [], []
    labels = [label for label in classes(data) if len(data.atoms(label).rows) > 1] or [NO_LABEL]
    order = torch.randperm(len(labels), generator=generator_for(seed, "look"))[:MAX_CLASSES]
    for k in order.tolist():
        points, source = data.atoms(labels[k]), generator_for(seed, "look", k + 1)
        draws = torch.multinomial(points.weights, pairs, replacement=True, generator=source)
        first = seed_for(seed, "look", (k + 1) * 2**12) % (2**32 - pairs)
        fresh = noise(range(first, first + pairs), data.shape)
        curves = oracle.pairs(points.rows[draws], fresh, times, label=labels[k], mirrored=True)
        # E‖u* − c‖² = A² E‖x̂ − data‖², A the amplification, 1 / (1 − t) on the linear path
        gaps.append((curves.amplification.square() * curves.variance).mean(0))
        masses.append(mass(data, labels[k]))
    dims = torch.Size(data.shape).numel()
    shares = torch.tensor(masses, dtype=torch.float64)
    return MeasuredGap(times, (shares / shares.sum()) @ torch.stack(gaps).double().cpu() / dims)


def remaining_shares(measured: MeasuredGap, times: TimeDensity) -> Tensor:
    """The share of ∫ p m Gap dt beyond each time, falling from 1 to 0; float64 [T]."""
    weighted = measured.gap * times.density(measured.times) * times.weight(measured.times)
    pieces = (weighted[1:] + weighted[:-1]) / 2 * measured.times.diff()  # trapezoids
    beyond = pieces.flip(0).cumsum(0).flip(0)
    total = beyond[0].clamp(min=1e-300)
    return torch.cat([beyond / total, beyond.new_zeros(1)])


def switch_time(measured: MeasuredGap, times: TimeDensity, share: float) -> float:
    """The first time beyond which no more than the share remains, linear between times."""
    remaining = remaining_shares(measured, times)
    index = int((remaining <= share).to(torch.int8).argmax())
    if index == 0:
        return 0.0
    low, high = float(remaining[index]), float(remaining[index - 1])
    fraction = (high - share) / max(high - low, 1e-300)
    start, stop = measured.times[index - 1 : index + 1].tolist()
    return start + fraction * (stop - start)
