"""The dense oracle against two matrix products of its shape, and against what people write.

Budgets: ≤ 1.15 in navigation and ≤ .6 past the end, for 64 queries on 50,000 × 3072 points.
"""

from __future__ import annotations

import torch

import floracle
from floracle.core.paths import LINEAR
from measure import decaying, ratios, report, seconds

POINTS, DIMS, QUERIES = 50_000, 3072, 64
TIMES = {"navigation": 0.05, "transition": 0.2, "past the end": 0.6}


def naive(points: torch.Tensor, x: torch.Tensor, t: float) -> torch.Tensor:
    """All differences, a query at a time because more of them do not fit."""
    distances = torch.stack([(query - t * points).square().sum(1) for query in x])
    mean = (-distances / (2 * (1 - t) ** 2)).softmax(1) @ points
    return (mean - x) / (1 - t)


def attention(points: torch.Tensor, norms: torch.Tensor, x: torch.Tensor, t: float):
    """F.scaled_dot_product_attention with the norms as a mask; one t for the whole batch."""
    gain = t / (1 - t) ** 2
    mean = torch.nn.functional.scaled_dot_product_attention(
        x[None],
        points[None],
        points[None],
        attn_mask=-gain * t / 2 * norms[None, None],
        scale=gain,
    )[0]
    return (mean - x) / (1 - t)


def main() -> None:
    points = decaying(POINTS, DIMS)
    oracle = floracle.Oracle(floracle.open_store(points))
    norms = points.square().sum(1)
    noise = torch.randn(QUERIES, DIMS)
    measured = {}
    for name, time in TIMES.items():
        t = torch.full((QUERIES,), time, dtype=torch.float64)
        x = LINEAR.sample(points[:QUERIES], noise, t)
        rivals = {
            "two products": lambda x=x: (x @ points.T) @ points,
            "floracle": lambda x=x, t=t: oracle(x, t),
        }
        taken = seconds(rivals)
        slow = {
            "two products": rivals["two products"],
            "attention": lambda x=x, time=time: attention(points, norms, x, time),
        }
        eight = {
            "two products": lambda x=x: (x[:8] @ points.T) @ points,
            "naive": lambda x=x, time=time: naive(points, x[:8], time),
        }
        measured[name] = {
            "t": time,
            "two products, seconds": round(min(taken["two products"]), 4),
            "against two products": ratios(taken, "two products")
            | ratios(seconds(slow, rounds=3), "two products"),
            "8 queries": ratios(seconds(eight, rounds=1), "two products"),
        }
    report("dense", {"points": POINTS, "dims": DIMS, "queries": QUERIES, "measured": measured})


if __name__ == "__main__":
    main()
