"""Two fields on the two pieces of one grid: the oracle until τ, a field from there on (Fig 5).

Where the oracle has brought samples to the end of its navigation, a field that follows it can only
finish a training sample; before, it has to find a way of its own. How far it ends from the nearest
training points, by τ, tells from where on a model still does so.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from scipy.special import betaincinv
from torch import Tensor

from floracle.analysis.curves import COVERED, Curve
from floracle.analysis.serialization import (
    as_results,
    check_ends,
    check_kind,
    check_shapes,
    number,
    reading,
)
from floracle.core.fields import VelocityField
from floracle.core.nearest import nearest
from floracle.core.paths import LINEAR, ProbabilityPath
from floracle.core.point_set import NO_LABEL, PointSet
from floracle.core.seeds import noise
from floracle.oracle.oracle import Oracle
from floracle.run.errors import InputError
from floracle.run.results import Results, provenance
from floracle.sampling.grid import check_grid, split_grid, time_grid
from floracle.sampling.sample import labels_of, sample

COPIED = 1 / 3
"""A sample is a copy where its nearest training point is this much nearer than the second."""
TAIL = (1 - COVERED) / 2
SHOWN = 8
"""Samples whose ends are kept for pictures."""


def mixed(
    first: VelocityField,
    then: VelocityField,
    x: Tensor,
    grid: Tensor,
    *,
    at: float,
    labels: Tensor | int | None = None,
    solver: str = "euler",
    path: ProbabilityPath = LINEAR,
) -> Tensor:
    """Follow one field from x [b, *shape] until the time `at` of a grid, and another from there.

    Up to its first time the grid is the second field's alone, from its last on the first's.
    """
    grid = check_grid(grid)
    known: dict[str, Any] = {"labels": labels, "solver": solver, "path": path}
    if at <= grid[0] or at >= grid[-1]:
        return sample(then if at <= grid[0] else first, x, grid, **known)
    early, late = split_grid(grid, at)
    x = sample(first, x, early, **known)
    return sample(then, x, late, **known)


@dataclass(frozen=True)
class SwitchResult:
    """Where samples end that follow the oracle until τ and a field from there on (Fig 5)."""

    kind: ClassVar[str] = "switch"
    taus: Tensor
    """float64 [K], increasing; at 0 the field is alone, at 1 the oracle."""
    first: Tensor
    """Distance to the nearest training point of the sample's class, float64 [b, K]."""
    second: Tensor
    """Distance to the second nearest."""
    to_own: Tensor
    """Distance to where the oracle alone would have ended."""
    rows: Tensor
    """The nearest training rows, int64 [b, K]."""
    own: Tensor
    """The rows nearest to where the oracle alone ends, int64 [b]."""
    ends: Tensor
    """Where the first few of them end, [n, K, *shape]."""
    dims: int
    settings: Mapping[str, Any]
    provenance: Mapping[str, Any]

    def distance(self) -> Curve:
        """The distance to the nearest training point by τ, per √D."""
        return Curve.of(self.first / self.dims**0.5)

    def from_own(self) -> Curve:
        """The distance to the oracle's own end by τ, per √D."""
        return Curve.of(self.to_own / self.dims**0.5)

    def copied(self) -> tuple[Tensor, Tensor, Tensor]:
        """The share of copies, d1 < d2 / 3, by τ with its exact 95 % interval; [K] each.

        Near-duplicates hide each other's copies; exact ones are one point.
        """
        return share_of((self.first < COPIED * self.second).double())

    def to_results(self) -> Results:
        """As values and arrays, for `save`."""
        return as_results(self)

    @classmethod
    def of_results(cls, found: Results) -> SwitchResult:
        """What was saved."""
        shapes = {"taus": "K", "own": "b", "ends": "n K …"}
        shapes |= dict.fromkeys(("first", "second", "to_own", "rows"), "b K")
        with reading(cls.kind):
            check_kind(cls.kind, found)
            check_shapes(found.arrays, shapes)
            arrays = {name: found.arrays[name] for name in shapes}
            dims = number(found.values["dims"])
            check_ends(arrays["ends"], dims)
            return cls(**arrays, dims=dims, settings=found.settings, provenance=found.provenance)


@torch.no_grad()
def switch_fields(
    field: VelocityField,
    oracle: Oracle,
    *,
    taus: Sequence[float],
    seeds: Sequence[int],
    grid: Tensor | None = None,
    labels: Tensor | int | None = None,
    solver: str = "euler",
    shown: int = SHOWN,
) -> SwitchResult:
    """Follow the oracle to each τ and the field from there, from the noise of each seed.

    All τ become points of the one grid (50 steps unless given), so the oracle is followed once.
    The field lives on the oracle's path (`on_path`), and times are that path's.
    The ends of the first `shown` seeds are kept.
    """
    times, grid = checked_taus(taus), time_grid(50) if grid is None else check_grid(grid)
    for tau in times.tolist():
        if grid[0] < tau < grid[-1]:
            early, late = split_grid(grid, tau)
            grid = torch.cat([early[:-1], late])
    given = given_labels(oracle.data, labels, len(seeds))
    x = noise(seeds, oracle.data.shape)
    known: dict[str, Any] = {"labels": given, "solver": solver, "path": oracle.path}
    ends, remaining = [], grid
    for tau in times.tolist():
        if grid[0] < tau < grid[-1]:
            early, remaining = split_grid(remaining, tau)
            x = sample(oracle, x, early, **known)
        chosen = oracle if tau >= grid[-1] else field
        ends.append(sample(chosen, x, remaining, **known))
    own = sample(oracle, x, remaining, **known)
    near = [near_in_class(oracle.data, end, given, 2) for end in ends]
    return SwitchResult(
        taus=times,
        first=torch.stack([distances[:, 0] for distances, _ in near], 1),
        second=torch.stack([distances[:, 1] for distances, _ in near], 1),
        to_own=torch.stack([(end - own).double().flatten(1).norm(dim=1) for end in ends], 1),
        rows=torch.stack([rows[:, 0] for _, rows in near], 1),
        own=near_in_class(oracle.data, own, given, 1)[1][:, 0],
        ends=torch.stack([end[:shown] for end in ends], 1),
        dims=own[0].numel(),
        settings={
            "seeds": list(seeds),
            "steps": len(grid) - 1,
            "solver": solver,
            "path": oracle.path.name,
        },
        provenance=provenance(data=oracle.data.fingerprint),
    )


def share_of(copies: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The mean of shares [b, K] over what was drawn independently, and its exact 95 % interval.

    Shares that are neither 0 nor 1, those of several noises, count like as many whole ones.
    """
    count, found = len(copies), copies.sum(0).numpy()
    low = torch.from_numpy(betaincinv(found, count - found + 1, TAIL)).nan_to_num(nan=0.0)
    high = torch.from_numpy(betaincinv(found + 1, count - found, 1 - TAIL)).nan_to_num(nan=1.0)
    return torch.from_numpy(found / count), low, high


def near_in_class(data: PointSet, x: Tensor, labels: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """Distances and rows [b, count] of the nearest atoms in the class of each sample."""
    distances = torch.empty(len(x), count, dtype=torch.float64)
    rows = torch.empty(len(x), count, dtype=torch.int64)
    for label in labels.unique().tolist():
        here = labels == label
        found = nearest(data, x[here], count, label=label)
        if found.rows.shape[1] < count:
            where = "the data" if label == NO_LABEL else f"class {label}"
            raise InputError(f"{where} has fewer than {count} different points to compare")
        distances[here], rows[here] = found.distances, found.rows
    return distances, rows


def checked_taus(taus: Sequence[float]) -> Tensor:
    """Switching times float64 [K] that increase in [0, 1]."""
    found = torch.as_tensor(taus, dtype=torch.float64)
    inside = (found >= 0) & (found <= 1)
    if found.ndim != 1 or not len(found) or not inside.all() or (found.diff() <= 0).any():
        raise InputError(f"switching times increase and lie in [0, 1], got {found.tolist()}")
    return found


def given_labels(data: PointSet, labels: Tensor | int | None, count: int) -> Tensor:
    """Labels int64 [count] that occur in the data, −1 for the whole set."""
    if not count:
        raise InputError("there is nothing to follow; give at least one seed")
    given = labels_of(torch.empty(count), NO_LABEL if labels is None else labels)
    assert given is not None
    for label in given.unique().tolist():
        if label != NO_LABEL and not (data.labels == label).any():
            raise InputError(f"there is no class {label}; the labels of the data are others")
    return given
