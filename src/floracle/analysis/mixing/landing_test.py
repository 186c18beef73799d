"""Where a model's navigation leads: the model until τ, the exact oracle after.

The exact oracle carries whatever has the distribution of x_τ to a training point drawn in
proportion to its weight w. Where a model's states at τ land otherwise, its navigation is not that
of the data. With O_i of n seeds on training point i the statistic is

    χ² = Σ (O_i − n w_i)² / (n w_i),        effective number = 1 / Σ p²,

p the model's own probabilities; Σ p² is the chance that two seeds land on the same point,
estimated without bias over all pairs of seeds. Euler steps change the null distribution little:
χ²/dof is .99 to 1.04 for 50 steps of the oracle alone. The test is necessary, not sufficient.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import comb
from typing import Any, ClassVar, NamedTuple

import torch
from scipy.special import gammaincinv
from torch import Tensor

from floracle.analysis.curves import COVERAGE
from floracle.analysis.serialization import check_kind, check_number, damage_is_reported
from floracle.core.fields import VelocityField
from floracle.core.point_set import PointSet
from floracle.core.seeds import generator, noise
from floracle.data.training_points import check_all_points
from floracle.models.field import check_fit
from floracle.oracle.oracle import Oracle
from floracle.run.errors import InputError
from floracle.run.results import Results, provenance
from floracle.sampling.grid import check_grid, time_grid

from .field_switching import (
    SAMPLES_PER_BATCH,
    TAIL,
    check_labels,
    nearest_in_class,
    sample_with_switch,
)
from .result_files import read_arrays, write_fields

MIN_COINCIDENCES = 12.0
"""Coincidences expected of the oracle from which on the test notices a model that knows half of
the data with a chance of .9: a Poisson number of 24 passes 12 + 1.645 √12 that often."""
NULL_DRAWS = 999  # so that the smallest p-value is .001
NULL_VALUES = 2**22  # numbers of the null distribution that are held at a time

FILE_NAMES = {
    "switch_time": "tau",
    "degrees": "freedom",
    "p_value": "chance",
    "oracle_effective": "knowable",
}


class Fit(NamedTuple):
    """Landings against the weights of the data."""

    chi2: float
    degrees: int
    """Degrees of freedom."""
    p_value: float
    """The share of draws from the exact null distribution with as large a χ²."""


class Diversity(NamedTuple):
    """How many different training points are landed on, from pairs of seeds that coincide."""

    coincidences: int
    """Pairs of seeds of a class that land on the same point."""
    expected: float
    """Their number expected of the oracle."""
    effective: float | None
    """1 / Σ p², summed over the classes asked for; None where nothing coincides."""
    low: float
    """The lower end of its 95 % interval."""
    high: float | None
    """The upper end; None where nothing coincides, since it is open then."""
    oracle_effective: float
    """1 / Σ w², the effective number of the oracle."""


@dataclass(frozen=True)
class LandingResult:
    """Where the exact oracle lands from a model's states at τ; made by `landing_test`."""

    kind: ClassVar[str] = "landing"
    switch_time: float
    rows: Tensor
    """The training rows landed on, int64 [b]."""
    misses: Tensor
    """The distance from them, per √D, float64 [b]."""
    fit: Fit
    diversity: Diversity
    settings: Mapping[str, Any]
    provenance: Mapping[str, Any]

    @property
    def verdict(self) -> str:
        """One of "lands elsewhere", "lands like the oracle" and "not significant"."""
        if self.fit.p_value < 1 - COVERAGE:
            return "lands elsewhere"
        enough = self.diversity.expected >= MIN_COINCIDENCES
        return "lands like the oracle" if enough else "not significant"

    def __str__(self) -> str:
        diversity = self.diversity
        effective, high = (
            "∞" if value is None else f"{value:.0f}"
            for value in (diversity.effective, diversity.high)
        )
        return (
            f"{self.verdict}: χ²/dof {self.fit.chi2 / self.fit.degrees:.2f}"
            f" (p = {self.fit.p_value:.3f}), effective number {effective}"
            f" [{diversity.low:.0f}, {high}] of {diversity.oracle_effective:.0f}"
        )

    def to_results(self) -> Results:
        """As values and arrays, for `save`."""
        return write_fields(self, FILE_NAMES)

    @classmethod
    def of_results(cls, results: Results) -> LandingResult:
        """The inverse of `to_results`."""
        with damage_is_reported(cls.kind):
            check_kind(cls.kind, results)
            values = results.values
            return cls(
                **read_arrays(results, {"rows": "b", "misses": "b"}, FILE_NAMES),
                switch_time=check_number(values["tau"]),
                fit=Fit(*_read_numbers(values["fit"], Fit._fields)),
                diversity=Diversity(*_read_numbers(values["diversity"], Diversity._fields)),
                settings=results.settings,
                provenance=results.provenance,
            )


def _read_numbers(values: Mapping[str, Any], fields: Sequence[str]) -> Iterator[Any]:
    for field in fields:
        value = values[FILE_NAMES.get(field, field)]
        yield None if value is None else check_number(value)


@torch.no_grad()
def landing_test(
    field: VelocityField,
    oracle: Oracle,
    *,
    switch_time: float,
    seeds: Sequence[int],
    grid: Tensor | None = None,
    labels: Tensor | int | None = None,
    solver: str = "euler",
) -> LandingResult:
    """Sample with a model until τ and with the exact oracle from there; test where seeds land.

    - `field`: The model, on the oracle's path (`on_path`).
    - `switch_time`: τ in [0, 1); at 0 the oracle samples alone.
    - `seeds`: At least two. A verdict takes about √(24 / Σw²) of a class, so √(24 N) for N equal
      weights.
    - `grid`: Times, float64 [steps + 1], ending at 1; 50 equal steps by default.
    - `labels`: Classes int64 [b], or one for all; −1 or None for the whole set.
    """
    check_all_points([field], oracle.data)
    check_fit(field, oracle.data)
    grid = time_grid(50) if grid is None else check_grid(grid)
    if grid[-1] != 1 or not grid[0] <= switch_time < 1:
        raise InputError(
            f"samples land at t = 1, from a τ before; got τ = {switch_time:g}, {grid[-1]:g}"
        )
    if len(seeds) < 2:
        raise InputError(f"a landing test compares at least 2 seeds, got {len(seeds)}")
    classes, samples = check_labels(oracle.data, labels, len(seeds)), []
    for start in range(0, len(seeds), SAMPLES_PER_BATCH):
        batch = slice(start, start + SAMPLES_PER_BATCH)
        samples.append(
            sample_with_switch(
                field,
                oracle,
                noise(seeds[batch], oracle.data.shape),
                grid,
                switch_time=switch_time,
                labels=classes[batch],
                solver=solver,
                path=oracle.path,
            )
        )
    ends = torch.cat(samples)
    distances, rows = nearest_in_class(oracle.data, ends, classes, 1)
    return LandingResult(
        switch_time=float(switch_time),
        rows=rows[:, 0],
        misses=distances[:, 0] / ends[0].numel() ** 0.5,
        fit=goodness_of_fit(oracle.data, rows[:, 0], classes, seed=seeds[0]),
        diversity=estimate_diversity(oracle.data, rows[:, 0], classes),
        settings={
            "tau": switch_time,
            "seeds": list(seeds),
            "steps": len(grid) - 1,
            "solver": solver,
            "path": oracle.path.name,
        },
        provenance=provenance(data=oracle.data.fingerprint),
    )


def goodness_of_fit(data: PointSet, rows: Tensor, labels: Tensor, *, seed: int = 0) -> Fit:
    """Test whether rows [b], landed on by seeds of labels [b], are drawn as the points weigh."""
    source, chi2, degrees = generator(seed), 0.0, 0
    null = torch.zeros(NULL_DRAWS, dtype=torch.float64)
    for weights, counts in _count_landings(data, rows, labels):
        chi2 += float(_chi_squared(counts[None], weights)[0])
        null += _draw_null(weights, int(counts.sum()), source)
        degrees += len(weights) - 1
    if not degrees:
        raise InputError("a class of a single point can only be landed on; take others")
    # The observed value counts as one more draw, so that p is never 0 and the test is exact. The
    # factor lets equal statistics be equal although their sums round differently.
    larger = int((null >= chi2 * (1 - 1e-9)).sum())
    return Fit(chi2, degrees, (1 + larger) / (NULL_DRAWS + 1))


def estimate_diversity(data: PointSet, rows: Tensor, labels: Tensor) -> Diversity:
    """The effective number of training points among rows [b], landed on by seeds of labels [b].

    Coincidences are taken as a Poisson number whose variance is estimated from triples of seeds.
    No effective number exceeds the number of points.
    """
    pairs, triples, square, expected, oracle_effective, points = 0, 0, 0.0, 0.0, 0.0, 0
    for weights, counts in _count_landings(data, rows, labels):
        seeds, repeated = int(counts.sum()), [n for n in counts.tolist() if n > 1]
        class_pairs = sum(comb(n, 2) for n in repeated)
        concentration = float(weights.square().sum())  # Σ w²: two seeds of the oracle coincide
        pairs += class_pairs
        triples += sum(comb(n, 3) for n in repeated)
        square += 4 * class_pairs**2 / seeds
        expected += comb(seeds, 2) * concentration  # E[C] of the oracle, n (n − 1) / 2 · Σ w²
        oracle_effective += 1 / concentration
        points += len(weights)
    if not expected:
        raise InputError("no class has two seeds that could coincide; give more seeds")
    # Var[C] of the number C of coincidences is E[C] + 6 triples − 4 C² / n, over the mean C.
    # At least 1: the interval must not become narrower than that of a Poisson number.
    dispersion = max(1.0, (pairs + 6 * triples - square) / max(pairs, 1))
    low, high = _poisson_interval(pairs, dispersion)
    # many coincidences are a small effective number: the ends of the interval change places
    effective, largest = (
        min(oracle_effective * expected / n, points) if n else None for n in (pairs, low)
    )
    smallest = min(oracle_effective * expected / high, points)
    return Diversity(pairs, expected, effective, smallest, largest, oracle_effective)


def _count_landings(
    data: PointSet, rows: Tensor, labels: Tensor
) -> Iterator[tuple[Tensor, Tensor]]:
    """For each class the weights of its points and how often each was landed on; [n] both."""
    for label in labels.unique().tolist():
        points = data.atoms(label)
        indices = torch.searchsorted(points.rows, rows[labels == label])
        yield points.weights, torch.bincount(indices, minlength=len(points.rows))


def _chi_squared(counts: Tensor, weights: Tensor) -> Tensor:
    """χ² [c] of counts [c, N] against weights [N]."""
    expected = counts.sum(1, keepdim=True) * weights
    return ((counts - expected).square() / expected).sum(1)  # Σ (O − n w)² / (n w)


def _draw_null(weights: Tensor, seeds: int, source: torch.Generator) -> Tensor:
    """χ² float64 [NULL_DRAWS] of so many seeds that land as the weights [N] say."""
    statistics, draws_at_once = [], max(1, NULL_VALUES // max(len(weights), seeds))
    for start in range(0, NULL_DRAWS, draws_at_once):
        draws = min(draws_at_once, NULL_DRAWS - start)
        # A multinomial draw for each null sample: exact at any N, where χ² quantiles take n w ≥ 5.
        points = torch.multinomial(weights, draws * seeds, replacement=True, generator=source)
        counts = torch.zeros(draws, len(weights), dtype=torch.float64)
        counts.scatter_add_(1, points.reshape(draws, seeds), counts.new_ones(draws, seeds))
        statistics.append(_chi_squared(counts, weights))
    return torch.cat(statistics)


def _poisson_interval(count: int, dispersion: float) -> tuple[float, float]:
    """The 95 % interval of a mean (Garwood 1936); `dispersion` is the variance over the mean."""
    # Of a count k: from Γ⁻¹(.025; k) to Γ⁻¹(.975; k + 1), half of the χ² quantiles of 2 k and
    # 2 k + 2 degrees. With a dispersion φ the interval is that of k / φ, times φ (quasi-Poisson).
    low = float(gammaincinv(count / dispersion, TAIL)) if count else 0.0
    return dispersion * low, dispersion * float(gammaincinv(count / dispersion + 1, 1 - TAIL))
