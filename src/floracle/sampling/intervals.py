"""Guidance intervals in other projects' clocks, as intervals of t.

Most of them run from data to noise, so that their smaller end is our later one: EDM's (.34, 1.02]
is [.495, .746] here. Whether an end belongs to it makes no difference but on a grid that has this
very time; here both do.
"""

from __future__ import annotations

import math

from floracle.core.time_conventions import time_convention
from floracle.run.errors import InputError


def guidance_interval(clock: str, low: float, high: float) -> tuple[float, float]:
    """The interval of t that a clock reads as low to high.

    `clock` is t, s, sigma (SD3, Flux: 1 − t), timestep, edm ((1 − t) / t, beside data of
    deviation 1), edm2 (half of that), logsnr, alphabar or dit.
    """
    if math.isnan(low) or math.isnan(high) or not low < high:
        raise InputError(f"an interval has a lower end and a higher one, got {low:g} to {high:g}")
    try:
        known = time_convention(clock)
        first, last = sorted((known.float_to_t(low), known.float_to_t(high)))
    except ValueError as error:
        raise InputError(f"guidance interval: {error}") from error
    return first, last
