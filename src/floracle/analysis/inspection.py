"""What a data set is, before anything is measured: contents, traps, cost, and the flags to use."""

from __future__ import annotations

import math
import time
from dataclasses import asdict, dataclass
from typing import Any

import torch

from floracle.core.nearest import nearest
from floracle.core.seeds import generator
from floracle.core.source import NO_LABEL, classes
from floracle.data.store import Store
from floracle.run.budget import memory_budget
from floracle.run.results import Results, provenance

SAMPLED = 256
"""Rows whose nearest neighbours are looked at."""
NEAR = 1 / 3
"""A neighbour this much nearer than usual is a near-duplicate."""
LISTED = 10
PAIRS, TIMES = 512, 50
"""What a stages run measures by default."""
CALIBRATED = 768
"""The size of the product that tells how fast this machine is."""


@dataclass(frozen=True)
class Neighbourhood:
    """How near the nearest neighbours of some rows are."""

    sampled: int
    median: float
    """The median distance to the nearest other atom."""
    near: tuple[tuple[int, int, float], ...]
    """Rows, their neighbours and distances, where these are under a third of the median."""


@dataclass(frozen=True)
class Cost:
    """What `floracle stages` would take with its defaults."""

    seconds: float
    memory: int
    """Bytes at the peak, within the budget."""
    operations: float
    read: int
    """Bytes of points that are read from their files."""


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
        cost=cost(store, memory=memory),
    )


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


def cost(store: Store, *, memory: int | str | None = None) -> Cost:
    """The time and memory of a stages run, from a product timed here and now."""
    dims = torch.Size(store.shape).numel()
    labels = [*classes(store), NO_LABEL] if len(classes(store)) > 1 else [NO_LABEL]
    counts = [len(store.atoms(label).rows) for label in labels]
    operations = sum(_operations(count, dims) for count in counts)
    resident, budget = 4 * max(counts) * dims, memory_budget(memory)
    peak = min(resident, budget // 2) + 8 * min(max(counts), dims) ** 2 + 2**28
    passes = 1 if store.resident else 3 * len(labels)
    return Cost(operations / _speed(), int(peak), operations, store.size * passes)


def _operations(count: int, dims: int) -> float:
    """Products of pairs and spectra, eigenvalues, and the curves at all times, in operations."""
    small = min(count, dims)
    products = 2.0 * (2 * PAIRS) * count * dims
    spectra = 2.0 * count * dims * small + 4 / 3 * small**3 * SLOW
    curves = 2 * PAIRS * TIMES * count * PER_WEIGHT
    return products + spectra + curves


SLOW = 6.0
"""Eigenvalues run at about a sixth of the speed of products."""
PER_WEIGHT = 60.0
"""Following one weight at one time costs about as much as so many operations of a product."""


def _speed() -> float:
    """Operations a second of a float32 product on this machine."""
    a = torch.ones(CALIBRATED, CALIBRATED)
    product = torch.empty_like(a)
    seconds = []
    for _ in range(4):  # the first one warms up
        started = time.perf_counter()
        torch.mm(a, a, out=product)
        seconds.append(time.perf_counter() - started)
    return 2 * CALIBRATED**3 / max(min(seconds), 1e-9)


def _class_sizes(store: Store) -> dict[str, int]:
    labels, counts = store.labels.unique(return_counts=True)
    names = ["none" if label < 0 else store.classes[label] for label in labels.tolist()]
    return dict(zip(names, counts.tolist(), strict=True))


def _normalizer(store: Store) -> dict[str, list[float]]:
    mean, std = store.normalizer.of(store.shape[0])
    return {"mean": mean.tolist(), "std": std.tolist()} if math.prod(store.shape) else {}
