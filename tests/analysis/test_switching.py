"""The oracle until τ and a field after: limits that are known."""

from __future__ import annotations

import pytest
import torch
from torch.testing import assert_close

import floracle
from floracle.analysis.mixing.field_switching import (
    binomial_share,
    sample_with_switch,
    switch_fields,
)
from floracle.sampling.grid import split_grid, time_grid
from floracle.sampling.sample import sample


def normal(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def still(x, t, labels=None):
    return torch.zeros_like(x)


def test_mixing_is_sampling_twice(points_source):
    oracle, x, grid = (
        floracle.Oracle(points_source(normal(9, 4))),
        normal(5, 4, seed=1),
        time_grid(8),
    )
    early, late = split_grid(grid, 0.3)
    asked = {"labels": None, "solver": "heun"}
    expected = sample(oracle, sample(still, x, early, **asked), late, **asked)
    assert torch.equal(
        sample_with_switch(still, oracle, x, grid, switch_time=0.3, solver="heun"), expected
    )
    assert torch.equal(
        sample_with_switch(still, oracle, x, grid, switch_time=0.0), sample(oracle, x, grid)
    )
    assert torch.equal(sample_with_switch(still, oracle, x, grid, switch_time=1.0), x)


@pytest.mark.slow
def test_oracle_to_the_end_gives_training_points_and_no_oracle_is_the_field(points_source):
    points = normal(60, 24)
    oracle = floracle.Oracle(points_source(points, torch.arange(60) % 2))
    asked = {"switch_times": [0.0, 0.5, 1.0], "seeds": range(16), "labels": torch.arange(16) % 2}
    found = switch_fields(still, oracle, **asked)
    assert found.nearest_distance[:, -1].max() < 1e-5
    assert (found.oracle_distance[:, -1] == 0).all()
    assert torch.equal(found.rows[:, -1], found.oracle_rows)
    copies, low, high = found.copy_share()
    assert copies[-1] == high[-1] == 1
    assert low[-1] == pytest.approx(0.025 ** (1 / 16))
    alone = torch.cdist(floracle.noise(range(16), (24,)).double(), points.double())
    alone[(torch.arange(16)[:, None] + torch.arange(60)) % 2 == 1] = torch.inf
    assert_close(found.nearest_distance[:, 0], alone.amin(1))
    assert_close(found.distance().mean[0], alone.amin(1).mean() / 24**0.5)
    assert copies[0] == low[0] == 0


def test_a_switch_is_two_samplings_on_one_grid(points_source):
    oracle = floracle.Oracle(points_source(normal(30, 8)))
    taus = [0.15, 0.4, 0.75]
    found = switch_fields(still, oracle, switch_times=taus, seeds=range(6), grid=time_grid(10))
    grid = torch.cat([time_grid(10), torch.tensor([0.15, 0.75]).double()]).sort().values
    for k, tau in enumerate(taus):
        end = sample_with_switch(
            oracle, still, floracle.noise(range(6), (8,)), grid, switch_time=tau
        )
        near = floracle.nearest(oracle.data, end, 2)
        assert_close(found.nearest_distance[:, k], near.distances[:, 0])
        assert_close(found.second_distance[:, k], near.distances[:, 1])


def test_the_oracle_after_the_oracle_is_the_oracle(points_source):
    oracle = floracle.Oracle(points_source(normal(30, 8)))
    found = switch_fields(oracle, oracle, switch_times=[0.1, 0.6], seeds=range(6))
    assert found.oracle_distance.max() < 1e-5
    assert found.distance_to_oracle().mean.max() < 1e-5


def test_shares_have_the_exact_interval():
    """Against scipy's own Clopper and Pearson, and halves count as one whole of two."""
    from scipy.stats import binomtest

    copies = torch.zeros(20, 3, dtype=torch.float64)
    copies[:7, 1], copies[:, 2] = 1, 1
    found, low, high = binomial_share(copies)
    for k, count in enumerate((0, 7, 20)):
        exact = binomtest(count, 20).proportion_ci(method="exact")
        assert found[k] == count / 20
        assert (low[k], high[k]) == pytest.approx((exact.low, exact.high))
    halves = copies[:, 1:2].clone()
    halves[:14] = 0.5
    assert [float(each) for each in binomial_share(halves)] == pytest.approx(
        [float(each[1]) for each in (found, low, high)]
    )


def test_the_ends_of_the_first_seeds_are_kept(points_source):
    points = normal(60, 24)
    oracle = floracle.Oracle(points_source(points))
    found = switch_fields(still, oracle, switch_times=[0.0, 1.0], seeds=range(5), kept_samples=3)
    assert found.samples.shape == (3, 2, 24)
    assert torch.equal(found.samples[:, 0], floracle.noise(range(3), (24,)))
    assert_close(found.samples[:, 1], points[found.oracle_rows[:3]], atol=1e-5, rtol=0)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"switch_times": [0.5, 0.5]}, "increase"),
        ({"switch_times": [1.5]}, "increase"),
        ({"switch_times": []}, "increase"),
        ({"seeds": []}, "pass at least one"),
        ({"labels": 2}, "fewer than 2"),
        ({"labels": 9}, "class 9 does not occur"),
    ],
)
def test_mistakes(points_source, change, words):
    oracle = floracle.Oracle(points_source(normal(6, 4), torch.tensor([0, 0, 0, 1, 1, 2])))
    with pytest.raises(floracle.InputError, match=words):
        switch_fields(oracle, oracle, **{"switch_times": [0.5], "seeds": range(4), **change})
