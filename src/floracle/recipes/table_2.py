"""Table 2: how many steps of a shifted grid fall to navigation, beside the paper's gFID.

The shift s moves the start t = k/50 of a step to s t / (1 + (s − 1) t); the share counts starts at
or before .2. The shares are computed; the gFID are the paper's own, of its own model, and are not
measured here.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from floracle.report.plots import BLUE, HIGH, INK, NAVIGATION, ORANGE, QUIET, Drawing, axes
from floracle.run.results import Results, provenance
from floracle.sampling.grid import share_of_steps, time_grid

from .recipe import Recipe, RecipePlan, TableRow, rows_of, table

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
SHARE, THEIR_SHARE, GFID = "share of steps, %", "(paper)", "gFID@50K (paper's, not measured here)"


@dataclass(frozen=True)
class Table2Settings:
    """Which grids are counted."""

    shifts: tuple[float, ...] = tuple(PUBLISHED)
    steps: int = 50
    until: float = 0.2


def share(settings: Table2Settings, shift: float) -> float:
    """The share of steps, in percent, that begin in [0, until]."""
    return 100 * share_of_steps(time_grid(settings.steps, shift=shift), settings.until)


def plan(settings: Table2Settings) -> RecipePlan:
    """A handful of grids; there is nothing to keep."""
    asked = {"item": "table-2", **asdict(settings), "shifts": list(settings.shifts)}

    def joined(_: Any) -> Results:
        rows = [_row(settings, shift) for shift in settings.shifts]
        return Results("table-2", asked, {"table": table(rows)}, {}, provenance())

    return RecipePlan(asked, {}, joined)


def _row(settings: Table2Settings, shift: float) -> TableRow:
    theirs, gfid = PUBLISHED.get(shift, (None, None))
    found = round(share(settings, shift), 9)
    return {"": f"s = {shift:g}", SHARE: found, THEIR_SHARE: theirs, GFID: gfid}


def draw(results: Results) -> list[Drawing]:
    """The paper's gFID over the share of steps before the end of navigation."""
    rows = [row for row in rows_of(results) if row[GFID] is not None]
    x, y = (np.array([row[column] for row in rows]) for column in (SHARE, GFID))
    figure, ax = axes(high=HIGH)
    order = np.argsort(x)
    ax.plot(x[order], y[order], color=BLUE, lw=1.2, alpha=0.55)
    ax.plot(x, y, "o", ms=5.5, mew=0, color=BLUE)
    best = int(y.argmin())
    ax.plot(x[best], y[best], "o", ms=8, mew=0, color=ORANGE)
    for i, (at, gfid, words) in enumerate(_named(rows)):
        ax.annotate(
            words,
            (at, gfid),
            (9, 3) if gfid > 1.05 * y.min() else (0, -16 if i % 2 else 10),
            textcoords="offset points",
            ha="left" if gfid > 1.05 * y.min() else "center",
            color=ORANGE if at == x[best] else INK,
        )
    ax.set_xlim(0, 82)
    ax.set_ylim(11, 21)
    ax.set_xlabel(f"share of the {results.settings['steps']} steps that begin in navigation, %")
    ax.set_ylabel("gFID@50K, published")
    ax.set_facecolor(NAVIGATION)
    ax.annotate(
        "shares computed here; gFID the paper's (Table 2), not measured here",
        (0.5, 1),
        (0, 6),
        xycoords="axes fraction",
        textcoords="offset points",
        ha="center",
        fontsize=8,
        color=QUIET,
    )
    return [
        Drawing(
            "table-2",
            "Published gFID over the share of steps in navigation, for each timestep shift",
            figure,
            {
                "shift": [row[""].removeprefix("s = ") for row in rows],
                "share_percent": x.tolist(),
                "share_percent_published": [row[THEIR_SHARE] for row in rows],
                "gfid_50k_published": y.tolist(),
            },
        )
    ]


def _named(rows: list[TableRow]) -> list[tuple[float, float, str]]:
    """Points and their names; shifts that share a point share a name."""
    names: dict[tuple[float, float], list[str]] = {}
    for row in rows:
        names.setdefault((row[SHARE], row[GFID]), []).append(row[""].removeprefix("s = "))
    words = {point: f"s = {' or '.join(sorted(found))}" for point, found in names.items()}
    return sorted((*point, name) for point, name in words.items())


TABLE_2 = Recipe(
    "table-2",
    "Share of steps in navigation by timestep shift, beside the paper's gFID",
    Table2Settings(),
    plan,
    draw,
    expected={f"s = {shift:g}": {SHARE: theirs} for shift, (theirs, _) in PUBLISHED.items()},
    quick=Table2Settings(),
    figures=("table-2",),
)
