"""Table 2: how many steps of a shifted grid fall to navigation, beside the paper's gFID.

The shift s moves the start t = k/50 of a step to s t / (1 + (s − 1) t); the share counts starts at
or before .2. The shares are computed; the gFID are the paper's own, of its own model, and are not
measured here.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass

import numpy as np

from floracle.report.figure import Drawing
from floracle.report.plots import annotate, new_axes
from floracle.report.style import BLUE, INK, NAVIGATION, ORANGE, QUIET
from floracle.run.results import Results, provenance
from floracle.sampling.grid import share_of_steps, time_grid

from .recipe import Recipe, RecipePlan, TableRow, rows_of, table_of

PUBLISHED = {
    5.0: (6, 18.89),
    4.0: (6, 18.89),
    2.0: (12, 14.82),
    1.0: (22, 12.99),
    0.7: (28, 12.46),
    0.5: (34, 12.23),
    0.3: (46, 12.66),
    0.1: (72, 19.91),
}
"""Shift: the paper's percentage and its gFID@50K. Its row of 6 % is that of 4 or of 5."""
SHARE, PUBLISHED_SHARE = "share of steps, %", "(paper)"
GFID = "gFID@50K (paper's, not measured here)"


@dataclass(frozen=True)
class Table2Settings:
    """Which grids are counted."""

    shifts: tuple[float, ...] = tuple(PUBLISHED)
    steps: int = 50
    until: float = 0.2


def share(settings: Table2Settings, shift: float) -> float:
    """The share of steps, in percent, that begin in [0, until]."""
    return 100 * share_of_steps(time_grid(settings.steps, shift=shift), settings.until)


def plan_table_2(settings: Table2Settings) -> RecipePlan:
    """A handful of grids; they take no time, so there are no parts."""
    saved = {"item": "table-2", **asdict(settings), "shifts": list(settings.shifts)}

    def join(_: Mapping[str, Results]) -> Results:
        rows = []
        for shift in settings.shifts:
            published, gfid = PUBLISHED.get(shift, (None, None))
            # Rounded: 100 · 14/50 is 28.000000000000004 in float64.
            row = {"": f"s = {shift:g}", SHARE: round(share(settings, shift), 9)}
            rows.append(row | {PUBLISHED_SHARE: published, GFID: gfid})
        return Results("table-2", saved, {"table": table_of(rows)}, {}, provenance())

    return RecipePlan(saved, {}, join)


def draw_table_2(results: Results) -> list[Drawing]:
    """The paper's gFID over the share of steps before the end of navigation."""
    rows = [row for row in rows_of(results) if row[GFID] is not None]
    x, y = (np.array([row[column] for row in rows]) for column in (SHARE, GFID))
    figure, ax = new_axes()
    order, best = np.argsort(x), int(y.argmin())
    ax.plot(x[order], y[order], color=BLUE, lw=1.2, alpha=0.55)
    ax.plot(x, y, "o", ms=5.5, mew=0, color=BLUE)
    ax.plot(x[best], y[best], "o", ms=8, mew=0, color=ORANGE)
    for i, (share_here, gfid, name) in enumerate(_named_points(rows)):
        # Near the minimum points are close: names alternate above and below.
        steep = gfid > 1.05 * y.min()
        offset = (9, 3) if steep else (0, -16 if i % 2 else 10)
        colour = ORANGE if share_here == x[best] else INK
        side = "left" if steep else "center"
        annotate(ax, name, (share_here, gfid), offset, ha=side, color=colour)
    ax.set(xlim=(0, 82), ylim=(11, 21), facecolor=NAVIGATION)
    ax.set_xlabel(f"share of the {results.settings['steps']} steps that begin in navigation, %")
    ax.set_ylabel("gFID@50K, published")
    note = "shares computed here; gFID the paper's (Table 2), not measured here"
    style = {"ha": "center", "fontsize": 8, "color": QUIET}
    annotate(ax, note, (0.5, 1), (0, 6), coordinates="axes fraction", **style)
    columns = {
        "shift": [row[""].removeprefix("s = ") for row in rows],
        "share_percent": x.tolist(),
        "share_percent_published": [row[PUBLISHED_SHARE] for row in rows],
        "gfid_50k_published": y.tolist(),
    }
    alt = "Published gFID over the share of steps in navigation, for each timestep shift"
    return [Drawing("table-2", alt, figure, columns)]


def _named_points(rows: list[TableRow]) -> list[tuple[float, float, str]]:
    """Share, gFID and name of every point; shifts that share a point share a name."""
    shifts: dict[tuple[float, float], list[str]] = {}
    for row in rows:
        shifts.setdefault((row[SHARE], row[GFID]), []).append(row[""].removeprefix("s = "))
    return sorted((*point, f"s = {' or '.join(sorted(s))}") for point, s in shifts.items())


TABLE_2 = Recipe(
    "table-2",
    "Share of steps in navigation by timestep shift, beside the paper's gFID",
    Table2Settings(),
    plan_table_2,
    draw_table_2,
    expected={f"s = {shift:g}": {SHARE: percent} for shift, (percent, _) in PUBLISHED.items()},
    quick=Table2Settings(),
    figures=("table-2",),
)
