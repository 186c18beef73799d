"""How the cost of 64 queries grows with N (10³ … 10⁶·³) and D (64 … 65,536), beside two floors.

Floors: reading the points once from memory, and two matrix products of their shape. Slopes are
those of least squares in double logarithms, over sizes that take at least 5 ms. The drawing goes
to docs/images/scaling.png.
"""

from __future__ import annotations

import math
import statistics
from pathlib import Path

import matplotlib as mpl
import torch
from matplotlib.figure import Figure

import floracle
from floracle.core.paths import LINEAR
from floracle.report.style import BLUE, INK, ORANGE, QUIET, STYLE, TEAL
from measure import decaying, report, seconds

QUERIES = 64
NAVIGATION, REFINEMENT = 0.05, 0.7
BY_POINTS = (1_000, 4_000, 16_000, 64_000, 250_000, 1_000_000, 2_000_000)
BY_DIMS = (64, 256, 1024, 4096, 16_384, 65_536)
FEW_DIMS, FEW_POINTS = 512, 4096
CERTIFIED = 1e-5
LONG = 0.005
"""Seconds below which calls, not sizes, are measured."""
LINES = {
    "reading": (QUIET, ":"),
    "two products": (INK, "--"),
    "oracle, t = .05": (BLUE, "-"),
    "oracle, t = .7": (TEAL, "-"),
    "certified, t = .7": (ORANGE, "-"),
}


def cell(count: int, dims: int) -> dict[str, float]:
    """Seconds of the oracle and of its floors."""
    points = decaying(count, dims)
    data = floracle.open_store(points)
    oracle = floracle.Oracle(data, memory="12G")
    certified = floracle.Oracle(data, memory="12G", tolerance=CERTIFIED)
    noise = torch.randn(QUERIES, dims)

    def asked(time: float) -> tuple[torch.Tensor, torch.Tensor]:
        t = torch.full((QUERIES,), time, dtype=torch.float64)
        return LINEAR.sample(points[:QUERIES], noise, t), t

    early, late = asked(NAVIGATION), asked(REFINEMENT)
    products = torch.randn(QUERIES, dims)
    rivals = {
        "reading": points.sum,
        "two products": lambda: (products @ points.T) @ points,
        "oracle, t = .05": lambda: oracle(*early),
        "oracle, t = .7": lambda: oracle(*late),
        "certified, t = .7": lambda: certified(*late),
    }
    rounds = 3 if count * dims > 2**27 else 5
    taken = seconds(rivals, rounds=rounds)
    return {name: statistics.median(times) for name, times in taken.items()}


def slope(sizes: list[int], times: list[float]) -> float | None:
    """The power with which time grows; None where all is too short."""
    kept = [(math.log(n), math.log(s)) for n, s in zip(sizes, times, strict=True) if s >= LONG]
    if len(kept) < 3:
        return None
    x, y = torch.tensor(kept, dtype=torch.float64).T
    return round(float(((x - x.mean()) * (y - y.mean())).sum() / (x - x.mean()).square().sum()), 2)


def draw(measured: dict, where: Path) -> None:
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(9.2, 3.6), layout="constrained")
        for axes, (name, label) in zip(
            figure.subplots(1, 2, sharey=True),
            (("points", f"points N, D = {FEW_DIMS}"), ("dims", f"dimensions D, N = {FEW_POINTS}")),
            strict=True,
        ):
            sizes = [int(size) for size in measured[name]]
            for line, (colour, style) in LINES.items():
                values = [measured[name][str(size)][line] for size in sizes]
                axes.loglog(sizes, values, style, color=colour, label=line)
            axes.set_xlabel(label)
        figure.axes[0].set_ylabel(f"seconds for {QUERIES} queries")
        figure.axes[0].legend()
        figure.savefig(where, dpi=160, metadata={"Software": "floracle"})


def main() -> None:
    measured: dict = {"points": {}, "dims": {}}
    for count in BY_POINTS:
        measured["points"][str(count)] = cell(count, FEW_DIMS)
    for dims in BY_DIMS:
        measured["dims"][str(dims)] = cell(FEW_POINTS, dims)
    slopes = {
        by: {
            line: slope([int(n) for n in cells], [cells[n][line] for n in cells]) for line in LINES
        }
        for by, cells in measured.items()
    }
    draw(measured, Path(__file__).parents[1] / "docs/images/scaling.png")
    rounded = {
        by: {n: {k: round(s, 5) for k, s in one.items()} for n, one in cells.items()}
        for by, cells in measured.items()
    }
    shapes = {"dims by points": FEW_DIMS, "points by dims": FEW_POINTS}
    report("scaling", {"queries": QUERIES, **shapes, "slopes": slopes, "seconds": rounded})


if __name__ == "__main__":
    main()
