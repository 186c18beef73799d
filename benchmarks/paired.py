"""Training runs side by side, paired by their seeds.

A run's `looks` are its evaluations by images seen, each with curves by t and their means over
both stages. Intervals are Student's, 95 %, over seeds of training; one that holds 0 is not
significant. All runs are evaluated on the same pairs and noise: the intervals do not hold what
others would change, and are not corrected for the many times of a table.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from scipy.stats import t as student

from floracle.report.training.figures import STAGES, halfway

UNSURE = "not significant"


def told(ours: Sequence[float], theirs: Sequence[float]) -> str:
    """The mean difference of two measurements, a number for each seed."""
    apart = np.subtract(ours, theirs)
    if len(apart) < 2:
        return f"{apart.mean():+.3g}: {UNSURE}"
    reach = student.ppf(0.975, len(apart) - 1) * apart.std(ddof=1) / len(apart) ** 0.5
    words = f"{apart.mean():+.3g} ± {reach:.2g}"
    return words if abs(apart.mean()) > reach else f"{words}: {UNSURE}"


def scores(run: dict[str, Any]) -> dict[str, float]:
    """What is compared: the last evaluation, and the samples."""
    last = run["looks"][-1]
    found = {
        f"{name}, {stage}": last[name][stage]
        for name in ("oracle", "held_out")
        if name in last
        for stage in STAGES
    }
    return found | {name: run[name] for name in ("Fréchet distance", "copies") if name in run}


def compared(ours: list[dict[str, Any]], theirs: list[dict[str, Any]]) -> dict[str, str]:
    """Some runs less others, by what was measured, and by t where they part."""
    left, right = [scores(run) for run in ours], [scores(run) for run in theirs]
    words = {name: told([s[name] for s in left], [s[name] for s in right]) for name in left[0]}
    last = [run["looks"][-1] for run in ours], [run["looks"][-1] for run in theirs]
    return words | {"oracle loss by t": by_time(*last)}


def longer(runs: list[dict[str, Any]]) -> dict[str, Any]:
    """The last evaluation less the one at half the images: what more training gave."""
    last, half = [run["looks"][-1] for run in runs], [halfway(run["looks"]) for run in runs]
    words = {
        f"{name}, {stage}": told([a[name][stage] for a in last], [b[name][stage] for b in half])
        for name in ("oracle", "held_out")
        if name in last[0]
        for stage in STAGES
    }
    return words | {"oracle loss by t": by_time(last, half)}


def remembered(runs: list[dict[str, Any]]) -> dict[str, Any]:
    """The excess loss on held-out data over training data, and the pairs' own error by t."""
    last = [run["looks"][-1]["difference"] for run in runs]
    found: dict[str, Any] = {s: told([one[s] for one in last], [0] * len(last)) for s in STAGES}
    return found | {"standard errors of the pairs": last[0]["error"]}


def by_time(ours: list[dict[str, Any]], theirs: list[dict[str, Any]]) -> dict[str, str]:
    """Differences of oracle loss at each t, also as a share of the other's loss."""
    found = {}
    for k, t in enumerate(ours[0]["t"]):
        left, right = ([look["oracle"]["mean"][k] for look in looks] for looks in (ours, theirs))
        share = np.mean(left) / np.mean(right) - 1
        found[f"{t:.3f}"] = f"{told(left, right)} ({share:+.0%})"
    return found
