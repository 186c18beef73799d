"""Oracle trajectories whose shape is known."""

from __future__ import annotations

from itertools import pairwise

import pytest
import torch
from torch.testing import assert_close

from floracle.analysis.trajectories.oracle_trajectories import oracle_trajectories
from floracle.core.seeds import noise
from floracle.oracle.oracle import Oracle
from floracle.oracle.reference import reference
from floracle.run.errors import InputError
from floracle.sampling.grid import time_grid
from floracle.sampling.sample import sample


def normal(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def test_one_point_is_reached_straight(points_source):
    point = normal(1, 6)
    found = oracle_trajectories(Oracle(points_source(point)), range(1, 6), time_grid(20))
    away = (point.double() - noise(range(1, 6), (6,)).double()).norm(dim=1) / 6**0.5
    assert found.straightness.value == pytest.approx(1, abs=1e-9)
    assert found.energy.value == pytest.approx(float(away.square().mean()) / 2, rel=1e-9)
    assert found.curves["curvature"].mean.max() < 1e-6
    assert found.curves["change"].mean.max() == 0
    assert_close(found.curves["speed"].mean, away.mean().expand(20))
    assert (found.curves["max_weight"].mean == 1).all()
    assert found.misses.max() < 1e-6


def test_noise_that_is_the_data_stays(points_source):
    """Nothing moves, and that is straight."""
    found = oracle_trajectories(Oracle(points_source(noise([3], (6,)))), [3], time_grid(5))
    assert found.energy.value == 0
    assert found.straightness.value == 1
    assert found.curves["curvature"].mean.max() == 0


@pytest.mark.slow
def test_trajectories_end_on_training_samples(points_source):
    points, labels = normal(60, 24), torch.arange(60) % 3
    oracle = Oracle(points_source(points, labels))
    found = oracle_trajectories(oracle, range(24), time_grid(50), torch.arange(24) % 3)
    assert (labels[found.rows] == torch.arange(24) % 3).all()
    assert found.weights.min() > 0.999
    assert found.misses.max() < 1e-3
    assert_close(found.ends.float(), points[found.rows], atol=1e-2, rtol=0)
    assert len(found.rows.unique()) > 10
    assert found.straightness.value > 1
    assert found.curves["max_weight"].mean[-1] > 0.999


def test_two_points_are_told_apart_by_the_side_of_the_noise(points_source):
    """With atoms ±p the plane ⟨x, p⟩ = 0 is never crossed."""
    point = normal(1, 8)
    found = oracle_trajectories(
        Oracle(points_source(torch.cat([point, -point]))), range(40), time_grid(60)
    )
    side = noise(range(40), (8,)) @ point[0]
    assert_close(found.rows, (side < 0).long())
    assert 5 < found.rows.sum() < 35


def test_every_number_is_that_of_the_formula(points_source):
    """Against Euler steps of the dense float64 oracle, measured in the plainest way."""
    points, grid = normal(20, 10), time_grid(12)
    found = oracle_trajectories(Oracle(points_source(points)), range(6), grid)
    x = noise(range(6), (10,)).double()
    states, velocities, means, tops, logs = [x], [], [], [], []
    for t, s in pairwise(grid):
        truth = reference(points, x, t.expand(6))
        velocities.append(truth.velocity)
        means.append(truth.mean)
        tops.append(truth.posterior.amax(1).mean())
        gauss = -5 * (2 * torch.pi * (1 - t) ** 2).log()
        logs.append((truth.log_mass + gauss).mean() / 10)
        x = x + (s - t) * truth.velocity
        states.append(x)
    v, m = torch.stack(velocities), torch.stack(means)
    cosines = torch.nn.functional.cosine_similarity(v[:-1], v[1:], dim=2)
    lengths = (torch.stack(states[1:-1]) - torch.stack(states[:-2])).norm(dim=2)
    moves = (m[1:] - m[:-1]).norm(dim=2) / (m[-1] - m[0]).norm(dim=1)
    expected = {
        "speed": v.square().mean(2).sqrt().mean(1),
        "max_weight": torch.stack(tops),
        "log_density": torch.stack(logs),
        "curvature": (cosines.clamp(max=1).acos() / lengths * 10**0.5).mean(1),
        "change": moves.mean(1),
    }
    for name, values in expected.items():
        assert_close(found.curves[name].mean, values, rtol=1e-4, atol=1e-6, msg=name)
    energy = v.square().mean(2).sum(0) / 12 / 2
    straight = (x - states[0]).square().mean(1) / 2
    assert found.energy.value == pytest.approx(float(energy.mean()), rel=1e-5)
    assert found.straightness.value == pytest.approx(float((energy / straight).mean()), rel=1e-5)
    assert_close(found.ends, x, rtol=1e-5, atol=1e-5)
    assert_close(found.times, grid[:-1])


def test_trajectories_are_those_of_sample(points_source):
    oracle = Oracle(points_source(normal(30, 3, 2, 2), torch.arange(30) % 2))
    found = oracle_trajectories(oracle, [7, 3], time_grid(9, shift=0.5), 1)
    x = noise([7, 3], (3, 2, 2)).double()
    assert_close(found.ends, sample(oracle, x, time_grid(9, shift=0.5), labels=1))


def test_no_trajectory_costs_less_than_the_straight_line(points_source):
    """Cauchy–Schwarz holds on any grid, one that stops early too."""
    oracle = Oracle(points_source(normal(15, 4)))
    for grid in (time_grid(3), time_grid(7, shift=0.2), time_grid(5, stop=0.6)):
        for seed in range(5):
            assert oracle_trajectories(oracle, [seed], grid).straightness.value >= 1 - 1e-12


def test_mistakes(points_source):
    oracle = Oracle(points_source(normal(15, 4)))
    with pytest.raises(InputError, match="pass at least one"):
        oracle_trajectories(oracle, [], time_grid(4))
    for grid in (time_grid(4, start=0.2), time_grid(1)):
        with pytest.raises(InputError, match="start from noise"):
            oracle_trajectories(oracle, [1], grid)
