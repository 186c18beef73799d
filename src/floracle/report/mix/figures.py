"""The figures of mixed sampling: where samples end by the time τ at which a field takes over."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray
from torch import Tensor

from floracle.analysis.curves import Curve
from floracle.analysis.mixing.field_switching import SwitchResult
from floracle.analysis.mixing.forward_backward import ForwardBackwardResult
from floracle.analysis.trajectories.frequency_bands import HALF_EXPLAINED
from floracle.report.label_placement import name_curves
from floracle.report.loss.figures import COLOURS, DASHED, DOTTED
from floracle.report.plots import BLUE, ORANGE, PAPER, QUIET, STYLE, Drawing, axes, numbers

OWN_LEVEL = "unseen data themselves"
CHANCE = 1.15
"""Where shares of what chance gives end, unless some are larger."""
ACROSS = 6.6
"""Inches that the pictures of one row take."""

Points = NDArray[np.float64]


def mix_drawings(
    switch: SwitchResult | None,
    resume: ForwardBackwardResult | None,
    pictures: Mapping[str, Tensor],
) -> dict[str, Drawing]:
    """All figures of what was measured, by name; pictures are bytes [n, columns, C, H, W]."""
    found = []
    with mpl.rc_context(STYLE):
        if switch is not None:
            found += [switching(switch, resume), copies(switch, "switch")]
            if "switch" in pictures:
                heads = [_tau(tau) for tau in switch.switch_times.tolist()]
                alt = "Where samples end that the oracle leads until τ, a seed a row"
                found.append(sheet("switch-pictures", pictures["switch"], heads, alt))
        if resume is not None:
            found += [settling(resume), finishing(resume)]
            if bool(resume.copy_share()[0].any()):
                found.append(copies(resume, "resume"))
            if "resume" in pictures:
                heads = ["datum", *(_tau(tau) for tau in resume.switch_times.tolist())]
                alt = "Where a field ends that goes on from unseen data at τ, a datum a row"
                found.append(sheet("resume-pictures", pictures["resume"], heads, alt))
    return {drawing.name: drawing for drawing in found}


def switching(switch: SwitchResult, resume: ForwardBackwardResult | None = None) -> Drawing:
    """How far samples end from the nearest training point and from the oracle's own end."""
    curves = {
        "to the nearest training point": (switch.distance(), BLUE, "-"),
        "to where the oracle ends": (switch.distance_to_oracle(), ORANGE, "-"),
    }
    level = None if resume is None else float(resume.held_out_distance.mean()) / resume.dims**0.5
    figure, drawn = _by_tau(switch.switch_times, curves, "distance / √D", level=level)
    alt = "How far samples end from training data, by the time τ until which the oracle leads"
    return Drawing("switch", alt, figure, drawn)


def settling(resume: ForwardBackwardResult) -> Drawing:
    """What is kept of unseen data by band, and how much the noise still decides."""
    curves, halves = {}, []
    for band, (name, colour) in enumerate(zip(resume.bands, COLOURS, strict=False)):
        curves[f"apart, {name}"] = (resume.change(band), colour, "-")
        curves[f"spread, {name}"] = (resume.spread(band), colour, DASHED)
        halves.append((resume.half_change(band), colour))
    figure, drawn = _by_tau(
        resume.switch_times, curves, "share of what chance gives", least=CHANCE
    )
    for mark, colour in halves:
        if mark.value is not None:
            shape = {"ms": 6, "mfc": colour, "mec": PAPER, "mew": 0.8, "zorder": 4}
            figure.axes[0].plot([mark.value], [HALF_EXPLAINED], "o", **shape)
    told = ", ".join(
        f"{name} from τ = {mark}" for name, (mark, _) in zip(resume.bands, halves, strict=False)
    )
    return Drawing(
        "resume", f"What is kept of unseen data by τ; half of it: {told}", figure, drawn
    )


def finishing(resume: ForwardBackwardResult) -> Drawing:
    """How far samples that go on from unseen data end from training data."""
    curves = {"to the nearest training point": (resume.distance(), BLUE, "-")}
    level = float(resume.held_out_distance.mean()) / resume.dims**0.5
    figure, drawn = _by_tau(resume.switch_times, curves, "distance / √D", level=level)
    alt = "How far samples end from training data that go on from unseen data at τ"
    return Drawing("resume-nearest", alt, figure, drawn)


def copies(found: SwitchResult | ForwardBackwardResult, name: str) -> Drawing:
    """The share of copies by τ, with its exact interval."""
    figure, ax = axes(high=2.6)
    _tau_axis(ax)
    share, low, high = (numbers(part) for part in found.copy_share())
    taus = numbers(found.switch_times)
    ax.fill_between(taus, low, high, color=BLUE, alpha=0.22, lw=0)
    ax.plot(taus, share, "-o", ms=2.6, mew=0, color=BLUE, clip_on=False)
    ax.set_ylim(0, 1)
    ax.set_ylabel("share of copies")
    columns = {"tau": taus.tolist(), "copied": share.tolist()}
    columns |= {"low": low.tolist(), "high": high.tolist()}
    return Drawing(f"{name}-copies", "Share of samples that are copies, by τ", figure, columns)


def sheet(name: str, pictures: Tensor, heads: Sequence[str], alt: str) -> Drawing:
    """Pictures [n, columns, C, H, W] side by side, with what heads their columns."""
    rows, columns = pictures.shape[:2]
    side = ACROSS / columns
    high, wide = side * rows + 0.32, ACROSS + 0.04
    figure = Figure(figsize=(wide, high))
    for row in range(rows):
        for column in range(columns):
            place = (side * column / wide, 1 - (0.3 + side * (row + 1)) / high)
            size = (0.94 * side / wide, 0.94 * side / high)
            ax = figure.add_axes((*place, *size))
            pixels = pictures[row, column].movedim(0, -1).numpy()
            ax.imshow(np.repeat(pixels, 3, 2) if pixels.shape[2] == 1 else pixels)
            ax.set_axis_off()
            if row == 0:
                ax.set_title(heads[column], fontsize=8, color=QUIET, pad=3)
    return Drawing(name, alt, figure, {"column": list(heads)})


def _by_tau(
    taus: Tensor,
    curves: Mapping[str, tuple[Curve, str, Any]],
    label: str,
    *,
    level: float | None = None,
    least: float = 0.0,
) -> tuple[Figure, dict[str, list]]:
    """Curves by τ with two errors on either side, named; and the numbers they are drawn from.

    The upright axis holds all of them, and reaches up to `least` at least.
    """
    figure, ax = axes()
    _tau_axis(ax)
    times, drawn = numbers(taus), {}
    highest = max(float((curve.mean + 2 * curve.error).max()) for curve, _, _ in curves.values())
    ax.set_ylim(0, max(least, 1.08 * max(highest, level or 0.0)) or 1.0)
    columns: dict[str, list] = {"tau": times.tolist()}
    for name, (curve, colour, style) in curves.items():
        mean, error = numbers(curve.mean), numbers(curve.error)
        ax.fill_between(times, mean - 2 * error, mean + 2 * error, color=colour, alpha=0.2, lw=0)
        ax.plot(times, mean, color=colour, ls=style)
        ax.plot(times, mean, "o", ms=2.6, mew=0, color=colour)
        lines = [_dense(times, line) for line in (mean - 2 * error, mean, mean + 2 * error)]
        drawn[name] = np.concatenate(lines)
        columns |= {name: mean.tolist(), f"{name}_error": error.tolist()}
    colours = [colour for _, colour, _ in curves.values()]
    if level is not None:
        ax.axhline(level, color=QUIET, lw=1.0, ls=DOTTED, zorder=1)
        drawn[OWN_LEVEL] = _dense(times, np.full(len(times), level))
        colours.append(QUIET)
    name_curves(ax, drawn, colours, lines=np.array([]))
    ax.set_ylabel(label)
    return figure, columns


def _dense(times: Points, values: Points) -> Points:
    """Points [n, 2] along a line."""
    fine = np.linspace(times[0], times[-1], 160)
    return np.stack([fine, np.interp(fine, times, values)], 1)


def _tau_axis(ax: Axes) -> None:
    ax.set_xlim(0, 1)
    ax.set_xticks([0.0, 0.2, 0.4, 0.6, 0.8, 1.0])
    ax.set_xlabel("τ, where the field takes over")


def _tau(tau: float) -> str:
    return f"{tau:.3g}"
