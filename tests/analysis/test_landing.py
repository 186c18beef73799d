"""Two fields on one grid: limits that are known, and a test whose level is kept."""

from __future__ import annotations

import pytest
import torch
from torch.testing import assert_close

import floracle
from floracle.analysis.landing import (
    diversity_of,
    fit_of,
    landing,
    mixed,
    switched,
)
from floracle.core.source import NO_LABEL
from floracle.sampling.grid import cut, time_grid
from floracle.sampling.sample import sample

CHANCE = 0.05


def normal(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def still(x, t, labels=None):
    return torch.zeros_like(x)


def drawn(weights, count, seed):
    generator = torch.Generator().manual_seed(seed)
    return torch.multinomial(weights, count, replacement=True, generator=generator)


def labels_of(count):
    return torch.full((count,), NO_LABEL)


def test_mixing_is_sampling_twice(points_source):
    oracle, x, grid = (
        floracle.Oracle(points_source(normal(9, 4))),
        normal(5, 4, seed=1),
        time_grid(8),
    )
    early, late = cut(grid, 0.3)
    asked = {"labels": None, "solver": "heun"}
    expected = sample(oracle, sample(still, x, early, **asked), late, **asked)
    assert torch.equal(mixed(still, oracle, x, grid, at=0.3, solver="heun"), expected)
    assert torch.equal(mixed(still, oracle, x, grid, at=0.0), sample(oracle, x, grid))
    assert torch.equal(mixed(still, oracle, x, grid, at=1.0), x)


@pytest.mark.slow
@pytest.mark.parametrize("weights", [torch.ones(8), torch.linspace(1, 8, 8)])
@pytest.mark.parametrize("count", [20, 100])
def test_rows_drawn_as_the_weights_say_are_rejected_at_the_level(points_source, weights, count):
    """Over 300 draws, also where there are too few seeds for the χ² distribution."""
    data, rejected = points_source(normal(8, 2), weights=weights), 0
    for seed in range(300):
        found = fit_of(data, drawn(weights, count, seed), labels_of(count), seed=seed)
        rejected += found.chance < CHANCE
    assert rejected / 300 < CHANCE + 3.5 * (CHANCE * (1 - CHANCE) / 300) ** 0.5
    assert rejected / 300 > CHANCE - 3.5 * (CHANCE * (1 - CHANCE) / 300) ** 0.5


@pytest.mark.parametrize("shares", [torch.ones(50), torch.linspace(0.1, 2, 50)])
@pytest.mark.parametrize("count", [50, 400])
def test_the_interval_of_the_effective_number_covers(points_source, shares, count):
    """Whatever the field's own probabilities: 1 / Σp² lies inside in 95 % of 300 draws."""
    data, truth = points_source(normal(50, 2)), float(shares.sum() ** 2 / shares.square().sum())
    covered = 0
    for seed in range(300):
        found = diversity_of(data, drawn(shares, count, seed), labels_of(count))
        covered += found.low <= truth <= (found.high or torch.inf)
    assert covered / 300 > 0.95 - 3.5 * (0.95 * 0.05 / 300) ** 0.5


def test_the_statistic_is_pearsons(points_source):
    from scipy.stats import chisquare

    weights, rows = torch.tensor([1.0, 2.0, 5.0]), torch.tensor([0, 0, 1, 2, 2, 2, 2, 0])
    data = points_source(normal(3, 2), weights=weights)
    fit, found = fit_of(data, rows, labels_of(8)), diversity_of(data, rows, labels_of(8))
    expected = chisquare([3, 1, 4], [1, 2, 5])
    assert fit.chi2 == pytest.approx(expected.statistic)
    assert fit.freedom == 2
    assert found.coincidences == 3 + 0 + 6
    assert found.expected == pytest.approx(28 * (1 + 4 + 25) / 64)
    assert found.knowable == pytest.approx(64 / 30)
    assert found.effective == pytest.approx(28 / 9)


def test_classes_land_apart(points_source):
    """Each against its own weights: numbers of the classes add up."""
    labels, rows = torch.tensor([0, 0, 0, 1, 1]), torch.tensor([0, 1, 1, 3, 4, 4])
    data, asked = points_source(normal(5, 2), labels), torch.tensor([0, 0, 0, 1, 1, 1])
    for measure, names in (
        (fit_of, ("chi2", "freedom")),
        (diversity_of, ("coincidences", "expected", "knowable")),
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
        asked = {"tau": 0.8, "seeds": range(start, start + 150), "grid": grid}
        accepted += landing(oracle, oracle, **asked).verdict == "lands like the oracle"
        if start < 10 * 150:
            found = landing(half, oracle, **asked)
            assert found.verdict == "lands elsewhere"
            numbers.append(found.diversity.effective)
            assert found.fit.chi2 / found.fit.freedom > 2
    assert accepted / 40 > 0.95 - 3.5 * (0.95 * 0.05 / 40) ** 0.5
    assert sum(numbers) / 10 == pytest.approx(20, rel=0.15)


def test_landings_are_training_rows_of_the_class(points_source):
    labels = torch.arange(30) % 3
    oracle = floracle.Oracle(points_source(normal(30, 10), labels))
    asked = torch.arange(12) % 3
    found = landing(oracle, oracle, tau=0.4, seeds=range(12), labels=asked)
    assert torch.equal(labels[found.rows], asked)
    assert found.misses.max() < 1e-5
    assert found.diversity.knowable == pytest.approx(30)


def test_few_seeds_cannot_say(points_source):
    oracle = floracle.Oracle(points_source(normal(200, 10)))
    found = landing(oracle, oracle, tau=0.3, seeds=range(20))
    assert found.diversity.expected < 12
    assert found.verdict == "cannot say"
    assert "cannot say" in str(found)


def test_without_coincidences_the_effective_number_is_open_above(points_source):
    found = diversity_of(points_source(normal(6, 2)), torch.arange(6), labels_of(6))
    assert found.effective is None
    assert found.high is None
    assert 1 < found.low < 6


def test_oracle_to_the_end_gives_training_points_and_no_oracle_is_the_field(points_source):
    points = normal(60, 24)
    oracle = floracle.Oracle(points_source(points, torch.arange(60) % 2))
    asked = {"taus": [0.0, 0.5, 1.0], "seeds": range(16), "labels": torch.arange(16) % 2}
    found = switched(still, oracle, **asked)
    assert found.first[:, -1].max() < 1e-5
    assert (found.to_own[:, -1] == 0).all()
    assert torch.equal(found.rows[:, -1], found.own)
    copies, low, high = found.copied()
    assert copies[-1] == high[-1] == 1
    assert low[-1] == pytest.approx(0.025 ** (1 / 16))
    alone = torch.cdist(floracle.noise(range(16), (24,)).double(), points.double())
    alone[(torch.arange(16)[:, None] + torch.arange(60)) % 2 == 1] = torch.inf
    assert_close(found.first[:, 0], alone.amin(1))
    assert_close(found.distance().mean[0], alone.amin(1).mean() / 24**0.5)
    assert copies[0] == low[0] == 0


def test_a_switch_is_two_samplings_on_one_grid(points_source):
    oracle = floracle.Oracle(points_source(normal(30, 8)))
    taus = [0.15, 0.4, 0.75]
    found = switched(still, oracle, taus=taus, seeds=range(6), grid=time_grid(10))
    grid = torch.cat([time_grid(10), torch.tensor([0.15, 0.75]).double()]).sort().values
    for k, tau in enumerate(taus):
        end = mixed(oracle, still, floracle.noise(range(6), (8,)), grid, at=tau)
        near = floracle.nearest(oracle.data, end, 2)
        assert_close(found.first[:, k], near.distances[:, 0])
        assert_close(found.second[:, k], near.distances[:, 1])


def test_the_oracle_after_the_oracle_is_the_oracle(points_source):
    oracle = floracle.Oracle(points_source(normal(30, 8)))
    found = switched(oracle, oracle, taus=[0.1, 0.6], seeds=range(6))
    assert found.to_own.max() < 1e-5
    assert found.from_own().mean.max() < 1e-5


def test_results_are_saved(points_source, tmp_path):
    oracle = floracle.Oracle(points_source(normal(30, 8)))
    test = landing(oracle, oracle, tau=0.5, seeds=range(4))
    switch = switched(still, oracle, taus=[0.5], seeds=range(4))
    for name, found in (("landing", test), ("switch", switch)):
        again = floracle.load(floracle.save(found, tmp_path / name))
        assert again.kind == name
        for field in (*again.arrays, *again.values):
            ours = getattr(found, field)
            theirs = {**again.arrays, **again.values}[field]
            if field in again.arrays:
                assert torch.equal(ours, theirs)
            else:
                assert theirs == (ours._asdict() if isinstance(ours, tuple) else ours)


def test_mistakes(points_source):
    oracle = floracle.Oracle(points_source(normal(6, 4), torch.tensor([0, 0, 0, 1, 1, 2])))
    seeds = range(4)
    for call, words in (
        (lambda: landing(oracle, oracle, tau=1.0, seeds=seeds), "τ before"),
        (
            lambda: landing(oracle, oracle, tau=0.5, seeds=seeds, grid=time_grid(4, stop=0.9)),
            "0.9",
        ),
        (lambda: landing(oracle, oracle, tau=0.5, seeds=[1]), "2 at least"),
        (lambda: landing(oracle, oracle, tau=0.5, seeds=seeds, labels=9), "no class 9"),
        (lambda: landing(oracle, oracle, tau=0.5, seeds=seeds, labels=2), "single point"),
        (lambda: landing(oracle, oracle, tau=0.5, seeds=seeds, labels=torch.zeros(3)), r"\[4\]"),
        (lambda: switched(oracle, oracle, taus=[0.5, 0.5], seeds=seeds), "increase"),
        (lambda: switched(oracle, oracle, taus=[1.5], seeds=seeds), "increase"),
        (lambda: switched(oracle, oracle, taus=[0.5], seeds=[]), "at least one seed"),
        (lambda: switched(oracle, oracle, taus=[0.5], seeds=seeds, labels=2), "fewer than 2"),
    ):
        with pytest.raises(floracle.Mistake, match=words):
            call()
