"""One query against reading the data once from memory. Budget: ≤ 2."""

from __future__ import annotations

import torch

import floracle
from floracle.core.paths import LINEAR
from measure import decaying, ratios, report, seconds

POINTS, DIMS = 50_000, 3072


def main() -> None:
    points = decaying(POINTS, DIMS)
    oracle = floracle.Oracle(floracle.open_store(points))
    noise = torch.randn(1, DIMS)
    measured = {}
    for time in (0.05, 0.2, 0.6):
        t = torch.tensor([time], dtype=torch.float64)
        x = LINEAR.sample(points[:1], noise, t)
        rivals = {
            "reading": points.sum,
            "two products": lambda x=x: (x @ points.T) @ points,
            "floracle": lambda x=x, t=t: oracle(x, t),
        }
        taken = seconds(rivals, rounds=15)
        measured[f"t = {time}"] = {
            "reading, seconds": round(min(taken["reading"]), 4),
            "against reading": ratios(taken, "reading"),
        }
    report("one_query", {"points": POINTS, "dims": DIMS, "measured": measured})


if __name__ == "__main__":
    main()
