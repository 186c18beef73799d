"""Appendix D: the timestep shift t' = s t / (1 + (s − 1) t), as a map and as grids of steps."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from floracle.report.plots import (
    INK,
    NAVIGATION,
    QUIET,
    REFINEMENT,
    Drawing,
    axes,
    name_ends,
    numbers,
)
from floracle.run.results import Results, provenance
from floracle.sampling.grid import share_of_steps, shift_times, time_grid

from .palette import ramp
from .recipe import Recipe, RecipePlan, TableRow, rows_of, table

POINTS = 201
"""Times at which the map is drawn."""
SHARE = "share of steps before the end of navigation, %"


@dataclass(frozen=True)
class AppendixDSettings:
    """Which shifts are shown."""

    shifts: tuple[float, ...] = (4.0, 2.0, 1.0, 0.7, 0.5, 0.3, 0.1)
    steps: int = 50
    until: float = 0.2
    """Where navigation ends in the paper's latents."""


def plan(settings: AppendixDSettings) -> RecipePlan:
    """Maps and grids; there is nothing to keep."""
    asked = {"item": "appendix-d", **asdict(settings), "shifts": list(settings.shifts)}

    def joined(_: Any) -> Results:
        grids = [time_grid(settings.steps, shift=shift) for shift in settings.shifts]
        t = torch.linspace(0, 1, POINTS, dtype=torch.float64)
        arrays: dict[str, Tensor] = {
            "t": t,
            "maps": torch.stack([shift_times(t, shift) for shift in settings.shifts]),
            "grids": torch.stack(grids),
        }
        rows = [
            _row(shift, grid, settings.until)
            for shift, grid in zip(settings.shifts, grids, strict=True)
        ]
        return Results("appendix-d", asked, {"table": table(rows)}, arrays, provenance())

    return RecipePlan(asked, {}, joined)


def _row(shift: float, grid: Tensor, until: float) -> TableRow:
    return {
        "": f"s = {shift:g}",
        SHARE: round(100 * share_of_steps(grid, until), 9),
        "first step": float(grid[1]),
        "half-way": float(grid[len(grid) // 2]),
        "last step": float(1 - grid[-2]),
    }


def draw(results: Results) -> list[Drawing]:
    """The map, and the grids it makes of equal steps."""
    colours = ramp(len(results.settings["shifts"]))
    return [_map(results, colours), _grids(results, colours)]


def _map(results: Results, colours: list[str]) -> Drawing:
    figure, ax = axes(wide=4.1, high=4.1)
    t, until = numbers(results.arrays["t"]), results.settings["until"]
    ax.axhspan(0, until, color=NAVIGATION, lw=0, zorder=0)
    ax.axhspan(until, 1, color=REFINEMENT, lw=0, zorder=0)
    shifts = results.settings["shifts"]
    for shift, values, colour in zip(shifts, results.arrays["maps"], colours, strict=True):
        y = numbers(values)
        ax.plot(t, y, color=colour, lw=1.6)
        at = int(np.abs(t + y - 1).argmin())  # along the other diagonal the curves lie apart
        ax.annotate(
            f"{shift:g}",
            (t[at], y[at]),
            ha="center",
            va="center",
            fontsize=8.5,
            color=colour,
            bbox={
                "facecolor": NAVIGATION if y[at] < until else REFINEMENT,
                "edgecolor": "none",
                "pad": 0.8,
            },
        )
    ax.set(xlim=(0, 1), ylim=(0, 1), ylabel="shifted time t′", aspect="equal")
    name_ends(ax, "noise", "data")
    ax.annotate(
        "t′ = s t / (1 + (s − 1) t), by s",
        (0, 1),
        (0, 6),
        xycoords="axes fraction",
        textcoords="offset points",
    )
    maps = {f"s={s:g}": row.tolist() for s, row in _by_shift(results, "maps")}
    words = "The timestep shift as a map of times, one curve a shift"
    return Drawing("appendix-d", words, figure, {"t": t.tolist(), **maps})


def _grids(results: Results, colours: list[str]) -> Drawing:
    figure, ax = axes(high=3.0)
    until, shifts = results.settings["until"], results.settings["shifts"]
    ax.axvspan(0, until, color=NAVIGATION, lw=0, zorder=0)
    ax.axvspan(until, 1, color=REFINEMENT, lw=0, zorder=0)
    rows = zip(results.arrays["grids"], rows_of(results), colours, strict=True)
    for i, (grid, row, colour) in enumerate(rows):
        ax.vlines(numbers(grid[:-1]), i - 0.3, i + 0.3, color=colour, lw=1.1)
        ax.annotate(
            f"{row[SHARE]:.0f} %",
            (1, i),
            (10, 0),
            textcoords="offset points",
            va="center",
            color=INK,
            annotation_clip=False,
        )
    ax.set(xlim=(0, 1), ylim=(len(shifts) - 0.4, -0.6))
    ax.set_yticks(range(len(shifts)), [f"s = {shift:g}" for shift in shifts])
    ax.tick_params(axis="y", length=0)
    ax.spines["left"].set_visible(False)
    name_ends(ax, "noise", "data")
    ax.annotate(
        f"starts of {results.settings['steps']} steps",
        (0, 1),
        (0, 6),
        xycoords="axes fraction",
        textcoords="offset points",
    )
    ax.annotate(
        f"until {until:g}",
        (1, 1),
        (8, 6),
        xycoords="axes fraction",
        textcoords="offset points",
        color=QUIET,
    )
    starts = {f"s={s:g}": grid[:-1].tolist() for s, grid in _by_shift(results, "grids")}
    steps = list(range(results.settings["steps"]))
    words = "Where the steps of shifted grids begin, one row of ticks a shift"
    return Drawing("appendix-d-grids", words, figure, {"step": steps, **starts})


def _by_shift(results: Results, name: str) -> list[tuple[float, Tensor]]:
    return list(zip(results.settings["shifts"], results.arrays[name], strict=True))


APPENDIX_D = Recipe(
    "appendix-d",
    "The timestep shift as a map of times and as grids of steps",
    AppendixDSettings(),
    plan,
    draw,
    expected={"s = 0.5": {SHARE: 34.0, "half-way": 1 / 3}, "s = 2": {"half-way": 2 / 3}},
    quick=AppendixDSettings(),
    figures=("appendix-d", "appendix-d-grids"),
)
