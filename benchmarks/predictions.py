"""Landmarks predicted from statistics against those measured, and those of four times the points.

    python benchmarks/predictions.py [NAME …]

Of every class: the formula, the twin of its profile, and what `what_if` says from a random quarter
of it; each over what was measured, less one. Reads FLORACLE_SHARED (default ../shared).
"""

from __future__ import annotations

import time
from collections.abc import Iterable

import torch

import floracle
from areas import each_set
from floracle.analysis.stages.result import ClassStages
from floracle.core.spectrum import spectrum

PAIRS = 1024
MARKS = ("centre", "collapse", "end")
NAMES = (
    *("digits", "mnist", "fashion_mnist", "cifar10", "photographs"),
    *("VA-VAE tokens", "VA-VAE tokens, aligned"),
)
SMOOTH = ("cifar10", "photographs", "VA-VAE tokens", "VA-VAE tokens, aligned")
"""Photographs and latents; the others are drawings."""


def predicted(_: str, oracle: floracle.Oracle) -> dict:
    """All classes, or the whole set where there are none."""
    labels = [label for label in oracle.data.labels.unique().tolist() if label >= 0] or [-1]
    return {str(label): of_class(oracle.data, label) for label in labels}


def of_class(data: floracle.Store, label: int) -> dict:
    """What is predicted of a class and of a quarter of it, and measured."""
    points = data.take(data.atoms(label).rows)
    order = torch.randperm(len(points), generator=torch.Generator().manual_seed(1))
    whole = main_of(points)
    quarter = points[order[: len(points) // 4]]
    some = stages_of(quarter)
    known = floracle.profile(floracle.open_store(quarter))
    (grown,) = floracle.what_if(some, known, [len(points)])
    values = spectrum(data, label)
    profile = floracle.profile(data, label, values)
    started = time.perf_counter()
    twin = floracle.twin(profile)
    seconds = time.perf_counter() - started
    plain = floracle.twin(floracle.Profile.of_spectrum(values, len(points)))
    return {
        "points": len(points),
        "measured": {name: rounded(getattr(whole, name).value) for name in MARKS},
        "formula": off(whole, floracle.predict(len(points), spectrum=values)),
        "spectrum alone": off(whole, plain),
        "twin": off(whole, twin),
        "from a quarter": off(whole, grown),
        "seconds": round(seconds, 2),
    }


def stages_of(points: torch.Tensor) -> floracle.Stages:
    """The stages of points by themselves."""
    return floracle.stages(floracle.Oracle(floracle.open_store(points)), pairs=PAIRS)


def main_of(points: torch.Tensor) -> ClassStages:
    return stages_of(points).main


def off(group: ClassStages, expected) -> dict:
    """By what share predictions lie off."""
    found = {}
    for name in MARKS:
        value, right = getattr(expected, name, None), getattr(group, name).value
        found[name] = None if value is None or right is None else rounded(value / right - 1)
    return found


def rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 4)


def table(sets: dict) -> Iterable[str]:
    """Markdown: median and worst of each kind, in %."""
    kinds = ("formula", "spectrum alone", "twin", "from a quarter")
    yield "| | classes | " + " | ".join(f"{kind}: {', '.join(MARKS)}" for kind in kinds) + " |"
    yield "|---" * (2 + len(kinds)) + "|"
    groups = {name: list(classes.values()) for name, classes in sets.items()}
    smooth = [one for name in SMOOTH for one in groups.get(name, [])]
    drawn = [one for name, of in groups.items() if name not in SMOOTH for one in of]
    groups |= {"**photographs and latents**": smooth, "**drawings**": drawn}
    for name, classes in groups.items():
        cells = [" · ".join(spread(classes, kind, mark) for mark in MARKS) for kind in kinds]
        yield f"| {name} | {len(classes)} | " + " | ".join(cells) + " |"


def spread(classes: list, kind: str, mark: str) -> str:
    """Median of sizes, and the least and the largest."""
    values = sorted(100 * one[kind][mark] for one in classes if one[kind][mark] is not None)
    if not values:
        return "–"
    middle = sorted(map(abs, values))[len(values) // 2]
    return f"{middle:.1f} ({values[0]:+.1f} … {values[-1]:+.1f})".replace("-", "−")


if __name__ == "__main__":
    each_set("predictions", NAMES, predicted, table, pairs=PAIRS)
