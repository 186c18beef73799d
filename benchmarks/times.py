"""What few times leave open: landmarks and gaps between the times, against four hundred times.

    python benchmarks/times.py [NAME …]

The pairs are the same whatever the times are, so that nothing but the times differs. Of each of
the landmarks: how far it lies off, as a share of half of its 95 % interval. Of the gap between the
times up to the collapse: the largest share by which it is off, of cubics (`Stages.gap_at`) and of
straight lines in t.
"""

from __future__ import annotations

import numpy as np
import torch

import floracle
from areas import each_set

COUNTS = (12, 16, 20, 30, 50, 100, 200)
REFERENCE = 400
CLASSES = {"digits": 3, "mnist": 1, "fashion_mnist": 6, "cifar10": 0, "photographs": 0}
"""Of these sets one class, of others the whole set."""
NAMES = (*CLASSES, "VA-VAE tokens")


def compared(name: str, oracle: floracle.Oracle) -> dict:
    """One class by every number of times."""
    label = CLASSES.get(name, -1)
    fine = floracle.stages(oracle, times=REFERENCE, classes=[label])
    before = fine.times <= fine.main.collapse.value
    found = {}
    for count in COUNTS:
        some = floracle.stages(oracle, times=count, classes=[label])
        gap, known = some.gap_at(fine.times).mean, fine.curves["gap"].mean
        line = np.interp(fine.times, some.times, some.curves["gap"].mean)
        found[str(count)] = {
            "first time": round(float(some.times[1]), 3),
            **{mark: off(some, fine, mark) for mark in ("centre", "collapse", "end")},
            "gap, cubics": round(float((gap / known - 1)[before].abs().max()), 5),
            "gap, lines": round(
                float((torch.from_numpy(line) / known - 1)[before].abs().max()), 5
            ),
        }
    return found


def off(some: floracle.Stages, fine: floracle.Stages, name: str) -> float | None:
    """How far a landmark lies off, over half of its interval."""
    mark, right = getattr(some.main, name), getattr(fine.main, name)
    if mark.value is None or right.value is None:
        return None
    return round((mark.value - right.value) / ((mark.high - mark.low) / 2), 2)


def table(sets: dict):
    """Markdown: the largest over sets, by number of times."""
    yield "| times | centre | collapse | end | gap off by at most | along straight lines |"
    yield "|---|---|---|---|---|---|"
    for count in COUNTS:
        rows = [found[str(count)] for found in sets.values()]
        marks = [
            max(abs(row[name]) for row in rows if row[name] is not None)
            for name in ("centre", "collapse", "end")
        ]
        gaps = [100 * max(row[name] for row in rows) for name in ("gap, cubics", "gap, lines")]
        cells = [*(f"{mark:.2f}" for mark in marks), *(f"{gap:.2f} %" for gap in gaps)]
        yield f"| {count} | " + " | ".join(cells) + " |"


if __name__ == "__main__":
    each_set("times", NAMES, compared, table)
