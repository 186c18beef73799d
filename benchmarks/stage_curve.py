"""A whole stage curve against the two row products it needs. Budget: ≤ 4.

One class of 1300 × 8192 points, 512 pairs, 50 times; every pair is also followed with the opposite
noise.
"""

from __future__ import annotations

import torch

import floracle
from floracle.analysis.stages.measure import measure_class as stage_curves
from floracle.analysis.stages.measure import plan_stages
from measure import decaying, ratios, report, seconds

POINTS, DIMS, PAIRS, TIMES = 1300, 8192, 512, 50


def main() -> None:
    points = decaying(POINTS, DIMS, power=0.7)
    oracle = floracle.Oracle(floracle.open_store(points))
    plan = plan_stages(oracle, times=TIMES, pairs=PAIRS)
    rows = torch.randint(POINTS, (PAIRS,))
    noise = torch.randn(PAIRS, DIMS)
    both = torch.cat([points[rows], noise])
    rivals = {
        "row products": lambda: both @ points.T,
        "pairs": lambda: oracle.pairs(rows, noise, plan.times),
        "mirrored pairs": lambda: oracle.pairs(rows, noise, plan.times, mirrored=True),
        "class with landmarks": lambda: stage_curves(oracle, plan, -1),
    }
    taken = seconds(rivals)
    report(
        "stage_curve",
        {
            "points": POINTS,
            "dims": DIMS,
            "pairs": PAIRS,
            "times": TIMES,
            "row products, seconds": round(min(taken["row products"]), 4),
            "against row products": ratios(taken, "row products"),
        },
    )


if __name__ == "__main__":
    main()
