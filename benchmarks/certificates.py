"""What is left out, against a float64 evaluation of its own: never more than is reported or asked.

    python benchmarks/certificates.py [SECTION …]

10,000 queries of CIFAR-10's 50,000 images, as many of points of decaying spectra and of clusters,
at ten times: samples of the forward path, midpoints, states of oracle trajectories, what lies near
the data. Every section is measured alone and kept in results/certificates.json beside the others.
"Forced" rows prune also where a scan would be quicker, so that no query escapes.

The evaluation shares nothing with the package: logits are float64 products about the leader, and
what is missing is the weight of all training points that the package did not evaluate in the end.
It may itself err by FLOOR. What is handed back keeps to 1e-5 of the velocity, or to what rounding
of x alone moves it by (exact midpoints, t → 1). Reads FLORACLE_SHARED (default ../shared).
"""

from __future__ import annotations

import json
import os
import sys
import time
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import numpy as np
import torch
from PIL import Image

import floracle
from floracle.oracle.pruning import search as pruning
from measure import RESULTS, decaying, report

SHARED = Path(os.environ.get("FLORACLE_SHARED", Path(__file__).parents[2] / "shared"))
TIMES = (0.05, 0.15, 0.25, 0.35, 0.45, 0.55, 0.65, 0.75, 0.85, 0.95)
WIDE = (0.0, 0.02, 0.05, 0.1, 0.2, 0.3, 0.5, 0.7, 0.9, 0.99, 0.999, 0.9999)
ASKED = (1e-5, 1e-3)
"""Tolerances, of which half the queries ask one and half the other."""
FLOOR = 1e-11
"""What the evaluation may itself err by, relative to the velocity."""
NEAR, FEW = 80.0, 64
"""Points within so many nats of the leader, if they are so few, are evaluated against it."""
ROWS = 512
KINDS = ("forward path", "midpoints", "near data", "trajectory")


# the evaluation ---------------------------------------------------------------------------------


def evaluated(points, log_weights, x, t):
    """Posterior weights [b, n], means [b, D] and variances [b], float64, at queries x [b, D]."""
    gain, middle = t / (1 - t) ** 2, points.mean(0, dtype=torch.float64)
    y = x - t[:, None] * middle
    logits = torch.empty(len(x), len(points), dtype=torch.float64)
    norms = torch.empty(len(points), dtype=torch.float64)
    for start in range(0, len(points), ROWS):
        z, some = points[start : start + ROWS].double() - middle, slice(start, start + ROWS)
        norms[some] = z.square().sum(1)
        logits[:, some] = y @ z.T - t[:, None] / 2 * norms[some]
    logits = gain[:, None] * logits + log_weights
    first = logits.max(1)
    logits -= first.values[:, None]
    close = logits > -NEAR
    crowd = close.sum(1) > FEW
    means = torch.empty_like(x)
    for row in (~crowd).nonzero()[:, 0].tolist():
        atoms, lead = close[row].nonzero()[:, 0], int(first.indices[row])
        relative, shift = against(points[lead], points[atoms], x[row], t[row])
        logits[row, atoms] = relative + log_weights[atoms] - log_weights[lead]
        means[row] = points[lead].double() + logits[row, atoms].softmax(0) @ shift
    weights = logits.softmax(1)
    if crowd.any():
        means[crowd] = mean_of(points, weights[crowd])
    spread = weights @ norms - (means - middle).square().sum(1)
    return weights, means, spread.clamp(min=0)


def against(leader, others, x, t):
    """Logits [k] of a few points against a leader, and x_i − x_L [k, D]: in long double inside."""
    leader, others, x, t = (
        value.numpy().astype(np.longdouble) for value in (leader, others, x, t)
    )
    apart = others - leader
    pull = ((x - t * leader - t / 2 * apart) * apart).sum(1)
    relative = t / (1 - t) ** 2 * pull
    return torch.from_numpy(relative.astype(float)), torch.from_numpy(apart.astype(float))


def mean_of(points, weights):
    """Means [b, D] of points of given weights [b, n], in blocks."""
    blocks = zip(points.split(ROWS), weights.split(ROWS, 1), strict=True)
    return sum(some @ block.double() for block, some in blocks)


@contextmanager
def watched():
    """The points that were evaluated for each query in the end, by the bytes of the query."""
    seen, plain = {}, pruning.evaluate_survivors

    def watching(screen, queries, projected, pairs, *rest, **more):
        for number, x in enumerate(queries.x):
            seen[x.cpu().numpy().tobytes()] = pairs.points[pairs.queries == number]
        return plain(screen, queries, projected, pairs, *rest, **more)

    pruning.evaluate_survivors = watching
    try:
        yield seen
    finally:
        pruning.evaluate_survivors = plain


@contextmanager
def forced():
    """No query is handed back because a scan would be quicker."""
    plain, pruning.COSTS = pruning.COSTS, pruning.COSTS._replace(scan=1e12)
    try:
        yield
    finally:
        pruning.COSTS = plain


def examined(oracle, points, truth, x, t):
    """Truth beside certificate for queries x float64 [b, D]: a dictionary of columns [b].

    `points` [n, D] are all points of the set in their order, `truth` what was `evaluated` of them.
    """
    with watched() as seen:
        found = oracle.posterior(x.reshape(-1, *oracle.data.shape), t)
    weights, means, spread = truth
    pruned = found.error > 0  # of those handed back nothing is reported
    missing = torch.zeros(len(x), dtype=torch.float64)
    for row in pruned.nonzero()[:, 0].tolist():
        unread = weights[row].clone()
        unread[seen[x[row].numpy().tobytes()]] = 0
        missing[row] = unread.sum()
    size = (means - x).norm(dim=1) / (1 - t)
    return {
        "pruned": pruned,
        "touched": found.touched.double() / len(points),
        "error": (found.mean.flatten(1) - means).norm(dim=1) / (1 - t) / size,
        "floor": floors(points, spread, x, t) / size,
        "reported": found.error,
        "missing": missing,
        "claimed": found.missing,
    }


def floors(points, spread, x, t):
    """What moves the velocity if float64 rounds x and the points, [b]."""
    longest = points.norm(dim=1).max()
    moved = t / (1 - t) ** 2 * 2.0**-52 * (x.norm(dim=1) + longest) * spread
    return (moved + 2.0**-50 * longest) / (1 - t)


def verdict(columns, asked):
    """One row of the table: the worst of some queries that asked tolerances [b]."""
    pruned = columns["pruned"]
    error, reported, missing, claimed, touched = (
        columns[name][pruned] for name in ("error", "reported", "missing", "claimed", "touched")
    )
    lies = (error > reported + FLOOR) | (missing > claimed * (1 + 1e-12))
    lies |= reported > asked[pruned]
    whole = (columns["error"] - columns["floor"])[~pruned].clamp(min=0)
    return {
        "queries": len(asked),
        "handed back": round(1 - float(pruned.double().mean()), 3),
        "share touched": digits(columns["touched"].mean()),
        "… of those pruned": digits(touched.mean()) if len(touched) else None,
        "true / reported error": worst((error - FLOOR).clamp(min=0) / reported),
        "reported / asked": worst(reported / asked[pruned]),
        "true / reported missing": worst(torch.where(missing > 0, missing / claimed, 0.0)),
        "true error, handed back / asked": worst(whole / asked[~pruned]),
        "broken": int(lies.sum()) + int((whole > asked[~pruned]).sum()),
    }


def digits(value):
    return float(f"{float(value):.3g}")


def worst(ratios):
    return digits(ratios.max()) if len(ratios) else None


# what is asked ----------------------------------------------------------------------------------


def queries_of(points, kind, t, drawn, group=None):
    """Queries float64 [b, D] at times t [b]; `group` [n] are the clusters of points."""
    count, t = len(t), t[:, None]
    i, j = torch.randint(len(points), (2, count), generator=drawn)
    if group is not None:  # half of the midpoints lie inside clusters
        peers = torch.stack([(group == g).nonzero()[:, 0].roll(1)[0] for g in group[i]])
        j = torch.where(torch.arange(count) % 4 < 2, peers, j)
    own, other = points[i].double(), points[j].double()
    noise = torch.randn(count, points.shape[1], generator=drawn).double()
    odd = torch.arange(count)[:, None] % 2
    match kind:
        case "forward path":
            return t * own + (1 - t) * noise
        case "midpoints":  # with their noise and without
            return t * (own + other) / 2 + odd * (1 - t) * noise
        case "near data":  # of too little noise for their time, or at the data itself
            return torch.where(odd == 1, t * own + 0.03 * (1 - t) * noise, own + 1e-3 * noise)
    raise ValueError(f"no such queries: {kind}")


def table(data, count, *, times=TIMES, only=None, seed=0, group=None):
    """Rows of verdicts by t and kind, for `count` queries of each; perhaps at some times only."""
    atoms, rows = data.atoms(), []
    points, log_weights = data.take(atoms.rows).flatten(1).float(), atoms.weights.log()
    oracles = [floracle.Oracle(data, tolerance=tolerance) for tolerance in ASKED]
    oracles[0]._screen(oracles[0].class_points())
    oracles[1]._cache.put(-1, oracles[0]._cache.classes[-1])  # one copy of the points is enough
    drawn = torch.Generator().manual_seed(seed)
    state = torch.randn(count, points.shape[1], generator=drawn).double()
    for time_, after in zip(times, (*times[1:], 1.0), strict=True):
        t = torch.full((count,), time_, dtype=torch.float64)
        if time_ == times[0]:
            state = stepped(oracles[0], state, 0.0, time_)
        for kind in KINDS if time_ in (only or times) else ():
            x = queries_of(points, kind, t, drawn, group) if kind != "trajectory" else state
            truth, parts = evaluated(points, log_weights, x, t), []
            for number, oracle in enumerate(oracles):
                some = slice(number, None, 2)
                parts.append(
                    examined(oracle, points, [part[some] for part in truth], x[some], t[some])
                )
            columns = {name: torch.cat([part[name] for part in parts]) for name in parts[0]}
            asked = torch.tensor(ASKED, dtype=torch.float64)
            asked = asked.repeat_interleave(torch.tensor([-(-count // 2), count // 2]))
            rows.append({"t": time_, "kind": kind, **verdict(columns, asked)})
            print(rows[-1], flush=True)
        state = stepped(oracles[0], state, time_, after)
    return rows


def stepped(oracle, state, t, after):
    """One Euler step of the oracle's own trajectories."""
    x = state.reshape(-1, *oracle.data.shape)
    return state + (after - t) * oracle(x, torch.full((len(x),), t)).flatten(1)


# the data ---------------------------------------------------------------------------------------


def cifar10(sheets=20):
    """Images of CIFAR-10 [n, 3, 32, 32] in [−1, 1] from its first lossless sheets."""
    names = [SHARED / "data" / "cifar10" / f"train-{number:02d}.webp" for number in range(sheets)]
    tiles = [np.asarray(Image.open(name)).reshape(50, 32, 50, 32, 3) for name in names]
    images = np.concatenate([tile.transpose(0, 2, 4, 1, 3) for tile in tiles])
    return torch.from_numpy(images.reshape(-1, 3, 32, 32)).float() / 127.5 - 1


def clusters(kind, count=2000, dims=256):
    """Points in awkward company, [n, D], and which of them belong together, [n]."""
    drawn, size = torch.Generator().manual_seed(2), float(kind.split()[-1])
    group = torch.arange(count) % (40 if "balls" in kind else count // 2)
    middles = decaying(int(group.max()) + 1, dims)
    points = middles[group] + size * torch.randn(count, dims, generator=drawn)
    return points + (100 if "far" in kind else 0), group


AWKWARD = (
    "balls 1e-1",
    "balls 1e-3",
    "balls 1e-5",
    "near-duplicates 1e-2",
    "near-duplicates 1e-4",
    "near-duplicates 1e-6",
    "far balls 1e-3",
)


# sections ---------------------------------------------------------------------------------------


def spectra():
    """As the oracle chooses, and forced where points are few enough for that."""
    found = {}
    for power in (0.0, 0.5, 1.0, 2.0):
        large, small = (
            floracle.open_store(decaying(*shape, power=power))
            for shape in ((20_000, 1024), (2000, 256))
        )
        found[f"k^-{power:g}, 20,000 × 1024"] = table(large, 50, seed=3)
        with forced():
            found[f"k^-{power:g}, 2000 × 256, forced"] = table(small, 20, times=WIDE, seed=5)
    return found


def awkward():
    found = {}
    for kind in AWKWARD:
        points, group = clusters(kind)
        with forced():
            data = floracle.open_store(points)
            found[f"{kind}, forced"] = table(data, 40, times=WIDE, seed=4, group=group)
    return found


PARTS = (*((time_,) for time_ in TIMES[:6]), TIMES[6:8], TIMES[8:])


def pictures(only):
    return {"CIFAR-10, 50,000 × 3072": table(floracle.open_store(cifar10()), 250, only=only)}


SECTIONS = {
    **{f"cifar10, t = {times}": partial(pictures, times) for times in PARTS},
    "spectra": spectra,
    "clusters": awkward,
}


def main() -> None:
    path = RESULTS / "certificates.json"
    known = json.loads(path.read_text())["measured"] if path.exists() else {}
    for name in sys.argv[1:] or SECTIONS:
        started = time.perf_counter()
        known[name] = {"found": SECTIONS[name](), "seconds": 0}
        known[name]["seconds"] = round(time.perf_counter() - started)
        report("certificates", {"tolerances": ASKED, "measured": known})


if __name__ == "__main__":
    main()
