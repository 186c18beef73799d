"""Trajectories in Gram space against those of `sampling` with the ambient float64 reference."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from gram_layouts import EXACT, TIMES, atoms_of, drawn_pairs, laid_out
from torch.testing import assert_close
from torch.utils._python_dispatch import TorchDispatchMode

from floracle.core.paths import LINEAR, PATHS
from floracle.core.seeds import noise as noise_of
from floracle.core.source import NO_LABEL
from floracle.data.store import open_store
from floracle.oracle.gram import completed, drawn, gram_of, project
from floracle.oracle.gram_follow import (
    at_noise,
    follow,
    landed,
    lifted,
    on_path,
    points,
    posterior,
)
from floracle.oracle.gram_pairs import gram_pairs
from floracle.oracle.reference import reference
from floracle.sampling.grid import time_grid
from floracle.sampling.sample import sample, trajectory
from floracle.sampling.solvers import RK4


def ambient(data, label, path):
    """The reference as a field for `sampling`."""
    atoms, _, weights = atoms_of(data, label)

    def field(x, t, labels=None):
        found = reference(atoms, x.flatten(1), t, weights=weights, path=path)
        return found.velocity.reshape(x.shape)

    return field


@pytest.mark.slow
@pytest.mark.parametrize("solver", ["euler", "heun", RK4], ids=["euler", "heun", "rk4"])
@pytest.mark.parametrize("layout", ["plain", "weighted", "near 1e-4", "nested", "far near"])
def test_trajectories_are_those_of_sampling(points_source, layout, solver):
    """Fifty steps, the last of them so close to the data that near-duplicates part as well."""
    end = torch.tensor([0.99, 0.999, 0.9999, 1], dtype=torch.float64)
    grid = torch.cat([time_grid(46, stop=0.97), end])
    data = laid_out(points_source, layout)
    gram, noise = gram_of(data, 1), noise_of(range(6), data.shape).double()
    atoms, known, _ = atoms_of(data, 1)
    found = follow(gram, project(gram, data, noise), grid, solver=solver)
    truth = trajectory(ambient(data, 1, LINEAR), noise, grid, solver=solver)
    for ours, theirs in zip(found, truth, strict=True):
        assert ours.t == theirs.t
        x = points(gram, data, ours.point, noise)
        assert ((x - theirs.x).norm(dim=1) <= EXACT * theirs.x.norm(dim=1)).all(), ours.t
    end = landed(gram, project(gram, data, noise), grid, solver=solver)
    assert (end.rows == known[torch.cdist(theirs.x, atoms).argmin(1)]).all()
    assert (end.weights > 0.5).all()


@pytest.mark.parametrize("path", PATHS.values(), ids=list(PATHS))
def test_trajectories_of_digits_on_any_path(path):
    """Also where Euler steps leave the path, as those of curved ones do."""
    data, grid = open_store("digits"), time_grid(50)
    gram, noise = gram_of(data, 5), noise_of(range(8), data.shape).double()
    start = sample(ambient(data, 5, path), noise, grid)
    found = landed(gram, project(gram, data, noise), grid, path=path)
    x = points(gram, data, found.point, noise)
    assert_close(x, start, rtol=0, atol=EXACT * float(start.abs().max()))
    nearest = torch.cdist(start.flatten(1), atoms_of(data, 5)[0]).argmin(1)
    assert (found.rows == atoms_of(data, 5)[1][nearest]).all()
    assert (found.weights > 0.9).all()


def test_a_trajectory_may_start_anywhere():
    """From a noisy sample, as a pair or as it stands, the same way as the ambient oracle."""
    data, (early, late) = open_store("digits"), (0.3, time_grid(30, start=0.3))
    gram = gram_of(data, 2)
    rows, noise = drawn_pairs(data, 2)
    t = torch.full((len(rows),), early)
    x = LINEAR.sample(data.take(rows).double(), noise.double(), t)
    truth = sample(ambient(data, 2, LINEAR), x, late)
    span, projections = lifted(gram, data, x, t)
    for start, given in (
        (on_path(gram, rows, t), project(gram, data, noise)),
        (span, projections),
    ):
        found = landed(gram, given, late, start=start)
        x = points(gram, data, found.point._replace(noise=torch.zeros(len(rows))))
        assert_close(x, truth, rtol=0, atol=EXACT * float(truth.abs().max()))
        assert not found.point.noise.any()


class NoSuchAxis(TorchDispatchMode):
    """Lets no operation return a tensor with as many entries along an axis as points have."""

    def __init__(self, dims):
        super().__init__()
        self.dims, self.seen = dims, 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        for value in result if isinstance(result, (tuple, list)) else (result,):
            if isinstance(value, torch.Tensor):
                self.seen += 1
                assert self.dims not in value.shape, func
        return result


@pytest.mark.slow
@pytest.mark.parametrize("layout", ["plain", "near 1e-4"])
def test_no_step_knows_the_dimension(points_source, layout):
    """Nothing that is followed has an axis of D, and nothing is asked of the centre."""
    data = laid_out(points_source, layout, count=40, dims=977)
    rows, noise = drawn_pairs(data, NO_LABEL)
    whole = gram_of(data)
    projections = project(whole, data, noise)
    gram = replace(whole, frame=replace(whole.frame, centre=torch.zeros(0)))
    with NoSuchAxis(977) as watch:
        for moment in follow(gram, projections, time_grid(10), solver="heun"):
            assert moment.point.atoms.shape == (len(rows), 40)
        gram_pairs(gram, rows, projections, TIMES, mirrored=True)
        gram.variance(posterior(gram, at_noise(gram, 8), projections, TIMES[:8]).weights)
        drawn(gram, range(3))
    assert watch.seen > 100


def test_one_atom_has_all_the_weight(points_source):
    data = points_source(torch.randn(1, 2, 5))
    gram, noise = gram_of(data), noise_of(range(3), (2, 5))
    projections, rows = project(gram, data, noise), torch.zeros(3, dtype=torch.int64)
    found = landed(gram, projections, time_grid(4))
    assert_close(points(gram, data, found.point), data.points.double().expand(3, 2, 5))
    curves = gram_pairs(gram, rows, projections, TIMES)
    assert curves.rivals.tolist() == [-1, -1, -1]
    assert (curves.own == 1).all()
    assert not curves.variance.any()


# noise that is never made -----------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("layout", ["plain", "near 1e-4", "nested"])
def test_drawn_projections_have_the_covariance_of_noise(points_source, layout):
    """Every entry within 5.5 of its own standard errors; so also those of tiny differences."""
    gram, count = gram_of(laid_out(points_source, layout)), 20_000
    found = drawn(gram, range(count))
    variances = gram.products.diagonal()
    error = ((variances[:, None] * variances + gram.products.square()) / count).sqrt()
    assert ((found.T @ found / count - gram.products).abs() <= 5.5 * error).all()
    assert (found.mean(0).abs() <= 5 * (variances / count).sqrt()).all()
    assert_close(drawn(gram, [7, 3]), found[[7, 3]], rtol=0, atol=1e-12)


@pytest.mark.parametrize("path", PATHS.values(), ids=list(PATHS))
def test_trajectories_from_drawn_projections_are_equal_in_law(points_source, path):
    """Landings, and the mean and spread of weights and entropies half-way, as from real noise."""
    data, count, grid = points_source(torch.randn(12, 30)), 3000, time_grid(12)
    gram = gram_of(data)
    measured = []
    for projections in (
        drawn(gram, range(count)),
        project(gram, data, noise_of(range(count, 2 * count), data.shape)),
    ):
        moments = list(follow(gram, projections, grid, path=path))
        halfway = [moments[k].votes for k in (3, 5, 8)]
        measured.append(
            torch.cat([torch.cat([v.weights, v.entropy[:, None]], 1) for v in halfway], 1)
        )
    for power in (1, 2):
        one, other = (values**power for values in measured)
        apart = (one.mean(0) - other.mean(0)).abs()
        assert (apart <= 4.5 * ((one.var(0) + other.var(0)) / count).sqrt() + 1e-9).all()


def test_completed_noise_has_its_projections_and_is_normal(points_source):
    data = laid_out(points_source, "near 1e-4", count=20, dims=30)
    gram, count = gram_of(data), 4000
    projections = drawn(gram, range(count))
    noise = completed(gram, data, projections, range(count, 2 * count))
    size = gram.products.diagonal().sqrt()
    assert ((project(gram, data, noise) - projections).abs() <= 1e-7 * size).all()
    covariance = noise.T @ noise / count - torch.eye(30)
    assert covariance.abs().max() <= 5.5 * (2 / count) ** 0.5
    found = follow(gram, projections, time_grid(20))
    start = points(gram, data, next(found).point, noise)
    assert_close(start, noise)
