"""How often the 95 % intervals of stages hold what all pairs together give.

    python benchmarks/coverage.py [NAME …]

Two hundred independent draws of pairs of one class each; the truth is what the pairs of all draws
give together. The gap counts at every time up to the collapse, with 1.96 of its errors.
"""

from __future__ import annotations

from dataclasses import replace

import torch

import floracle
from areas import each_set
from floracle.analysis.curves import END_WEIGHT, first_crossings
from floracle.analysis.stages.measure import measure_class, plan_stages
from times import CLASSES

DRAWS = 200
PAIRS = (256, 512)
NAMES = ("digits", "mnist", "fashion_mnist", "cifar10", "VA-VAE tokens")
LANDMARKS = ("centre", "collapse", "end")


def counted(name: str, oracle: floracle.Oracle) -> dict:
    """The share of intervals that hold the truth, by pairs and by what is estimated."""
    label = CLASSES.get(name, -1)
    drawn = {pairs: draws(oracle, label, pairs) for pairs in PAIRS}
    most = drawn[max(PAIRS)]
    times = plan_stages(oracle, labels=[label]).times
    truth = {
        name: torch.stack([group.curves[name].mean for group in most]).mean(0)
        for name in ("information", "self_weight", "max_weight", "gap", "entropy")
    }
    levels = {
        "centre": ("information", most[0].max_information / 2),
        "collapse": ("self_weight", 0.5),
    }
    levels["end"] = ("max_weight", END_WEIGHT)
    along = most[0].predicted_information
    right = {
        name: float(first_crossings(times, truth[curve][None], level, along=along)[0])
        for name, (curve, level) in levels.items()
    }
    before = times <= right["collapse"]
    area = most[0].max_information - float(truth["entropy"][-1])
    found = {}
    for pairs, groups in drawn.items():
        row = {}
        for name in LANDMARKS:
            marks = [getattr(group, name) for group in groups]
            ends = [mark.ends if mark.value is not None else (1.0, 1.0) for mark in marks]
            row[name] = sum(low <= right[name] <= high for low, high in ends) / DRAWS
        off = [abs(group.area.value - area) <= 1.96 * group.area.error for group in groups]
        gaps = [
            ((group.curves["gap"].mean - truth["gap"]).abs() <= 1.96 * group.curves["gap"].error)
            for group in groups
        ]
        row |= {
            "area": sum(off) / DRAWS,
            "gap": round(float(torch.stack(gaps)[:, before].double().mean()), 3),
        }
        found[str(pairs)] = row
    return found


def draws(oracle: floracle.Oracle, label: int, pairs: int) -> list:
    """The stages of one class from so many pairs, again and again."""
    plan = plan_stages(oracle, labels=[label], pairs=pairs)
    seeds = range(DRAWS)
    return [measure_class(oracle, replace(plan, seed=seed), label) for seed in seeds]


def table(sets: dict):
    """Markdown."""
    yield "| | pairs | " + " | ".join((*LANDMARKS, "area", "gap")) + " |"
    yield "|---" * 7 + "|"
    for name, found in sets.items():
        for pairs, row in found.items():
            yield f"| {name} | {pairs} | " + " | ".join(f"{v:.3f}" for v in row.values()) + " |"


if __name__ == "__main__":
    each_set("coverage", NAMES, counted, table, draws=DRAWS)
