"""How often a bound by chance fails, over a million pairs a set: no more often than it says.

    python benchmarks/chances.py [SET …]

Pairs are drawn with fresh noise at any t in [.05, .95], and a pair has failed where the logit of
any atom exceeds its bound. Targets from such bounds are checked as well: how many err by more
than they report. Around an own point at the centre bounds fail as often as they may, which shows
that failures are seen. Logits are float64 products; of CIFAR-10's images, which come from
FLORACLE_SHARED, there are a fifth as many pairs.
"""

from __future__ import annotations

import json
import sys
import time

import torch
from scipy.stats import binom

import floracle
from certificates import FLOOR, cifar10
from floracle.core.coarse import Frame, coarse_of
from floracle.core.paths import LINEAR
from floracle.oracle.chance import bounds, known_pairs, outline_of
from floracle.oracle.likely import likely_targets
from measure import RESULTS, decaying, report

PAIRS, TOGETHER, CALL = 1_000_000, 4000, 50
FAILURES = (1e-2, 1e-3)
"""What is asked, for a pair."""
SURELY = 1e-6
"""How improbable a count of failures has to be to refute the bound."""


def outlined(points, kept):
    """Points as a class, and its outline of so many coordinates; a frame may be given instead."""
    store = floracle.open_store(points)
    members = floracle.Oracle(store).members()
    if isinstance(kept, Frame):
        return outline_of(members, coarse_of(store, frame=kept))
    return outline_of(members, coarse_of(store, kept=kept))


def centred_own(count=1000, dims=256):
    """An own point at the centre: no angle is unknown, and bounds fail as often as they may."""
    points = decaying(count, dims, power=0.0)
    points[0] = 0
    directions = torch.linalg.qr(torch.randn(dims, 16, generator=torch.Generator().manual_seed(1)))
    frame = Frame.along(torch.zeros(dims).double(), directions.Q.T.contiguous(), (16,))
    return outlined(points, frame), torch.zeros(1, dtype=torch.int64)


def chosen_rows(points, kept):
    return outlined(points, kept), torch.arange(len(points))


CHANCE = {
    "own at the centre": centred_own,
    "spectrum k^0, 1000 × 256": lambda: chosen_rows(decaying(1000, 256, power=0.0), 32),
    "spectrum k^-1, 1000 × 256": lambda: chosen_rows(decaying(1000, 256), 32),
    "spectrum k^-2, 1000 × 256": lambda: chosen_rows(decaying(1000, 256, power=2.0), 32),
    "CIFAR-10, 500 × 3072": lambda: (*chosen_rows(cifar10(1)[:500], 128), PAIRS // 5),
}


def chances(outline, rows, pairs=PAIRS, *, targets=20_000, seed=0):
    """How many of so many pairs fail, beside how many may; and how many targets do."""
    members = outline.members
    points = members.originals(torch.arange(len(members)))
    halves = points.square().sum(1) / 2
    halves = halves[:, None] + halves - points @ points.T
    drawn = torch.Generator().manual_seed(seed)
    failed, wrong, pruned = dict.fromkeys(FAILURES, 0), 0, 0
    for start in range(0, pairs, TOGETHER):
        count = min(TOGETHER, pairs - start)
        own = rows[torch.randint(len(rows), (count,), generator=drawn)]
        noise = torch.randn(count, members.dims, generator=drawn)
        t = torch.rand(count, generator=drawn).double() * 0.9 + 0.05
        known = known_pairs(members, LINEAR, own, noise, t)
        r, log_weights = known.ratio[:, None], members.log_weights
        pull = known.noise @ points.T - (known.noise * known.data).sum(1, keepdim=True)
        true = r * pull - r.square() * halves[own] + log_weights - log_weights[own][:, None]
        true[torch.arange(count), own] = -torch.inf
        for failure in FAILURES:
            upper = outline.upper(bounds(outline, known, failure / len(members)), slice(None))
            failed[failure] += int((true > upper).any(1).sum())
        if start < targets:
            some = wrong_targets(outline, known, true, points)
            wrong, pruned = wrong + some[0], pruned + some[1]
    rows_ = [{"failure asked": f, **counted(n, pairs, f)} for f, n in failed.items()]
    return {
        "pairs": pairs,
        "bounds": rows_,
        "targets": min(targets, pairs),
        "targets pruned": pruned,
        "targets beyond what they report": wrong,
    }


def wrong_targets(outline, known, true, points):
    """How many targets, each asked to fail once in a hundred times, err by more than they say."""
    true[torch.arange(len(true)), known.own] = 0
    means = true.softmax(1) @ points
    truth = known.conditional + known.amplification[:, None] * (means - known.data)
    rows, shape = outline.members.rows[known.own], outline.members.source.shape
    wrong = pruned = 0
    for some in torch.arange(len(rows)).split(CALL):
        found = likely_targets(
            outline,
            LINEAR,
            rows[some],
            known.noise[some].reshape(-1, *shape),
            known.t[some],
            tolerance=1e-3,
            failure=FAILURES[0] * len(some),
        )
        apart = (found.velocity.flatten(1) - truth[some]).norm(dim=1)
        wrong += int((apart > (found.error + FLOOR) * truth[some].norm(dim=1)).sum())
        pruned += int((found.touched < len(points)).sum())
    return wrong, pruned


def counted(failed, pairs, failure):
    """A count of failed pairs beside what may fail."""
    most = int(binom.ppf(1 - SURELY, pairs, failure))
    return {
        "failed": failed,
        "may fail": round(pairs * failure),
        "refuted above": most,
        "broken": failed > most,
    }


def main() -> None:
    path = RESULTS / "chances.json"
    known = json.loads(path.read_text())["measured"] if path.exists() else {}
    for name in sys.argv[1:] or CHANCE:
        started = time.perf_counter()
        known[name] = chances(*CHANCE[name]())
        known[name]["seconds"] = round(time.perf_counter() - started)
        report("chances", {"measured": known})


if __name__ == "__main__":
    main()
