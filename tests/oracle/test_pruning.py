"""What is left out, against the float64 reference: never more than reported, nor than asked."""

from __future__ import annotations

import pytest
import torch

from floracle.core.paths import LINEAR
from floracle.core.seeds import generator
from floracle.oracle.oracle import Oracle
from floracle.oracle.reference import reference
from floracle.run.errors import InputError

COUNT, DIMS = 3000, 256
LATE = (0.3, 0.5, 0.7, 0.9, 0.99)


def decaying(count=COUNT):
    drawn = torch.randn(count, DIMS, generator=generator(3))
    return drawn * (torch.arange(1, DIMS + 1).float() ** -0.5 * 3)


def balls():
    """Thirty tight balls: near-duplicates within each."""
    middles = decaying(30)[torch.arange(COUNT) % 30]
    return middles + 1e-4 * torch.randn(COUNT, DIMS, generator=generator(5))


LAYOUTS = {"decaying": decaying, "balls": balls}


def asked_of(points, kind):
    """Clean points whose noisy versions are asked: data, midpoints, far away."""
    first, second = points[:20], points[100:120]
    return {"data": first, "midpoints": (first + second) / 2, "far": 5 * first}[kind]


@pytest.mark.slow
@pytest.mark.parametrize("tolerance", [1e-3, 1e-5, 1e-8])
@pytest.mark.parametrize("kind", ["data", "midpoints", "far"])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_never_more_than_is_reported_or_asked(points_source, layout, kind, tolerance):
    points = LAYOUTS[layout]()
    weights = torch.rand(COUNT, generator=generator(4)).double() ** 8 + 1e-6
    oracle = Oracle(points_source(points, weights=weights), tolerance=tolerance)
    clean = asked_of(points, kind).repeat(len(LATE), 1)
    t = torch.tensor(LATE).repeat_interleave(20).double()
    x = LINEAR.sample(clean, torch.randn(clean.shape, generator=generator(6)), t).double()
    found = oracle.posterior(x, t)
    truth = reference(points, x, t, weights=weights / weights.sum())
    sigma = (1 - t)[:, None]
    velocity = (found.mean - x) / sigma
    size = truth.velocity.norm(dim=1)
    error = (velocity - truth.velocity).norm(dim=1) / size
    pruned = found.touched < COUNT
    assert (found.error <= tolerance).all()
    assert (error[pruned] <= found.error[pruned] + 1e-12).all()
    assert (error[~pruned] <= 1e-5).all()
    heard = torch.zeros_like(truth.posterior)
    for row in range(len(x)):
        heard[row, found.top_rows[row]] = truth.posterior[row, found.top_rows[row]]
    unseen = 1 - heard.sum(1)  # of all but the leaders: what is missing cannot be more
    alone = pruned & (found.top_weights.sum(1) > 1 - 1e-15)
    assert (unseen[alone] <= found.missing[alone] + 1e-12).all()


@pytest.mark.slow
def test_it_prunes_where_it_can_and_says_how_much(points_source):
    points = decaying()
    oracle = Oracle(points_source(points), tolerance=1e-5)
    t = torch.full((64,), 0.8).double()
    x = LINEAR.sample(points[:64], torch.randn(64, DIMS, generator=generator(7)), t)
    found = oracle.posterior(x, t)
    assert (found.touched < COUNT / 20).all()
    assert (found.missing > 0).any()
    early = oracle.posterior(x, torch.full((64,), 0.01).double())
    assert (early.touched == COUNT).all()
    assert (early.missing == 0).all()


@pytest.mark.slow
def test_mixed_times_agree_with_the_whole_scan(points_source):
    points = decaying()
    data = points_source(points, torch.arange(COUNT) % 3)
    t = torch.linspace(0.02, 0.98, 30).double()
    x = LINEAR.sample(points[:30], torch.randn(30, DIMS, generator=generator(8)), t)
    labels = torch.arange(30) % 3
    whole, pruned = Oracle(data), Oracle(data, tolerance=1e-6)
    apart = (whole(x, t, labels) - pruned(x, t, labels)).norm(dim=1)
    assert (apart <= 1.1e-5 * whole(x, t, labels).norm(dim=1)).all()


def test_a_tolerance_is_a_small_number(points_source):
    for tolerance in (-1e-3, 1.0, float("nan")):
        with pytest.raises(InputError, match="tolerance is a relative velocity error"):
            Oracle(points_source(torch.randn(3, 4)), tolerance=tolerance)
