"""Colours in order, for curves that differ by an amount."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from matplotlib.colors import to_hex, to_rgb

COOL = ("#6db1e8", "#1f6fb4", "#0f2f57")
"""From light to dark through the house's blue."""
WARM = ("#f0a35e", "#c9561a", "#6b2408")
"""From light to dark through the house's orange."""
BETWEEN = ("#c9561a", "#8457b8", "#1f6fb4", "#12876a")
"""From the house's orange to its teal."""


def ramp(count: int, through: Sequence[str] = BETWEEN) -> list[str]:
    """So many colours, evenly spaced along a ramp."""
    stops = np.array([to_rgb(colour) for colour in through])
    places = np.linspace(0, len(stops) - 1, count) if count > 1 else np.array([1.0])
    channels = [np.interp(places, np.arange(len(stops)), stops[:, i]) for i in range(3)]
    return [to_hex(colour) for colour in zip(*channels, strict=True)]
