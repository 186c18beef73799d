"""The oracle until a switch time τ and a model from there on, on one grid (Fig 5).

After the end of navigation a model only has to finish the training point that the oracle has
chosen; before it, the model navigates by itself. The distance of its samples to the nearest
training points, by τ, shows from where on the model still copies.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar

import torch
from scipy.special import betaincinv
from torch import Tensor

from floracle.analysis.curves import COVERAGE, Curve
from floracle.analysis.serialization import (
    check_kind,
    check_number,
    check_sample_dims,
    damage_is_reported,
)
from floracle.core.fields import VelocityField
from floracle.core.nearest import nearest
from floracle.core.paths import LINEAR, ProbabilityPath
from floracle.core.point_set import NO_LABEL, PointSet
from floracle.core.seeds import noise
from floracle.data.training_points import check_all_points
from floracle.models.field import check_fit
from floracle.oracle.oracle import Oracle
from floracle.run.errors import InputError
from floracle.run.results import Results, provenance
from floracle.sampling.grid import check_grid, split_grid, time_grid
from floracle.sampling.sample import expand_labels, sample

from .result_files import read_arrays, write_fields

COPY_RATIO = 1 / 3  # a sample is a copy where d₁ < d₂ / 3 (Yoon et al. 2023)
TAIL = (1 - COVERAGE) / 2  # probability on either side of an interval
KEPT_SAMPLES = 8
SAMPLES_PER_BATCH = 256

FILE_NAMES = {
    "switch_times": "taus",
    "nearest_distance": "first",
    "second_distance": "second",
    "oracle_distance": "to_own",
    "oracle_rows": "own",
    "samples": "ends",
}


@dataclass(frozen=True)
class SwitchResult:
    """Samples of the oracle until τ and of a model from there on; made by `switch_fields`."""

    kind: ClassVar[str] = "switch"
    switch_times: Tensor
    """τ, float64 [K], increasing; at 0 the model samples alone, at 1 the oracle."""
    nearest_distance: Tensor
    """d₁, to the nearest training point of the sample's class, float64 [b, K]."""
    second_distance: Tensor
    """d₂, to the second nearest, float64 [b, K]."""
    oracle_distance: Tensor
    """To the sample of the oracle alone from the same noise, float64 [b, K]."""
    rows: Tensor
    """The nearest training rows, int64 [b, K]."""
    oracle_rows: Tensor
    """The training rows nearest to the oracle's own samples, int64 [b]."""
    samples: Tensor
    """The samples of the first n seeds, [n, K, *shape]."""
    dims: int
    settings: Mapping[str, Any]
    provenance: Mapping[str, Any]

    def distance(self) -> Curve:
        """d₁ by τ, per √D."""
        return Curve.of(self.nearest_distance / self.dims**0.5)

    def distance_to_oracle(self) -> Curve:
        """The distance to the oracle's own sample by τ, per √D."""
        return Curve.of(self.oracle_distance / self.dims**0.5)

    def copy_share(self) -> tuple[Tensor, Tensor, Tensor]:
        """The share of copies, d₁ < d₂ / 3, by τ with its exact 95 % interval; [K] each.

        Exact duplicates count as one point; near-duplicates hide each other's copies.
        """
        copied = self.nearest_distance < COPY_RATIO * self.second_distance
        return binomial_share(copied.double())

    def to_results(self) -> Results:
        """As values and arrays, for `save`."""
        return write_fields(self, FILE_NAMES)

    @classmethod
    def of_results(cls, results: Results) -> SwitchResult:
        """The inverse of `to_results`."""
        shapes = {"switch_times": "K", "oracle_rows": "b", "samples": "n K …", "rows": "b K"}
        distances = ("nearest_distance", "second_distance", "oracle_distance")
        with damage_is_reported(cls.kind):
            check_kind(cls.kind, results)
            arrays = read_arrays(results, shapes | dict.fromkeys(distances, "b K"), FILE_NAMES)
            dims = check_number(results.values["dims"])
            check_sample_dims(arrays["samples"], dims)
            return cls(
                **arrays, dims=dims, settings=results.settings, provenance=results.provenance
            )


def sample_with_switch(
    first: VelocityField,
    second: VelocityField,
    x: Tensor,
    grid: Tensor,
    *,
    switch_time: float,
    labels: Tensor | int | None = None,
    solver: str = "euler",
    path: ProbabilityPath = LINEAR,
) -> Tensor:
    """Sample from x [b, *shape] with one field until `switch_time`, and with another from there.

    A switch at or before the grid's first time leaves all of it to the second field, one at or
    after its last time to the first.
    """
    grid = check_grid(grid)
    sample_on = partial(sample, labels=labels, solver=solver, path=path)
    if switch_time <= grid[0] or switch_time >= grid[-1]:
        return sample_on(second if switch_time <= grid[0] else first, x, grid)
    before, after = split_grid(grid, switch_time)
    return sample_on(second, sample_on(first, x, before), after)


@torch.no_grad()
def switch_fields(
    field: VelocityField,
    oracle: Oracle,
    *,
    switch_times: Sequence[float],
    seeds: Sequence[int],
    grid: Tensor | None = None,
    labels: Tensor | int | None = None,
    solver: str = "euler",
    kept_samples: int = KEPT_SAMPLES,
) -> SwitchResult:
    """Sample with the oracle until each switch time τ and with a model from there on (Fig 5).

    Samples of different τ start from the same noise, so they are paired.

    - `field`: The model, on the oracle's path (`on_path`).
    - `switch_times`: τ in [0, 1], increasing. At 0 the model samples alone, at 1 the oracle does.
    - `seeds`: One sample for each; sample i depends on seed i alone.
    - `grid`: Times, float64 [steps + 1]; 50 equal steps by default. Every τ is inserted.
    - `labels`: Classes int64 [b], or one for all; −1 or None for the whole set.
    - `kept_samples`: How many samples per τ the result holds, for pictures.

    Raises InputError if switch times do not increase, a label does not occur, or a class has one
    point only.
    """
    check_all_points([field], oracle.data)
    check_fit(field, oracle.data)
    times = check_switch_times(switch_times)
    grid = _insert_times(time_grid(50) if grid is None else check_grid(grid), times)
    classes = check_labels(oracle.data, labels, len(seeds))
    sample_on = partial(sample, labels=classes, solver=solver, path=oracle.path)

    # One oracle trajectory serves all τ: it pauses at each, and the model finishes a copy of its
    # state. Sampling in pieces equals the whole bit for bit, so every τ gets what it would alone.
    x, samples, remaining = noise(seeds, oracle.data.shape), [], grid
    for tau in times.tolist():
        if grid[0] < tau < grid[-1]:
            before, remaining = split_grid(remaining, tau)
            x = sample_on(oracle, x, before)
        samples.append(sample_on(oracle if tau >= grid[-1] else field, x, remaining))
    oracle_samples = sample_on(oracle, x, remaining)

    neighbours = [nearest_in_class(oracle.data, y, classes, 2) for y in samples]
    # ‖sample − oracle sample‖ in float64, [b]: past the end of navigation the two nearly agree.
    changes = [(y - oracle_samples).double().flatten(1).norm(dim=1) for y in samples]
    return SwitchResult(
        switch_times=times,
        nearest_distance=torch.stack([distances[:, 0] for distances, _ in neighbours], 1),
        second_distance=torch.stack([distances[:, 1] for distances, _ in neighbours], 1),
        oracle_distance=torch.stack(changes, 1),
        rows=torch.stack([rows[:, 0] for _, rows in neighbours], 1),
        oracle_rows=nearest_in_class(oracle.data, oracle_samples, classes, 1)[1][:, 0],
        samples=torch.stack([y[:kept_samples] for y in samples], 1),
        dims=oracle_samples[0].numel(),
        settings={
            "seeds": list(seeds),
            "steps": len(grid) - 1,
            "solver": solver,
            "path": oracle.path.name,
        },
        provenance=provenance(data=oracle.data.fingerprint),
    )


def _insert_times(grid: Tensor, times: Tensor) -> Tensor:
    """A grid of which all times that lie inside it are points."""
    for t in times.tolist():
        if grid[0] < t < grid[-1]:
            before, after = split_grid(grid, t)
            grid = torch.cat([before[:-1], after])
    return grid


def binomial_share(shares: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The mean of shares [b, K] of independent draws, and its exact 95 % interval; [K] each.

    That is Clopper and Pearson's, from quantiles of the beta distribution. Shares between 0 and 1,
    means over several noises, count by their sum.
    """
    count, total = len(shares), shares.sum(0).numpy()
    # With k of n: low = B⁻¹(.025; k, n − k + 1), high = B⁻¹(.975; k + 1, n − k). B⁻¹ is NaN where
    # its parameter is 0: at k = 0 the interval begins at 0, at k = n it ends at 1.
    low = torch.from_numpy(betaincinv(total, count - total + 1, TAIL)).nan_to_num(nan=0.0)
    high = torch.from_numpy(betaincinv(total + 1, count - total, 1 - TAIL)).nan_to_num(nan=1.0)
    return torch.from_numpy(total / count), low, high


def nearest_in_class(
    data: PointSet, x: Tensor, labels: Tensor, count: int
) -> tuple[Tensor, Tensor]:
    """Distances and rows [b, count] of the nearest training points in the class of each sample."""
    distances = torch.empty(len(x), count, dtype=torch.float64)
    rows = torch.empty(len(x), count, dtype=torch.int64)
    for label in labels.unique().tolist():
        in_class = labels == label
        neighbours = nearest(data, x[in_class], count, label=label)
        if neighbours.rows.shape[1] < count:
            name = "the data" if label == NO_LABEL else f"class {label}"
            raise InputError(f"{name} has fewer than {count} different points to compare")
        distances[in_class], rows[in_class] = neighbours.distances, neighbours.rows
    return distances, rows


def check_switch_times(switch_times: Sequence[float]) -> Tensor:
    """Switch times float64 [K]; refused unless they increase in [0, 1]."""
    times = torch.as_tensor(switch_times, dtype=torch.float64)
    inside = (times >= 0) & (times <= 1)
    if times.ndim != 1 or not len(times) or not inside.all() or (times.diff() <= 0).any():
        raise InputError(f"switching times increase and lie in [0, 1], got {times.tolist()}")
    return times


def check_labels(data: PointSet, labels: Tensor | int | None, count: int) -> Tensor:
    """Labels int64 [count] that occur in the data, −1 for the whole set."""
    if not count:
        raise InputError("no seeds given; pass at least one")
    expanded = expand_labels(torch.empty(count), NO_LABEL if labels is None else labels)
    assert expanded is not None
    for label in expanded.unique().tolist():
        if label != NO_LABEL and not (data.labels == label).any():
            raise InputError(f"class {label} does not occur in the data")
    return expanded
