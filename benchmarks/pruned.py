"""The oracle with a tolerance against two matrix products, by t, beside a top-k heuristic.

Budgets: ≥ 8 times as fast as the two products at t = .5, ≥ 30 times at t ≥ .7, never below .9, on
50,000 × 3072 points with a velocity tolerance of 1e-5. The points are CIFAR-10's where
FLORACLE_CIFAR names an .npz of it (see docs/performance.md), else Gaussian of decaying spectrum.
The heuristic is what peers do: the k points nearest by leading coordinates, and no certificate.
"""

from __future__ import annotations

import os
import statistics

import torch

import floracle
from floracle.core.paths import LINEAR
from floracle.oracle.reference import reference
from measure import decaying, report, seconds

POINTS, DIMS, CHECKED = 50_000, 3072, 4
TOLERANCE = 1e-5
TIMES = (0.05, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)
BATCHES = (64,)
KEPT, LEADING = 2000, 64


def top_k(points, leading, directions, x, time):
    """The posterior mean over the k points nearest by a few coordinates."""
    coarse = torch.cdist(x @ directions.T, time * leading)
    near = coarse.topk(KEPT, dim=1, largest=False).indices
    mean = torch.empty_like(x)
    for row, places in enumerate(near):
        some = points[places]
        logits = -(x[row] - time * some).square().sum(1) / (2 * (1 - time) ** 2)
        mean[row] = logits.softmax(0) @ some
    return (mean - x) / (1 - time)


def main() -> None:
    where = os.environ.get("FLORACLE_CIFAR")
    data = floracle.open_store(where if where else decaying(POINTS, DIMS))
    points = data.take(torch.arange(len(data))).flatten(1)
    oracle = floracle.Oracle(data, tolerance=TOLERANCE)
    dense = floracle.Oracle(data)
    _, _, found = torch.pca_lowrank(points[::10], q=LEADING, niter=4)
    directions = found.T.contiguous()
    leading = points @ directions.T
    rows = []
    for batch in BATCHES:
        chosen = torch.randperm(len(points), generator=torch.Generator().manual_seed(0))[:batch]
        noise = torch.randn(batch, points.shape[1], generator=torch.Generator().manual_seed(1))
        for time in TIMES:
            t = torch.full((batch,), time, dtype=torch.float64)
            x = LINEAR.sample(points[chosen], noise, t)
            shaped = x.reshape(batch, *data.shape)
            rivals = {
                "products": lambda x=x: (x @ points.T) @ points,
                "pruned": lambda x=shaped, t=t: oracle(x, t),
                "dense": lambda x=shaped, t=t: dense(x, t),
                "top-k": lambda x=x, time=time: top_k(points, leading, directions, x, time),
            }
            taken = {n: statistics.median(s) for n, s in seconds(rivals, rounds=3).items()}
            proof = oracle.posterior(shaped, t)
            some = slice(0, CHECKED)
            truth = reference(points, x[some], t[some]).velocity
            size = truth.norm(dim=1)

            def worst(velocity, truth=truth, size=size, some=some):
                off = velocity[some].flatten(1).double() - truth
                return float(f"{(off.norm(dim=1) / size).max():.1e}")

            rows.append(
                {
                    "queries": batch,
                    "t": time,
                    "share touched": round(float(proof.touched.double().mean()) / len(points), 5),
                    "times as fast as two products": round(taken["products"] / taken["pruned"], 2),
                    "dense oracle": round(taken["products"] / taken["dense"], 2),
                    "reported error": float(f"{proof.error.max():.1e}"),
                    "true error": worst(oracle(shaped.double(), t)),
                    "top-k, times as fast": round(taken["products"] / taken["top-k"], 2),
                    "top-k, true error": worst(rivals["top-k"]()),
                }
            )
            print(rows[-1], flush=True)
    shape = {"points": len(points), "dims": points.shape[1], "tolerance": TOLERANCE}
    report("pruned", {"data": "CIFAR-10" if where else "decaying", **shape, "measured": rows})


if __name__ == "__main__":
    main()
