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

from .cost.estimate import Cost, estimate_cost
from .cost.stages_shape import StagesShape

DEFAULT_PAIRS, DEFAULT_TIMES = 512, 50
"""Of a stages run."""
SAMPLED_ROWS = 256
"""Rows whose nearest neighbours are searched."""
NEAR_DUPLICATE_DISTANCE = 1 / 3
"""Nearer neighbours than this share of the median are near-duplicates."""


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


def usual_run(store: Store, memory: int | str | None) -> StagesShape:
    """A stages run with defaults: all classes, and the whole set."""
    present = classes(store)
    labels = (*present, NO_LABEL) if len(present) > 1 else (NO_LABEL,)
    return StagesShape(store, labels, DEFAULT_PAIRS, DEFAULT_TIMES, memory=memory)


def neighbourhood(store: Store, *, sampled: int = SAMPLED_ROWS, seed: int = 0) -> Neighbourhood:
    """The nearest other atoms of some rows; exact."""
    atoms = store.atoms().rows
    if len(atoms) < 2:
        return Neighbourhood(0, 0.0, ())
    sample = torch.randperm(len(atoms), generator=generator(seed))[:sampled].sort().values
    rows = atoms[sample]
    pair = nearest(store, store.take(rows), k=2)
    # the nearest is the row itself, unless a near-duplicate ties with it
    other = torch.where(pair.rows[:, 0] == rows, 1, 0)[:, None]
    distances = pair.distances.gather(1, other)[:, 0]
    neighbours = pair.rows.gather(1, other)[:, 0]
    median = float(distances.median())
    near = (distances < NEAR_DUPLICATE_DISTANCE * median).nonzero()[:, 0]
    pairs = [(int(rows[i]), int(neighbours[i]), float(distances[i])) for i in near]
    return Neighbourhood(len(rows), median, tuple(pairs))


def _class_sizes(store: Store) -> dict[str, int]:
    labels, counts = store.labels.unique(return_counts=True)
    names = ["none" if label < 0 else store.classes[label] for label in labels.tolist()]
    return dict(zip(names, counts.tolist(), strict=True))


def _normalizer(store: Store) -> dict[str, list[float]]:
    mean, std = store.normalizer.per_channel(store.shape[0])
    return {"mean": mean.tolist(), "std": std.tolist()} if math.prod(store.shape) else {}
