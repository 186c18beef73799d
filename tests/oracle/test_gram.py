"""Gram space against the ambient float64 reference: weights, velocities, gaps."""

from __future__ import annotations

import pytest
import torch
from gram_layouts import EXACT, LAYOUTS, TIMES, atoms_of, drawn_pairs, entropy_of, laid_out
from torch.testing import assert_close

from floracle.core.paths import LINEAR, PATHS
from floracle.core.source import NO_LABEL
from floracle.data.store import open_store
from floracle.oracle import gram as module
from floracle.oracle import gram_frame
from floracle.oracle.gram import gram_of, project
from floracle.oracle.gram_follow import (
    at_noise,
    follow,
    lifted,
    on_path,
    points,
    posterior,
    velocity,
)
from floracle.oracle.reference import reference
from floracle.run.errors import Mistake
from floracle.sampling.grid import time_grid


def agrees(data, label, path=LINEAR):
    """Check everything that is known of noisy samples, at every time."""
    gram, (atoms, known, weights) = gram_of(data, label), atoms_of(data, label)
    rows, noise = drawn_pairs(data, label)
    projections, own = project(gram, data, noise), torch.searchsorted(known, rows)
    apart = atoms - atoms[own][:, None]
    squares = torch.stack([(atoms - atom).square().sum(1) for atom in atoms])
    for time in TIMES:
        t = time.repeat(len(rows))
        c, span = path.coefficients(t), on_path(gram, rows, t, path)
        x = path.sample(data.take(rows).double(), noise.double(), t).flatten(1)
        truth = reference(atoms, x, t, weights=weights, path=path)
        found = posterior(gram, span, projections, t, path)
        assert_close(found.weights, truth.posterior, atol=1e-20, rtol=EXACT)
        assert_close(found.entropy, entropy_of(truth.posterior), atol=1e-14, rtol=EXACT)
        assert_close(found.concentration, truth.posterior.square().sum(1), atol=0, rtol=EXACT)
        assert_close(found.top, truth.posterior.amax(1), atol=0, rtol=EXACT)
        speed = points(gram, data, velocity(span, found, c), noise).flatten(1)
        size = truth.velocity.norm(dim=1)
        assert ((speed - truth.velocity).norm(dim=1) <= EXACT * size).all()
        missed = torch.einsum("bn,bnd->bd", truth.posterior, apart).square().sum(1)
        variance = torch.linalg.vecdot(truth.posterior @ squares, truth.posterior) / 2
        assert_close(gram.distances(found.weights, own), missed, atol=1e-36, rtol=EXACT)
        assert_close(gram.variance(found.weights), variance, atol=1e-36, rtol=EXACT)


# one moment ------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("label", [NO_LABEL, 1])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_weights_velocities_and_gaps_are_those_of_the_reference(points_source, layout, label):
    agrees(laid_out(points_source, layout), label)


@pytest.mark.parametrize("path", PATHS.values(), ids=list(PATHS))
def test_any_path_will_do(points_source, path):
    agrees(laid_out(points_source, "near 1e-2"), NO_LABEL, path)


@pytest.mark.slow
def test_dimensions_far_beyond_points(points_source):
    data = points_source(torch.randn(64, 20_000) * torch.linspace(1, 0.01, 20_000) + 3)
    agrees(data, NO_LABEL)


@pytest.mark.parametrize("label", [3, 8])
def test_digits_agree(label):
    agrees(open_store("digits"), label)


@pytest.mark.parametrize("path", PATHS.values(), ids=list(PATHS))
@pytest.mark.parametrize("layout", ["plain", "weighted", "near 1e-4", "nested", "far"])
def test_samples_off_the_forward_path_are_lifted(points_source, layout, path):
    """Midpoints, other points, mere noise; up to what their own rounding moves the velocity."""
    data = laid_out(points_source, layout)
    gram, (atoms, _, weights) = gram_of(data), atoms_of(data, NO_LABEL)
    longest = atoms.norm(dim=1).max()
    for time in TIMES:
        t, c = time.repeat(8), path.coefficients(time.repeat(8))
        rows = torch.randint(len(atoms), (3, 2))
        middle = c.alpha[:2, None] * atoms[rows].mean(0)
        noisy = middle + c.sigma[:2, None] * torch.randn(2, data.shape[0])
        strange = c.alpha[:2, None] * torch.randn(2, data.shape[0]) + atoms[rows[0]]
        x = torch.cat([middle, noisy, strange, 3 * torch.randn(2, data.shape[0])])
        span, projections = lifted(gram, data, x, t, path)
        found = posterior(gram, span, projections, t, path)
        rest = x - c.alpha[:, None] * gram.frame.centre
        speed = points(gram, data, velocity(span, found, c), rest)
        truth = reference(atoms, x, t, weights=weights, path=path)
        about = (atoms[None] - truth.mean[:, None]).square().sum(2)
        variance = torch.linalg.vecdot(truth.posterior, about)
        rounding = 2.0**-52 * (x.norm(dim=1) + longest)
        growth = c.d_alpha - c.alpha * c.d_sigma / c.sigma
        floor = growth * (c.alpha / c.sigma**2 * rounding * variance + 4 * rounding)
        wrong = (speed - truth.velocity).norm(dim=1)
        assert (wrong <= EXACT * truth.velocity.norm(dim=1) + floor).all(), (time, wrong)


def test_without_ties_close_atoms_lose_their_digits(points_source, monkeypatch):
    """What the trees are for: six digits, here."""
    data, t = laid_out(points_source, "near 1e-6"), torch.full((8,), 0.9999)
    rows, noise = drawn_pairs(data, NO_LABEL)
    found = []
    for close in (gram_frame.CLOSE, 0.0):
        monkeypatch.setattr(gram_frame, "CLOSE", close)
        gram = gram_of(data)
        projections = project(gram, data, noise)
        found.append(posterior(gram, on_path(gram, rows, t), projections, t).weights)
    atoms, _, weights = atoms_of(data, NO_LABEL)
    x = LINEAR.sample(data.take(rows).double(), noise.double(), t)
    truth = reference(atoms, x, t, weights=weights).posterior
    tied, loose = ((weights - truth).abs().max() for weights in found)
    assert tied < 1e-12
    assert loose > 1e-9


def test_ties_are_minimum_spanning_trees(points_source):
    """No edge on the way between two atoms is longer than they are apart."""
    data = laid_out(points_source, "nested")
    gram, (atoms, _, _) = gram_of(data), atoms_of(data, NO_LABEL)
    assert gram.ties is not None
    whole = torch.eye(len(gram), dtype=torch.float64)
    whole[gram.ties.atoms[:, None], gram.ties.atoms] = gram.ties.chains
    vectors = gram.frame.vectors(data, torch.arange(len(gram)))
    assert_close(whole @ vectors, atoms - gram.frame.centre, atol=1e-14, rtol=0)
    assert_close(gram.norms, (atoms - gram.frame.centre).square().sum(1), atol=0, rtol=1e-13)
    between = (whole[:, None] - whole).abs()
    longest = (between * vectors.norm(dim=1)).amax(2)
    tree = gram.frame.parents == gram_frame.ROOT
    crossing = (between * tree).sum(2) > 0
    assert (longest <= torch.cdist(atoms, atoms) * (1 + 1e-6)).logical_or(crossing).all()
    assert_close(
        gram.halves(torch.arange(len(gram))),
        (atoms[:, None] - atoms).square().sum(2) / 2,
        atol=1e-300,
        rtol=1e-11,
    )


def test_blocks_change_nothing(points_source, monkeypatch):
    data = laid_out(points_source, "near 1e-4")
    whole = gram_of(data)
    monkeypatch.setattr(module, "BLOCK_BYTES", 2500)
    tight = gram_of(data)
    for name in ("products", "along", "gains"):
        size = getattr(whole, name).abs().max()
        assert_close(getattr(tight, name), getattr(whole, name), atol=1e-14 * float(size), rtol=0)
    assert (tight.frame.parents == whole.frame.parents).all()


# what is refused --------------------------------------------------------------------------------


def test_a_matrix_beyond_the_budget_is_refused_before_any_reading(points_source):
    class Closed(type(points_source(torch.zeros(1, 1)))):
        def take(self, rows):
            raise AssertionError("the points were read")

    data = points_source(torch.randn(50, 4))
    with pytest.raises(
        Mistake, match="50 points take 20000 bytes, but the memory budget is 19999"
    ):
        gram_of(Closed(data.points, data.labels, data.weights), budget=19_999)
    assert gram_of(data, budget=20_000).nbytes == 20_000
    twins = laid_out(points_source, "near 1e-4")
    with pytest.raises(Mistake, match="pairs close, take"):
        gram_of(twins, budget=8 * 120**2)


def test_mistakes_say_what_to_do(points_source):
    data = laid_out(points_source, "merged")
    gram = gram_of(data, 1)
    noise = torch.randn(2, *data.shape)
    projections, grid = project(gram, data, noise), time_grid(4)
    for row in (7, 2, 500):
        with pytest.raises(Mistake, match=f"row {row} is not an atom of class 1"):
            on_path(gram, torch.tensor([row]), TIMES[:1])
    with pytest.raises(Mistake, match=r"unknown solver 'hoyn'.*heun"):
        follow(gram, projections, grid, solver="hoyn")
    with pytest.raises(Mistake, match="need a start"):
        follow(gram, projections, grid[1:])
    with pytest.raises(Mistake, match="increases"):
        follow(gram, projections, grid.flip(0))
    with pytest.raises(Mistake, match="still contain noise"):
        points(gram, data, at_noise(gram, 2))
    with pytest.raises(Mistake, match="noise has shape"):
        project(gram, data, torch.randn(2, 5))
    with pytest.raises(ValueError, match="0 / 0 at t = 1"):
        posterior(gram, at_noise(gram, 2), projections, torch.ones(2))
    with pytest.raises(Mistake, match="there is no class 9"):
        gram_of(data, 9)
