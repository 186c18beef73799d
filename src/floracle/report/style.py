"""Colours, sizes and the matplotlib style of all figures.

Readers with colour blindness can tell the colours apart (after Okabe & Ito). Each colour is a
named variable of the page, so that an inline SVG follows the reader's light or dark setting.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.colors import to_hex, to_rgb

INK = "#1c2128"
QUIET = "#667080"
RULE = "#d4d9e1"
PAPER = "#fefefe"
NAVIGATION = "#e9f1fb"
REFINEMENT = "#fdf2e6"
BLUE = "#1f6fb4"
ORANGE = "#c9561a"
TEAL = "#12876a"
VIOLET = "#8457b8"
PAGE_VARIABLES = {
    INK: "ink",
    QUIET: "quiet",
    RULE: "rule",
    PAPER: "paper",
    NAVIGATION: "navigation",
    REFINEMENT: "refinement",
    BLUE: "blue",
    ORANGE: "orange",
    TEAL: "teal",
    VIOLET: "violet",
}
"""The CSS variable of the page (style.css) that stands for each colour of the figures."""

CURVE_COLOURS = (BLUE, ORANGE, TEAL, VIOLET, INK, QUIET)
"""Of curves, in their order."""
COOL = ("#6db1e8", BLUE, "#0f2f57")
WARM = ("#f0a35e", ORANGE, "#6b2408")
SPECTRAL = (ORANGE, VIOLET, BLUE, TEAL)
"""Stops of ramps, for curves that differ by an amount."""

LANDMARK_DASHES = (0, (4, 2))
DASHED, DOTTED = (0, (4, 1.6)), (0, (1, 1.6))
THRESHOLD_DOTS = (0, (1, 2))

WIDTH, HEIGHT = 5.3, 3.35
"""Of a figure, in inches: two stand beside each other on a page."""
PIXELS_PER_INCH = 180  # 954 pixels across a figure of WIDTH

STYLE: Any = {
    "font.family": "DejaVu Sans",
    "font.size": 9,
    "axes.titlesize": 9,
    "axes.labelsize": 9,
    "axes.edgecolor": QUIET,
    "axes.labelcolor": QUIET,
    "axes.linewidth": 0.7,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.facecolor": "none",
    "figure.facecolor": PAPER,
    "savefig.facecolor": PAPER,
    "xtick.color": QUIET,
    "ytick.color": QUIET,
    "xtick.labelsize": 8.5,
    "ytick.labelsize": 8.5,
    "xtick.major.width": 0.7,
    "ytick.major.width": 0.7,
    "text.color": INK,
    "lines.linewidth": 1.8,
    "lines.solid_capstyle": "round",
    # Text stays text in an SVG: it can be searched, and takes the font of the page.
    "svg.fonttype": "none",
    "svg.hashsalt": "floracle",
    "legend.frameon": False,
}


def curve_colours(count: int) -> list[str]:
    """A colour for each of `count` curves; beyond six they repeat."""
    return [CURVE_COLOURS[i % len(CURVE_COLOURS)] for i in range(count)]


def colour_ramp(count: int, stops: Sequence[str] = SPECTRAL) -> list[str]:
    """`count` colours, evenly spaced along a ramp through the stops."""
    channels = np.array([to_rgb(colour) for colour in stops])  # [stops, 3]
    # Linear in each channel of sRGB. A single curve takes the second stop, the plain colour.
    positions = np.linspace(0, len(stops) - 1, count) if count > 1 else np.array([1.0])
    rgb = [np.interp(positions, np.arange(len(stops)), channels[:, i]) for i in range(3)]
    return [to_hex(colour) for colour in zip(*rgb, strict=True)]
