"""Appendix D: the timestep shift t' = s t / (1 + (s − 1) t), as a map and as grids of steps."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass

import numpy as np
import torch
from torch import Tensor

from floracle.report.figure import Drawing
from floracle.report.plots import (
    annotate,
    ground_colour,
    name_ends,
    new_axes,
    shade_stages,
    to_numpy,
)
from floracle.report.style import INK, QUIET, colour_ramp
from floracle.run.results import Results, provenance
from floracle.sampling.grid import share_of_steps, shift_times, time_grid

from .recipe import Recipe, RecipePlan, rows_of, table_of

MAP_TIMES = 201  # every .005
SHARE = "share of steps before the end of navigation, %"


@dataclass(frozen=True)
class AppendixDSettings:
    """Which shifts are shown."""

    shifts: tuple[float, ...] = (4.0, 2.0, 1.0, 0.7, 0.5, 0.3, 0.1)
    steps: int = 50
    until: float = 0.2
    """The end of navigation in the paper's latents."""


def plan_appendix_d(settings: AppendixDSettings) -> RecipePlan:
    """Maps and grids; they take no time, so there are no parts."""
    saved = {"item": "appendix-d", **asdict(settings), "shifts": list(settings.shifts)}

    def join(_: Mapping[str, Results]) -> Results:
        t = torch.linspace(0, 1, MAP_TIMES, dtype=torch.float64)
        grids = [time_grid(settings.steps, shift=shift) for shift in settings.shifts]
        arrays: dict[str, Tensor] = {
            "t": t,
            "maps": torch.stack([shift_times(t, shift) for shift in settings.shifts]),
            "grids": torch.stack(grids),
        }
        rows = [
            {
                "": f"s = {shift:g}",
                # Rounded, since 100 · 14/50 is 28.000000000000004 in float64.
                SHARE: round(100 * share_of_steps(grid, settings.until), 9),
                "first step": float(grid[1]),
                "half-way": float(grid[len(grid) // 2]),  # t after half of the steps
                "last step": float(1 - grid[-2]),
            }
            for shift, grid in zip(settings.shifts, grids, strict=True)
        ]
        return Results("appendix-d", saved, {"table": table_of(rows)}, arrays, provenance())

    return RecipePlan(saved, {}, join)


def draw_appendix_d(results: Results) -> list[Drawing]:
    """The map, and the grids it makes of equal steps."""
    return [_draw_map(results), _draw_grids(results)]


def _draw_map(results: Results) -> Drawing:
    # Square, with equal scales: the map of 1/s is that of s mirrored at the diagonal (s = 1).
    figure, ax = new_axes(width=4.1, height=4.1)
    t, until = to_numpy(results.arrays["t"]), results.settings["until"]
    shade_stages(ax, until, upright=True)
    maps = _by_shift(results, "maps")
    for (shift, values), colour in zip(maps.items(), colour_ramp(len(maps)), strict=True):
        shifted = to_numpy(values)
        ax.plot(t, shifted, color=colour, lw=1.6)
        middle = int(np.abs(t + shifted - 1).argmin())  # on the other diagonal curves lie apart
        point = (t[middle], shifted[middle])
        ground = {"facecolor": ground_colour(point[1], until), "edgecolor": "none", "pad": 0.8}
        style = {"ha": "center", "va": "center", "fontsize": 8.5, "color": colour}
        annotate(ax, f"{shift:g}", point, bbox=ground, **style)
    ax.set(xlim=(0, 1), ylim=(0, 1), ylabel="shifted time t′", aspect="equal")
    name_ends(ax)
    annotate(ax, "t′ = s t / (1 + (s − 1) t), by s", (0, 1), (0, 6), coordinates="axes fraction")
    columns = {"t": t.tolist()} | {f"s={s:g}": values.tolist() for s, values in maps.items()}
    alt = "The timestep shift as a map of times, one curve a shift"
    return Drawing("appendix-d", alt, figure, columns)


def _draw_grids(results: Results) -> Drawing:
    figure, ax = new_axes(height=3.0)
    until, steps = results.settings["until"], results.settings["steps"]
    shade_stages(ax, until)
    grids, rows = _by_shift(results, "grids"), rows_of(results)
    colours = colour_ramp(len(grids))
    for i, (grid, row, colour) in enumerate(zip(grids.values(), rows, colours, strict=True)):
        # Starts of steps alone: no step begins at t = 1.
        ax.vlines(to_numpy(grid[:-1]), i - 0.3, i + 0.3, color=colour, lw=1.1)
        style = {"va": "center", "color": INK, "annotation_clip": False}
        annotate(ax, f"{row[SHARE]:.0f} %", (1, i), (10, 0), **style)
    ax.set(xlim=(0, 1), ylim=(len(grids) - 0.4, -0.6))  # the first shift on top
    ax.set_yticks(range(len(grids)), [f"s = {shift:g}" for shift in grids])
    ax.tick_params(axis="y", length=0)
    ax.spines["left"].set_visible(False)
    name_ends(ax)
    annotate(ax, f"starts of {steps} steps", (0, 1), (0, 6), coordinates="axes fraction")
    note = f"until {until:g}"
    annotate(ax, note, (1, 1), (8, 6), coordinates="axes fraction", color=QUIET)
    columns = {"step": list(range(steps))}
    columns |= {f"s={shift:g}": grid[:-1].tolist() for shift, grid in grids.items()}
    alt = "Where the steps of shifted grids begin, one row of ticks a shift"
    return Drawing("appendix-d-grids", alt, figure, columns)


def _by_shift(results: Results, name: str) -> dict[float, Tensor]:
    return dict(zip(results.settings["shifts"], results.arrays[name], strict=True))


APPENDIX_D = Recipe(
    "appendix-d",
    "The timestep shift as a map of times and as grids of steps",
    AppendixDSettings(),
    plan_appendix_d,
    draw_appendix_d,
    expected={"s = 0.5": {SHARE: 34.0, "half-way": 1 / 3}, "s = 2": {"half-way": 2 / 3}},
    quick=AppendixDSettings(),
    figures=("appendix-d", "appendix-d-grids"),
)
