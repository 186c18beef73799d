"""Where a field's navigation leads: the field until τ, the exact oracle after.

The exact oracle carries whatever has the distribution of x_τ to a training sample drawn in
proportion to its weight w. Where a field's states at τ land otherwise, its navigation is not that
of the data. With O_i of n seeds on atom i the statistic is

    χ² = Σ (O_i − n w_i)² / (n w_i),        effective number = 1 / Σ p²,

p the field's own probabilities; Σ p² is the chance that two seeds land on the same atom, counted
without bias over all pairs of seeds. Euler steps bend the null by little: χ²/dof is .99 to 1.04
for 50 steps of the pure oracle. The test is necessary, not sufficient.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import comb
from typing import Any, ClassVar, NamedTuple

import torch
from scipy.special import gammaincinv
from torch import Tensor

from floracle.analysis.curves import COVERED
from floracle.analysis.serialization import as_results, check_kind, check_shapes, number, reading
from floracle.core.fields import VelocityField
from floracle.core.point_set import PointSet
from floracle.core.seeds import generator, noise
from floracle.oracle.oracle import Oracle
from floracle.run.errors import InputError
from floracle.run.results import Results, provenance
from floracle.sampling.grid import check_grid, time_grid

from .field_switching import TAIL, given_labels, mixed, near_in_class

ENOUGH = 12.0
"""Coincidences to expect of the oracle from which on the test notices a field that knows half of
the data with a chance of .9: a Poisson number of 24 passes 12 + 1.645 √12 that often."""
RANDOM_LANDINGS = 999
AT_ONCE = 256
"""Samples that are followed together at most."""


class Fit(NamedTuple):
    """Landings against the weights of the data."""

    chi2: float
    freedom: int
    chance: float
    """How often the exact null gives as large a χ², by drawing from it; the p-value."""


class Diversity(NamedTuple):
    """How many different samples are landed on, from pairs of seeds that land on the same."""

    coincidences: int
    """Such pairs, of seeds of a class."""
    expected: float
    """As many would be expected of the oracle."""
    effective: float | None
    """1 / Σ p², summed over the classes asked for; None where nothing coincides."""
    low: float
    """Its 95 % interval …"""
    high: float | None
    """… which is open above where nothing coincides."""
    knowable: float
    """1 / Σ w², the effective number of the oracle."""


@dataclass(frozen=True)
class LandingResult:
    """Where the exact oracle lands from a field's states at τ."""

    kind: ClassVar[str] = "landing"
    tau: float
    rows: Tensor
    """The training rows landed on, int64 [b]."""
    misses: Tensor
    """How far from them, per √D, float64 [b]."""
    fit: Fit
    diversity: Diversity
    settings: Mapping[str, Any]
    provenance: Mapping[str, Any]

    @property
    def verdict(self) -> str:
        """What can be said: "lands elsewhere", "lands like the oracle" or "cannot say"."""
        if self.fit.chance < 1 - COVERED:
            return "lands elsewhere"
        return "lands like the oracle" if self.diversity.expected >= ENOUGH else "cannot say"

    def __str__(self) -> str:
        found = self.diversity
        effective, high = (
            "∞" if value is None else f"{value:.0f}" for value in (found.effective, found.high)
        )
        return (
            f"{self.verdict}: χ²/dof {self.fit.chi2 / self.fit.freedom:.2f}"
            f" (p = {self.fit.chance:.3f}), effective number {effective}"
            f" [{found.low:.0f}, {high}] of {found.knowable:.0f}"
        )

    def to_results(self) -> Results:
        """As values and arrays, for `save`."""
        return as_results(self)

    @classmethod
    def of_results(cls, found: Results) -> LandingResult:
        """What was saved."""
        with reading(cls.kind):
            check_kind(cls.kind, found)
            check_shapes(found.arrays, {"rows": "b", "misses": "b"})
            return cls(
                tau=number(found.values["tau"]),
                rows=found.arrays["rows"],
                misses=found.arrays["misses"],
                fit=Fit(**_numbers(found.values["fit"])),
                diversity=Diversity(**_numbers(found.values["diversity"])),
                settings=found.settings,
                provenance=found.provenance,
            )


def _numbers(values: Mapping[str, Any]) -> dict[str, Any]:
    return {name: None if value is None else number(value) for name, value in values.items()}


@torch.no_grad()
def landing_test(
    field: VelocityField,
    oracle: Oracle,
    *,
    tau: float,
    seeds: Sequence[int],
    grid: Tensor | None = None,
    labels: Tensor | int | None = None,
    solver: str = "euler",
) -> LandingResult:
    """Follow a field to τ and the exact oracle from there, and see where the seeds land.

    The field lives on the oracle's path (`on_path`), and τ is in that path's time.

    About √(24 / Σw²) seeds of a class are needed for a verdict, so √(24 N) with N equal weights.
    The grid (50 steps unless given) has to end at t = 1; at τ = 0 the oracle is alone.
    """
    grid = time_grid(50) if grid is None else check_grid(grid)
    if grid[-1] != 1 or not grid[0] <= tau < 1:
        raise InputError(f"samples land at t = 1, from a τ before; got τ = {tau:g}, {grid[-1]:g}")
    if len(seeds) < 2:
        raise InputError(
            f"a landing test compares seeds, so it needs 2 at least, got {len(seeds)}"
        )
    given = given_labels(oracle.data, labels, len(seeds))
    parts = []
    for start in range(0, len(seeds), AT_ONCE):
        some = slice(start, start + AT_ONCE)
        known: dict[str, Any] = {"labels": given[some], "solver": solver, "path": oracle.path}
        x = noise(seeds[some], oracle.data.shape)
        parts.append(mixed(field, oracle, x, grid, at=tau, **known))
    ends = torch.cat(parts)
    distances, rows = near_in_class(oracle.data, ends, given, 1)
    return LandingResult(
        tau=float(tau),
        rows=rows[:, 0],
        misses=distances[:, 0] / ends[0].numel() ** 0.5,
        fit=fit_of(oracle.data, rows[:, 0], given, seed=seeds[0]),
        diversity=diversity_of(oracle.data, rows[:, 0], given),
        settings={
            "tau": tau,
            "seeds": list(seeds),
            "steps": len(grid) - 1,
            "solver": solver,
            "path": oracle.path.name,
        },
        provenance=provenance(data=oracle.data.fingerprint),
    )


def fit_of(data: PointSet, rows: Tensor, labels: Tensor, *, seed: int = 0) -> Fit:
    """Whether rows [b] that seeds of labels [b] landed on are drawn as the atoms weigh."""
    drawing, found, freedom = generator(seed), 0.0, 0
    null = torch.zeros(RANDOM_LANDINGS, dtype=torch.float64)
    for weights, counts in _counts(data, rows, labels):
        found += float(_chi2(counts[None], weights)[0])
        null += _under_null(weights, int(counts.sum()), drawing)
        freedom += len(weights) - 1
    if not freedom:
        raise InputError("a class of a single point can only be landed on; take others")
    chance = (1 + int((null >= found * (1 - 1e-9)).sum())) / (RANDOM_LANDINGS + 1)
    return Fit(found, freedom, chance)


def diversity_of(data: PointSet, rows: Tensor, labels: Tensor) -> Diversity:
    """The effective number of atoms among rows [b] that seeds of labels [b] landed on.

    The variance of the coincidences is taken from those of three seeds, and they from a Poisson
    number of that variance. No number is larger than that of the atoms there are.
    """
    pairs, triples, bend, expected, knowable, atoms = 0, 0, 0.0, 0.0, 0.0, 0
    for weights, counts in _counts(data, rows, labels):
        seeds, several = int(counts.sum()), [n for n in counts.tolist() if n > 1]
        here, concentration = sum(comb(n, 2) for n in several), float(weights.square().sum())
        pairs += here
        triples += sum(comb(n, 3) for n in several)
        bend += 4 * here**2 / seeds
        expected += comb(seeds, 2) * concentration
        knowable += 1 / concentration
        atoms += len(weights)
    if not expected:
        raise InputError("no class has two seeds that could coincide; give more seeds")
    low, high = _poisson(pairs, max(1.0, (pairs + 6 * triples - bend) / max(pairs, 1)))
    effective, most = (min(knowable * expected / n, atoms) if n else None for n in (pairs, low))
    least = min(knowable * expected / high, atoms)
    return Diversity(pairs, expected, effective, least, most, knowable)


def _counts(data: PointSet, rows: Tensor, labels: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
    """The weights of the atoms of each class, and how often each was landed on; [n] both."""
    for label in labels.unique().tolist():
        atoms = data.atoms(label)
        places = torch.searchsorted(atoms.rows, rows[labels == label])
        yield atoms.weights, torch.bincount(places, minlength=len(atoms.rows))


def _chi2(counts: Tensor, weights: Tensor) -> Tensor:
    """χ² of counts [c, N] against weights [N]."""
    expected = counts.sum(1, keepdim=True) * weights
    return ((counts - expected).square() / expected).sum(1)


def _under_null(weights: Tensor, seeds: int, drawing: torch.Generator) -> Tensor:
    """χ² of so many seeds that land as the weights say, many times over, float64 [c]."""
    found, together = [], max(1, 2**22 // max(len(weights), seeds))
    for start in range(0, RANDOM_LANDINGS, together):
        times = min(together, RANDOM_LANDINGS - start)
        drawn = torch.multinomial(weights, times * seeds, replacement=True, generator=drawing)
        counts = torch.zeros(times, len(weights), dtype=torch.float64)
        counts.scatter_add_(1, drawn.reshape(times, seeds), counts.new_ones(times, seeds))
        found.append(_chi2(counts, weights))
    return torch.cat(found)


def _poisson(count: int, spread: float) -> tuple[float, float]:
    """The exact 95 % interval of a Poisson mean; `spread` is the variance over the mean."""
    low = float(gammaincinv(count / spread, TAIL)) if count else 0.0
    return spread * low, spread * float(gammaincinv(count / spread + 1, 1 - TAIL))
