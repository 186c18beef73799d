"""What float32 costs the oracle and what rescoring mends, by t and by kind of query.

For each regime: the worst relative velocity error of the plain float32 scan, the worst after
rescoring (the contract is 1e-5), the share of queries rescored and rescanned, and how far the
predicted error was above the true one where it was smallest.
"""

from __future__ import annotations

import torch

import floracle
from floracle.core.paths import LINEAR
from floracle.oracle.float64_refinement import refine
from floracle.oracle.queries import prepare_queries
from floracle.oracle.reference import reference
from floracle.oracle.scan import scan
from measure import decaying, report

TIMES = (0.0, 0.05, 0.1, 0.2, 0.3, 0.5, 0.7, 0.9, 0.99, 0.9999)
QUERIES = 32


def regimes(points: torch.Tensor):
    """Where queries come from: the data they are noisy versions of."""
    rows = torch.randint(len(points), (2, QUERIES))
    first, second = points[rows[0]], points[rows[1]]
    yield "forward path", first
    yield "midpoints of two points", (first + second) / 2
    yield "a point plus a thousandth", first + 1e-3 * torch.randn_like(first)


def main() -> None:
    torch.manual_seed(0)
    measured = {}
    sets = {
        "2000 x 3072": decaying(2000, 3072),
        "2000 x 3072, offset 10": decaying(2000, 3072) + 10,
        "1000 x 16384": decaying(1000, 16384),
    }
    for name, points in sets.items():
        oracle = floracle.Oracle(floracle.open_store(points))
        members = oracle.class_points()
        for kind, data in regimes(points):
            rows = []
            for time in TIMES:
                t = torch.full((QUERIES,), time, dtype=torch.float64)
                x = LINEAR.sample(data, torch.randn_like(data), t)
                exact = reference(points, x, t).velocity
                asked = prepare_queries(members, x, t, LINEAR)
                sums = scan(members, asked, dtype=torch.float32)
                plain = asked.velocity(sums.points / sums.mass[:, None] + members.offset)
                mended = refine(members, asked, sums)

                def worst(velocity, exact=exact):
                    return f"{((velocity - exact).norm(dim=1) / exact.norm(dim=1)).max():.1e}"

                rows.append(
                    {
                        "t": time,
                        "float32": worst(plain),
                        "oracle": worst(oracle(x.double(), t)),
                        "rescored": float((mended.rescored > 0).float().mean()),
                        "rescanned": float((mended.rescored == len(points)).float().mean()),
                    }
                )
            measured[f"{name}: {kind}"] = rows
    report("numerics", {"queries": QUERIES, "measured": measured})


if __name__ == "__main__":
    main()
