"""The information law on real data, class by class with twenty seeds, and what a control is worth.

    python benchmarks/areas.py [NAME …]

Of every class: how many standard errors the measured area lies off H(w), the error as a share of
H(w), and the error of the gap with its control over that without, time by time. Reads
FLORACLE_SHARED (default ../shared).
"""

from __future__ import annotations

import json
import sys
import tempfile
from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path

import torch

import floracle
from floracle.analysis.curves import standard_error
from floracle.analysis.stages.class_stages import LAW_MAX_RELATIVE_ERROR, LAW_STANDARD_ERRORS
from floracle.analysis.stages.information import information_area
from floracle.analysis.stages.measure import apply_control, draw_pairs, measure_pairs, plan_stages
from measure import RESULTS, report
from real_data import SHARED, cifar10

SEEDS = 20
DATA = SHARED / "data"
PLACES = {
    "digits": lambda _: floracle.open_store("digits"),
    "mnist": lambda _: floracle.open_store(DATA / "mnist"),
    "fashion_mnist": lambda _: floracle.open_store(DATA / "fashion_mnist"),
    "cifar10": lambda folder: floracle.open_store(cifar10(folder)),
    "cifar10 mirrored": lambda folder: floracle.open_store(cifar10(folder), flips=True),
    "photographs": lambda _: floracle.open_store(DATA / "images256" / "train"),
    "VA-VAE tokens": lambda _: floracle.open_store(DATA / "vavae_tokens" / "f16d32.safetensors"),
    "VA-VAE tokens, aligned": lambda _: floracle.open_store(
        DATA / "vavae_tokens" / "f16d32_vfdinov2.safetensors"
    ),
}


def each_set(
    result: str,
    names: Iterable[str],
    measure: Callable[[str, floracle.Oracle], dict],
    table: Callable[[dict], Iterable[str]],
    **facts: object,
) -> None:
    """Measure the sets that are named, or all, and keep what was measured of the others."""
    path = RESULTS / f"{result}.json"
    known = json.loads(path.read_text())["sets"] if path.exists() else {}
    for name in sys.argv[1:] or names:
        with tempfile.TemporaryDirectory() as folder:
            known[name] = measure(name, floracle.Oracle(PLACES[name](Path(folder))))
        known = {one: known[one] for one in PLACES if one in known}
        report(result, {**facts, "sets": known})
    print("\n".join(table(known)))


def measured(_: str, oracle: floracle.Oracle) -> dict:
    """All classes, or the whole set where there are none, with all seeds."""
    plan, found = plan_stages(oracle), {}
    labels = [label for label in plan.labels if label >= 0] or list(plan.labels)
    for label in labels:
        predicted = plan.predicted(oracle.path, label)
        rows = []
        for seed in range(SEEDS):
            own = replace(plan, seed=seed)
            pairs = measure_pairs(oracle, own, draw_pairs(oracle, own, label))
            area = information_area(plan.times, pairs.variance, predicted)
            known = plan.entropy_nats[label] - float(pairs.entropy[:, -1].mean())
            bound = predicted.information(plan.times)
            gap = apply_control(pairs, bound, plan.entropy_nats[label])
            plain = standard_error(pairs.variance).clamp(min=1e-300)
            share = (standard_error(gap) / plain)[bound <= plan.entropy_nats[label] / 2]
            rows.append((area.value - known, area.error, share, bool((gap.mean(0) < 0).any())))
        off = torch.tensor([row[0] / row[1] for row in rows])
        share = torch.tensor([row[1] / plan.entropy_nats[label] for row in rows])
        shares = torch.stack([row[2] for row in rows])
        found[str(label)] = {
            "knowable": round(plan.entropy_nats[label], 4),
            "beyond four errors": int((off.abs() > LAW_STANDARD_ERRORS).sum()),
            "largest, errors": round(float(off.abs().max()), 2),
            "root mean square, errors": round(float(off.square().mean().sqrt()), 2),
            "median error, % of H(w)": round(100 * float(share.median()), 2),
            "largest error, % of H(w)": round(100 * float(share.max()), 2),
            "not checked": int((share > LAW_MAX_RELATIVE_ERROR).sum()),
            "negative gaps": sum(row[3] for row in rows),
            "gap error over plain at the first times": [
                round(float(value), 3) for value in shares[:, :6].mean(0)
            ],
            "at most, at any time": round(float(shares.max()), 3),
        }
    return found


def summary(classes: dict) -> dict:
    """Of a set: how often the law is as it should be."""

    def every(name: str) -> list:
        return [one[name] for one in classes.values()]

    first = every("gap error over plain at the first times")
    return {
        "areas": SEEDS * len(classes),
        "beyond four errors": sum(every("beyond four errors")),
        "largest, errors": max(every("largest, errors")),
        "median error, % of H(w)": sorted(every("median error, % of H(w)"))[len(classes) // 2],
        "largest error, % of H(w)": max(every("largest error, % of H(w)")),
        "not checked": sum(every("not checked")),
        "negative gaps": sum(every("negative gaps")),
        "gap error over plain at t = 0": max(one[0] for one in first),
        "at the second time": round(sum(one[1] for one in first) / len(first), 3),
        "at most, at any time": max(every("at most, at any time")),
    }


def table(sets: dict):
    """Markdown."""
    rows = {name: summary(classes) for name, classes in sets.items()}
    columns = list(next(iter(rows.values())))
    yield "| | " + " | ".join(columns) + " |"
    yield "|---" * (len(columns) + 1) + "|"
    for name, row in rows.items():
        yield f"| {name} | " + " | ".join(str(row[column]) for column in columns) + " |"


if __name__ == "__main__":
    each_set("areas", PLACES, measured, table, seeds=SEEDS)
