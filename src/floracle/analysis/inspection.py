"""What a data set is, before anything is measured: contents, traps, cost, and the flags to use."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any

import torch

from floracle.core.nearest import nearest
from floracle.core.point_set import NO_LABEL, classes
from floracle.core.seeds import generator
from floracle.data.store import Store
from floracle.run.results import Results, provenance

from .cost import Cost, estimate_cost
from .memory_needs import StagesRun

PAIRS, TIMES = 512, 50
"""What a stages run measures unless told otherwise."""

SAMPLED = 256
"""Rows whose nearest neighbours are looked at."""
NEAR = 1 / 3
"""A neighbour this much nearer than usual is a near-duplicate."""
LISTED = 10


@dataclass(frozen=True)
class Neighbourhood:
    """How near the nearest neighbours of some rows are."""

    sampled: int
    median: float
    """The median distance to the nearest other atom."""
    near: tuple[tuple[int, int, float], ...]
    """Rows, their neighbours and distances, where these are under a third of the median."""


@dataclass(frozen=True)
class Inspection:
    """A data set described; `to_results` has all of it."""

    name: str
    layout: str
    points: int
    shape: tuple[int, ...]
    dtype: str
    """As stored."""
    classes: dict[str, int]
    """Rows by class name; those without a label under "none"."""
    channels: dict[str, list[float]]
    """Mean, std, low and high of every channel of the points."""
    normalizer: dict[str, list[float]]
    duplicates: int
    neighbourhood: Neighbourhood
    flips: bool
    moments: str
    size: int
    fingerprint: str
    remarks: tuple[str, ...]
    cost: Cost

    def to_results(self) -> Results:
        """As values for JSON."""
        values: dict[str, Any] = asdict(self)
        return Results("inspection", {}, values, {}, provenance(data=self.fingerprint))


def inspect(
    store: Store, *, moments: str = "samples", memory: int | str | None = None
) -> Inspection:
    """Describe an opened data set; `moments` says how its points came about."""
    return Inspection(
        name=store.name,
        layout=store.layout,
        points=len(store),
        shape=store.shape,
        dtype=str(store.dtype).removeprefix("torch."),
        classes=_class_sizes(store),
        channels={
            name: [float(value) for value in getattr(store.channels, name)]
            for name in ("mean", "std", "low", "high")
        },
        normalizer=_normalizer(store),
        duplicates=store.duplicates,
        neighbourhood=neighbourhood(store),
        flips=store.flips,
        moments=moments,
        size=store.size,
        fingerprint=store.fingerprint,
        remarks=store.remarks,
        cost=estimate_cost(usual_run(store, memory)),
    )


def usual_run(store: Store, memory: int | str | None) -> StagesRun:
    """A stages run with defaults: all classes, and the whole set."""
    known = classes(store)
    labels = (*known, NO_LABEL) if len(known) > 1 else (NO_LABEL,)
    return StagesRun(store, labels, PAIRS, TIMES, memory=memory)


def neighbourhood(store: Store, *, sampled: int = SAMPLED, seed: int = 0) -> Neighbourhood:
    """The nearest other atoms of some rows; exact."""
    atoms = store.atoms().rows
    if len(atoms) < 2:
        return Neighbourhood(0, 0.0, ())
    chosen = torch.randperm(len(atoms), generator=generator(seed))[:sampled].sort().values
    rows = atoms[chosen]
    found = nearest(store, store.take(rows), k=2)
    other = torch.where(found.rows[:, 0] == rows, 1, 0)[:, None]
    distances = found.distances.gather(1, other)[:, 0]
    neighbours = found.rows.gather(1, other)[:, 0]
    median = float(distances.median())
    near = (distances < NEAR * median).nonzero()[:, 0]
    pairs = [(int(rows[i]), int(neighbours[i]), float(distances[i])) for i in near]
    return Neighbourhood(len(rows), median, tuple(pairs))


def _class_sizes(store: Store) -> dict[str, int]:
    labels, counts = store.labels.unique(return_counts=True)
    names = ["none" if label < 0 else store.classes[label] for label in labels.tolist()]
    return dict(zip(names, counts.tolist(), strict=True))


def _normalizer(store: Store) -> dict[str, list[float]]:
    mean, std = store.normalizer.per_channel(store.shape[0])
    return {"mean": mean.tolist(), "std": std.tolist()} if math.prod(store.shape) else {}
