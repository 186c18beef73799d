"""The figures of mixed sampling: where samples end by the time τ at which the model takes over."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
from matplotlib.figure import Figure
from torch import Tensor

from floracle.analysis.curves import Curve
from floracle.analysis.mixing.field_switching import SwitchResult
from floracle.analysis.mixing.forward_backward import ForwardBackwardResult
from floracle.analysis.trajectories.frequency_bands import HALF_EXPLAINED
from floracle.report.figure import Columns, Drawing, figure_style, picture_sheet
from floracle.report.label_placement import name_curves
from floracle.report.plots import curve_columns, draw_band, even_axis, new_axes, smooth, to_numpy
from floracle.report.style import BLUE, CURVE_COLOURS, DASHED, DOTTED, ORANGE, PAPER, QUIET

HELD_OUT_LEVEL = "held-out points themselves"
CHANCE_TOP = 1.15
"""Least upper end of the axis of shares of the chance level, which is 1."""
SWITCH_AXIS = "τ, where the model takes over"
DISTANCE = "distance / √D"
NEAREST = "to the nearest training point"


class _Line(NamedTuple):
    curve: Curve
    colour: str
    style: Any = "-"


def mix_figures(
    switch: SwitchResult | None,
    resume: ForwardBackwardResult | None,
    pictures: Mapping[str, Tensor],
) -> list[Drawing]:
    """All figures of what was measured; pictures are bytes [n, columns, C, H, W]."""
    drawings = []
    with figure_style():
        if switch is not None:
            drawings += [_draw_switch(switch, resume), _draw_copies(switch, "switch")]
            if "switch" in pictures:
                drawings.append(_draw_switch_pictures(switch, pictures["switch"]))
        if resume is not None:
            drawings += [_draw_resume(resume), _draw_resume_nearest(resume)]
            if bool(resume.copy_share()[0].any()):
                drawings.append(_draw_copies(resume, "resume"))
            if "resume" in pictures:
                drawings.append(_draw_resume_pictures(resume, pictures["resume"]))
    return drawings


def _draw_switch(switch: SwitchResult, resume: ForwardBackwardResult | None) -> Drawing:
    lines = {
        NEAREST: _Line(switch.distance(), BLUE),
        "to the oracle's own sample": _Line(switch.distance_to_oracle(), ORANGE),
    }
    level = None if resume is None else _held_out_level(resume)
    figure, columns = _draw_by_switch_time(switch.switch_times, lines, DISTANCE, level=level)
    return Drawing(
        "switch",
        "Distance of samples from training points, by the time τ at which the model takes over"
        " from the oracle",
        figure,
        columns,
        "How far samples are from the nearest training point of their class, and from the sample"
        " of the oracle alone. Bands are two standard errors wide on either side.",
        "switch",
    )


def _draw_resume(resume: ForwardBackwardResult) -> Drawing:
    """How much of held-out points is kept by frequency band, and how much the noise decides."""
    lines = {}
    for band, (name, colour) in enumerate(zip(resume.bands, CURVE_COLOURS, strict=False)):
        lines[f"apart, {name}"] = _Line(resume.change(band), colour)
        lines[f"spread, {name}"] = _Line(resume.spread(band), colour, DASHED)
    label = "relative to chance"
    figure, columns = _draw_by_switch_time(resume.switch_times, lines, label, least_top=CHANCE_TOP)
    halves = []
    for band, (name, colour) in enumerate(zip(resume.bands, CURVE_COLOURS, strict=False)):
        mark = resume.half_change(band)
        halves.append(f"{name} from τ = {mark}")
        if mark.value is not None:
            dot: Any = {"ms": 6, "mfc": colour, "mec": PAPER, "mew": 0.8, "zorder": 4}
            figure.axes[0].plot([mark.value], [HALF_EXPLAINED], "o", **dot)
    return Drawing(
        "resume",
        f"What is kept of held-out points by τ; half of it: {', '.join(halves)}",
        figure,
        columns,
        "Solid (apart): the squared distance of samples from the held-out point they started from,"
        " relative to that of two points of the class. Dashed (spread): how much the samples of"
        " one held-out point vary with the noise, relative to the variance of the class. Dots:"
        " half is kept.",
        "resume",
    )


def _draw_resume_nearest(resume: ForwardBackwardResult) -> Drawing:
    lines, level = {NEAREST: _Line(resume.distance(), BLUE)}, _held_out_level(resume)
    figure, columns = _draw_by_switch_time(resume.switch_times, lines, DISTANCE, level=level)
    return Drawing(
        "resume-nearest",
        "Distance from training points of samples that start from noised held-out points at τ",
        figure,
        columns,
        "How far these samples are from the nearest training point of their class; dotted, how far"
        " the held-out points themselves are.",
        "resume",
    )


def _draw_copies(result: SwitchResult | ForwardBackwardResult, kind: str) -> Drawing:
    """The share of copies by τ, with its exact interval."""
    figure, ax = new_axes(height=2.6)
    even_axis(ax, SWITCH_AXIS)
    share, low, high = (to_numpy(bound) for bound in result.copy_share())
    taus = to_numpy(result.switch_times)
    ax.fill_between(taus, low, high, color=BLUE, alpha=0.22, lw=0)
    # Shares of 0 and 1 lie on the edge of the axes, so dots are not clipped.
    ax.plot(taus, share, "-o", ms=2.6, mew=0, color=BLUE, clip_on=False)
    ax.set_ylim(0, 1)
    ax.set_ylabel("share of copies")
    columns: Columns = {"tau": taus.tolist(), "copied": share.tolist()}
    columns |= {"low": low.tolist(), "high": high.tolist()}
    caption = (
        "The share of samples that are copies: less than a third as far from the nearest training"
        " point as from the second nearest. Exact 95 % intervals."
    )
    alt = "Share of samples that are copies, by τ"
    return Drawing(f"{kind}-copies", alt, figure, columns, caption, kind)


def _draw_switch_pictures(switch: SwitchResult, pictures: Tensor) -> Drawing:
    return picture_sheet(
        "switch-pictures",
        pictures,
        [f"{tau:.3g}" for tau in switch.switch_times.tolist()],
        alt="Samples for which the model takes over from the oracle at τ, a row for each seed",
        caption="A row for each seed; above each column the time τ at which the model takes over"
        " from the oracle. At 1 the oracle is alone and its samples are training points.",
        section="switch_pictures",
    )


def _draw_resume_pictures(resume: ForwardBackwardResult, pictures: Tensor) -> Drawing:
    return picture_sheet(
        "resume-pictures",
        pictures,
        ["held-out", *(f"{tau:.3g}" for tau in resume.switch_times.tolist())],
        alt="Samples that start from noised held-out points at τ, a row for each point",
        caption="Held-out points in the first column, then the samples that the model generates"
        " from a mixture of the point and one noise at τ.",
        section="resume_pictures",
    )


def _held_out_level(resume: ForwardBackwardResult) -> float:
    """The mean distance of held-out points from the nearest training point, per √D."""
    return float(resume.held_out_distance.mean()) / resume.dims**0.5


def _draw_by_switch_time(
    taus: Tensor,
    lines: Mapping[str, _Line],
    label: str,
    *,
    level: float | None = None,
    least_top: float = 0.0,
) -> tuple[Figure, Columns]:
    """Named curves by τ, and their columns; the axis reaches up to `least_top` at least."""
    figure, ax = new_axes()
    even_axis(ax, SWITCH_AXIS)
    highest = max(float((line.curve.mean + 2 * line.curve.error).max()) for line in lines.values())
    ax.set_ylim(0, max(least_top, 1.08 * max(highest, level or 0.0)) or 1.0)
    points = {
        name: draw_band(ax, taus, line.curve, line.colour, style=line.style)
        for name, line in lines.items()
    }
    colours = [line.colour for line in lines.values()]
    if level is not None:
        ax.axhline(level, color=QUIET, lw=1.0, ls=DOTTED, zorder=1)
        fine, values = smooth(taus, np.full(len(taus), level))
        points[HELD_OUT_LEVEL] = np.stack([fine, values], 1)
        colours.append(QUIET)
    name_curves(ax, points, colours)
    ax.set_ylabel(label)
    return figure, curve_columns(taus, {name: line.curve for name, line in lines.items()}, "tau")
