"""The landing test: a statistic that is known, and a level that is kept."""

from __future__ import annotations

import pytest
import torch

import floracle
from floracle.analysis.mixing.landing_test import estimate_diversity, goodness_of_fit, landing_test
from floracle.core.point_set import NO_LABEL
from floracle.sampling.grid import time_grid

CHANCE = 0.05


def normal(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def drawn(weights, count, seed):
    generator = torch.Generator().manual_seed(seed)
    return torch.multinomial(weights, count, replacement=True, generator=generator)


def labels_of(count):
    return torch.full((count,), NO_LABEL)


@pytest.mark.slow
@pytest.mark.parametrize("weights", [torch.ones(8), torch.linspace(1, 8, 8)])
@pytest.mark.parametrize("count", [20, 100])
def test_rows_drawn_as_the_weights_say_are_rejected_at_the_level(points_source, weights, count):
    """Over 300 draws, also where there are too few seeds for the χ² distribution."""
    data, rejected = points_source(normal(8, 2), weights=weights), 0
    for seed in range(300):
        found = goodness_of_fit(data, drawn(weights, count, seed), labels_of(count), seed=seed)
        rejected += found.p_value < CHANCE
    assert rejected / 300 < CHANCE + 3.5 * (CHANCE * (1 - CHANCE) / 300) ** 0.5
    assert rejected / 300 > CHANCE - 3.5 * (CHANCE * (1 - CHANCE) / 300) ** 0.5


@pytest.mark.slow
@pytest.mark.parametrize("shares", [torch.ones(50), torch.linspace(0.1, 2, 50)])
@pytest.mark.parametrize("count", [50, 400])
def test_the_interval_of_the_effective_number_covers(points_source, shares, count):
    """Whatever the field's own probabilities: 1 / Σp² lies inside in 95 % of 300 draws."""
    data, truth = points_source(normal(50, 2)), float(shares.sum() ** 2 / shares.square().sum())
    covered = 0
    for seed in range(300):
        found = estimate_diversity(data, drawn(shares, count, seed), labels_of(count))
        covered += found.low <= truth <= (found.high or torch.inf)
    assert covered / 300 > 0.95 - 3.5 * (0.95 * 0.05 / 300) ** 0.5


def test_the_statistic_is_pearsons(points_source):
    from scipy.stats import chisquare

    weights, rows = torch.tensor([1.0, 2.0, 5.0]), torch.tensor([0, 0, 1, 2, 2, 2, 2, 0])
    data = points_source(normal(3, 2), weights=weights)
    fit, found = (
        goodness_of_fit(data, rows, labels_of(8)),
        estimate_diversity(data, rows, labels_of(8)),
    )
    expected = chisquare([3, 1, 4], [1, 2, 5])
    assert fit.chi2 == pytest.approx(expected.statistic)
    assert fit.degrees == 2
    assert found.coincidences == 3 + 0 + 6
    assert found.expected == pytest.approx(28 * (1 + 4 + 25) / 64)
    assert found.oracle_effective == pytest.approx(64 / 30)
    assert found.effective == 3  # 28 / 9 is more than there are


def test_classes_land_apart(points_source):
    """Each against its own weights: numbers of the classes add up."""
    labels, rows = torch.tensor([0, 0, 0, 1, 1]), torch.tensor([0, 1, 1, 3, 4, 4])
    data, asked = points_source(normal(5, 2), labels), torch.tensor([0, 0, 0, 1, 1, 1])
    for measure, names in (
        (goodness_of_fit, ("chi2", "degrees")),
        (estimate_diversity, ("coincidences", "expected", "oracle_effective")),
    ):
        both = measure(data, rows, asked)
        parts = [measure(data, rows[asked == c], asked[asked == c]) for c in (0, 1)]
        for name in names:
            assert getattr(both, name) == pytest.approx(sum(getattr(part, name) for part in parts))


@pytest.mark.slow
def test_the_oracle_is_accepted_at_the_level_and_half_of_the_data_is_rejected(points_source):
    """The whole test on 40 points, over 40 sets of seeds; half of the data is always found out."""
    points = normal(40, 12)
    oracle = floracle.Oracle(points_source(points))
    half = floracle.Oracle(points_source(points[::2]))
    accepted, grid, numbers = 0, time_grid(30), []
    for start in range(0, 40 * 150, 150):
        asked = {"switch_time": 0.8, "seeds": range(start, start + 150), "grid": grid}
        accepted += landing_test(oracle, oracle, **asked).verdict == "lands like the oracle"
        if start < 10 * 150:
            found = landing_test(half, oracle, **asked)
            assert found.verdict == "lands elsewhere"
            numbers.append(found.diversity.effective)
            assert found.fit.chi2 / found.fit.degrees > 2
    assert accepted / 40 > 0.95 - 3.5 * (0.95 * 0.05 / 40) ** 0.5
    assert sum(numbers) / 10 == pytest.approx(20, rel=0.15)


def test_landings_are_training_rows_of_the_class(points_source):
    labels = torch.arange(30) % 3
    oracle = floracle.Oracle(points_source(normal(30, 10), labels))
    asked = torch.arange(12) % 3
    found = landing_test(oracle, oracle, switch_time=0.4, seeds=range(12), labels=asked)
    assert torch.equal(labels[found.rows], asked)
    assert found.misses.max() < 1e-5
    assert found.diversity.oracle_effective == pytest.approx(30)


def test_few_seeds_are_not_significant(points_source):
    oracle = floracle.Oracle(points_source(normal(200, 10)))
    found = landing_test(oracle, oracle, switch_time=0.3, seeds=range(20))
    assert found.diversity.expected < 12
    assert found.verdict == "not significant"
    assert "not significant" in str(found)


def test_without_coincidences_the_effective_number_is_open_above(points_source):
    found = estimate_diversity(points_source(normal(6, 2)), torch.arange(6), labels_of(6))
    assert found.effective is None
    assert found.high is None
    assert 1 < found.low < 6


def test_mistakes(points_source):
    oracle = floracle.Oracle(points_source(normal(6, 4), torch.tensor([0, 0, 0, 1, 1, 2])))
    seeds = range(4)
    for call, words in (
        (lambda: landing_test(oracle, oracle, switch_time=1.0, seeds=seeds), "τ before"),
        (
            lambda: landing_test(
                oracle, oracle, switch_time=0.5, seeds=seeds, grid=time_grid(4, stop=0.9)
            ),
            "0.9",
        ),
        (lambda: landing_test(oracle, oracle, switch_time=0.5, seeds=[1]), "at least 2 seeds"),
        (
            lambda: landing_test(oracle, oracle, switch_time=0.5, seeds=seeds, labels=9),
            "class 9 does not occur",
        ),
        (
            lambda: landing_test(oracle, oracle, switch_time=0.5, seeds=seeds, labels=2),
            "single point",
        ),
        (
            lambda: landing_test(
                oracle, oracle, switch_time=0.5, seeds=seeds, labels=torch.zeros(3)
            ),
            r"\[4\]",
        ),
    ):
        with pytest.raises(floracle.InputError, match=words):
            call()
