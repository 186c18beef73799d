"""The information law as a measurement: its error, its coverage, and what breaks it."""

from __future__ import annotations

import math
from dataclasses import dataclass

import pytest
import torch

import floracle
from floracle.analysis.curves import standard_error
from floracle.analysis.stages.measure import (
    apply_control,
    draw_pairs,
    measure_class,
    measure_pairs,
    plan_stages,
)
from floracle.core.point_set import WeightedRows


@pytest.mark.slow
@pytest.mark.parametrize("where", ["digits", "gaussian:1000x256"])
def test_the_error_is_below_two_percent_at_the_default_pairs(where):
    stages = floracle.stages(floracle.Oracle(floracle.open_store(where)))
    for group in stages.groups:
        assert group.area.error <= 0.02 * group.max_information
        assert group.law_holds


@pytest.mark.slow
def test_the_two_sigma_interval_covers_the_truth_in_ninety_of_a_hundred_seeds():
    oracle = floracle.Oracle(floracle.open_store("digits"))
    plan = plan_stages(oracle, labels=[3], pairs=512)
    covered = 0
    for seed in range(100):
        group = measure_class(oracle, planned_with(plan, seed), 3)
        covered += abs(group.area.value - math.log(group.points)) <= 2 * group.area.error
    assert covered >= 90


def planned_with(plan, seed):
    """The same plan with other pairs."""
    from dataclasses import replace

    return replace(plan, seed=seed)


@dataclass(frozen=True)
class Halved:
    """A source that gives every second atom no weight; half of the pairs are made of them."""

    whole: floracle.Store

    def __getattr__(self, name):
        return getattr(self.whole, name)

    def __len__(self):
        return len(self.whole)

    def atoms(self, label=-1):
        rows, weights = self.whole.atoms(label)
        weights = torch.where(torch.arange(len(rows)) % 2 == 0, 2 * weights, 1e-300)
        return WeightedRows(rows, weights / weights.sum())

    def blocks(self, label=-1, *, rows):
        atoms = self.atoms(label)
        start = 0
        for block in self.whole.blocks(label, rows=rows):
            weights = atoms.weights[start : start + len(block.rows)]
            start += len(block.rows)
            yield block._replace(weights=weights)


@pytest.mark.slow
def test_an_oracle_without_half_of_its_atoms_is_flagged(monkeypatch):
    store = floracle.open_store("gaussian:400x64")
    whole, halved = floracle.Oracle(store), floracle.Oracle(Halved(store))
    plan = plan_stages(whole, pairs=512)
    assert measure_class(whole, plan, -1).law_holds
    # pairs of the whole set, votes of half of it
    monkeypatch.setattr(floracle.Oracle, "pairs", pairs_of(halved))
    assert not measure_class(whole, plan, -1).law_holds


def pairs_of(other):
    """Oracle.pairs answered by another oracle."""
    answer = floracle.Oracle.pairs

    def pairs(self, *arguments, **options):
        return answer(other, *arguments, **options)

    return pairs


def test_duplicates_lower_what_there_is_to_know(points_source):
    """Twenty points, one of them three times: H(w) is that of the weights, and the law holds."""
    points = torch.randn(20, 16, generator=torch.Generator().manual_seed(5))
    doubled = torch.cat([points, points[:1], points[:1]])
    group = floracle.stages(floracle.Oracle(floracle.open_store(doubled))).main
    weights = torch.tensor([3 / 22, *[1 / 22] * 19], dtype=torch.float64)
    assert group.max_information == pytest.approx(float(-(weights * weights.log()).sum()))
    assert abs(group.area.value - group.max_information) <= 4 * group.area.error


def test_near_duplicates_keep_navigation_from_ending():
    """Every point has a twin much closer than t = .9999 can tell apart."""
    points = torch.randn(40, 32, generator=torch.Generator().manual_seed(6))
    twins = points + 1e-6 * torch.randn(40, 32, generator=torch.Generator().manual_seed(7))
    group = floracle.stages(floracle.Oracle(floracle.open_store(torch.cat([points, twins])))).main
    assert group.end.value is None
    assert group.remaining_information == pytest.approx(math.log(2), abs=0.02)
    assert all(abs(row - rival) == 40 for row, rival in group.rivals)
    assert group.law_holds


@pytest.mark.slow
@pytest.mark.parametrize("apart", [1e-3, 0.05, 0.3])
def test_a_pair_that_carries_all_the_variance_breaks_no_gap(apart):
    """One near-duplicate among 200: no gap is below 0, nor its error far above the plain one."""
    points = torch.randn(200, 64, generator=torch.Generator().manual_seed(3))
    points[1] = points[0] + apart * torch.randn(64, generator=torch.Generator().manual_seed(4))
    oracle = floracle.Oracle(floracle.open_store(points))
    plan = plan_stages(oracle, pairs=128)
    for seed in range(20):
        own = planned_with(plan, seed)
        pairs = measure_pairs(oracle, own, draw_pairs(oracle, own, -1))
        bound = plan.predicted(oracle.path, -1).information(plan.times)
        gap = apply_control(pairs, bound, plan.entropy_nats[-1])
        assert (gap.mean(0) >= 0).all()
        plain = standard_error(pairs.variance)
        assert (standard_error(gap) <= 1.05 * plain).all()
        group = measure_class(oracle, own, -1)
        assert group.law_holds
        assert (group.curves["gap"].mean >= 0).all()
