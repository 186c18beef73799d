"""Pure-oracle trajectories in Gram space against the ambient oracle, one class of 1300 × 8192.

64 samples, 50 Euler steps. The matrix and the projections of the noise are counted apart: the
first is needed once a class, the second once a batch. The ambient oracle is float32 with leaders
mended, Gram space float64 throughout; both land on the same rows.
"""

from __future__ import annotations

import torch

import floracle
from floracle.oracle.gram import drawn, gram_of, project
from floracle.oracle.gram_follow import landed, points
from floracle.oracle.gram_pairs import gram_pairs
from measure import decaying, ratios, report, seconds

POINTS, DIMS, SAMPLES, STEPS, PAIRS, TIMES = 1300, 8192, 64, 50, 512, 50


def main() -> None:
    data = floracle.open_store(decaying(POINTS, DIMS, power=0.7))
    oracle, gram = floracle.Oracle(data), gram_of(data)
    noise, grid = floracle.noise(range(SAMPLES), data.shape), floracle.time_grid(STEPS)
    projections = project(gram, data, noise)
    state = torch.rand(SAMPLES, POINTS, dtype=torch.float64)
    rows = torch.randint(POINTS, (PAIRS,))
    pair_noise = torch.randn(PAIRS, DIMS)
    pair_projections = project(gram, data, pair_noise)
    times = torch.linspace(0, 0.2, TIMES, dtype=torch.float64)
    end = landed(gram, projections, grid)
    ambient = floracle.sample(oracle, noise, grid)
    apart = points(gram, data, end.point, noise) - ambient
    taken = seconds(
        {
            "ambient": lambda: floracle.sample(oracle, noise, grid),
            "gram": lambda: landed(gram, projections, grid),
            "gram products alone": lambda: [state @ gram.products for _ in range(STEPS)],
            "projections": lambda: project(gram, data, noise),
            "samples": lambda: points(gram, data, end.point),
        }
    )
    once = {"matrix": lambda: gram_of(data), "drawn": lambda: drawn(gram, range(SAMPLES))}
    curves = {
        "pairs": lambda: oracle.pairs(rows, pair_noise, times),
        "gram pairs": lambda: gram_pairs(gram, rows, pair_projections, times),
    }
    report(
        "gram",
        {
            "points": POINTS,
            "dims": DIMS,
            "samples": SAMPLES,
            "steps": STEPS,
            "bytes": gram.nbytes,
            "ambient, seconds": round(min(taken["ambient"]), 4),
            "against ambient": ratios(taken, "ambient"),
            "once, seconds": {k: round(min(v), 3) for k, v in seconds(once, rounds=2).items()},
            "curves of 512 pairs at 50 times, against pairs": ratios(
                seconds(curves, rounds=3), "pairs"
            ),
            "largest difference of samples": float(
                apart.norm(dim=1).max() / ambient.norm(dim=1).max()
            ),
        },
    )


if __name__ == "__main__":
    main()
