"""Targets of training pairs by chance: atoms read and time by t, against the two products.

    python benchmarks/likely.py [POINTS DIMS]        # 50,000 × 3072

64 known pairs a call, tolerance 1e-3 on the velocity, failure 1e-6 a call, 256 coordinates held.
`certain` is the same with failure 0: Cauchy–Schwarz at the same coordinates.
"""

from __future__ import annotations

import sys
from functools import partial

import torch

import floracle
from floracle.core.coarse import coarse_of
from floracle.core.paths import LINEAR
from floracle.oracle.chance import outline_of
from floracle.oracle.likely import likely_targets
from measure import decaying, ratios, report, seconds

SHAPE, HELD, PAIRS = (50_000, 3072), 256, 64
TOLERANCE, FAILURE = 1e-3, 1e-6
TIMES = (0.05, 0.1, 0.15, 0.2, 0.25, 0.3, 0.4, 0.5, 0.7, 0.95)


def main() -> None:
    count, dims = map(int, sys.argv[1:3]) if len(sys.argv) > 2 else SHAPE
    points = decaying(count, dims)
    store = floracle.open_store(points)
    oracle = floracle.Oracle(store)
    outline = outline_of(oracle.members(), coarse_of(store, kept=HELD))
    rows = torch.arange(PAIRS) * (count // PAIRS)
    noise = torch.randn(PAIRS, dims, generator=torch.Generator().manual_seed(1))
    measured = []
    for time in TIMES:
        t = torch.full((PAIRS,), time, dtype=torch.float64)
        x = LINEAR.sample(points[rows], noise, t)
        targets = partial(likely_targets, outline, LINEAR, rows, noise, t, tolerance=TOLERANCE)
        rivals = {
            "two products": lambda x=x: (x @ points.T) @ points,
            "by chance": lambda targets=targets: targets(failure=FAILURE),
            "certain": lambda targets=targets: targets(failure=0.0),
            "oracle": lambda x=x, t=t: oracle(x, t),
        }
        taken = seconds(rivals, rounds=3)
        measured.append(
            {
                "t": time,
                "share read": {
                    name: share(rivals[name]().touched, count) for name in ("by chance", "certain")
                },
                "against two products": ratios(taken, "two products"),
                "ms a pair": round(1e3 * min(taken["by chance"]) / PAIRS, 2),
            }
        )
    settings = {"points": count, "dims": dims, "pairs": PAIRS, "coordinates": HELD}
    report("likely", {**settings, "tolerance": TOLERANCE, "failure": FAILURE, "by t": measured})


def share(touched: torch.Tensor, count: int) -> dict[str, float]:
    """Mean and median over pairs of the share of atoms that were read."""
    return {
        "mean": float(f"{float(touched.double().mean()) / count:.3g}"),
        "median": float(f"{float(touched.median()) / count:.3g}"),
    }


if __name__ == "__main__":
    main()
