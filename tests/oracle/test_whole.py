"""Bounds from bfloat16 products, against float64; certificates of queries that begin there."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))

import certificates
from certificates import evaluated, examined, queries_of, verdict
from floracle.core.coarse_view import coarse_view
from floracle.core.paths import LINEAR
from floracle.core.seeds import generator
from floracle.oracle import oracle as oracle_module
from floracle.oracle.oracle import Oracle
from floracle.oracle.pruning import search as pruning
from floracle.oracle.pruning.screen import make_screen
from floracle.oracle.queries import prepare_queries

WIDE = torch.tensor([0.02, 0.1, 0.3, 0.5, 0.7, 0.9, 0.99, 0.9999], dtype=torch.float64).repeat(4)


def screened(points):
    members = Oracle(points).class_points()
    return members, make_screen(members, coarse_view(members.source), bfloat16=True)


def logits(members, asked, points):
    """log w + g ⟨y, z⟩ − h ‖z‖², float64 [b, n], from original points alone."""
    z = points.double() - members.centre
    y = asked.x - asked.alpha[:, None] * members.centre
    half = (asked.gain * asked.alpha / 2)[:, None]
    return asked.gain[:, None] * (y @ z.T) - half * z.square().sum(1) + members.log_weights


@pytest.mark.slow
@pytest.mark.parametrize("size", [1e-20, 1e-3, 1.0, 1e4])
@pytest.mark.parametrize("power", [0.0, 1.0, 3.0])
@pytest.mark.parametrize("away", [0.0, 20.0])
def test_no_logit_is_above_its_bound(points_source, size, power, away):
    points = (certificates.decaying(500, 96, power=power) + away) * size
    members, screen = screened(points_source(points))
    for kind in ("forward path", "near data", "midpoints"):
        x = queries_of(points, kind, WIDE, generator(3))
        asked = prepare_queries(members, x.double(), WIDE, LINEAR)
        view, whole = screen.project(asked), screen.bfloat16
        truth = logits(members, asked, points)
        coefficients = whole.coefficients(view)
        bounds = whole.bounds(coefficients, torch.empty(len(points), len(x)))
        for cut in (truth.amax(1) - 1e-9, truth.median(1).values):
            ruled_out = whole.thresholds(view, cut)[:, None] > bounds.T
            assert not (ruled_out & (truth >= cut[:, None])).any()


@pytest.mark.slow
def test_bounds_are_worth_having(points_source):
    """Those of pictures-like points rule out nearly all that is far below the peak."""
    points = certificates.decaying(2000, 768)
    members, screen = screened(points_source(points))
    t = torch.full((16,), 0.5, dtype=torch.float64)
    asked = prepare_queries(
        members, queries_of(points, "forward path", t, generator(3)), t, LINEAR
    )
    view, truth = screen.project(asked), logits(members, asked, points)
    cut = truth.amax(1) - 40
    level = screen.bfloat16
    found = level.bounds(level.coefficients(view), torch.empty(2000, 16))
    survive = level.thresholds(view, cut)[:, None] <= found.T
    assert survive.double().mean() < 0.01


@pytest.mark.parametrize("size", [1e17, 1e25])
def test_points_too_large_rule_nothing_out(points_source, size):
    points = certificates.decaying(500, 96) * torch.tensor(size)
    members, screen = screened(points_source(points))
    asked = prepare_queries(
        members, queries_of(points, "forward path", WIDE, generator(3)), WIDE, LINEAR
    )
    view, level = screen.project(asked), screen.bfloat16
    thresholds = level.thresholds(view, torch.zeros(len(WIDE)).double())
    most = level.coefficients(view).double().norm(dim=1) * size
    assert (thresholds[most > 1e39] == -torch.inf).all()


@pytest.mark.slow
@pytest.mark.parametrize("power", [0.0, 1.0, 2.0])
@pytest.mark.parametrize("kind", certificates.KINDS[:3])
def test_certificates_of_queries_that_begin_here(points_source, monkeypatch, power, kind):
    begun = []

    def last_start(search):
        begun.append(len(search.screen.starts))
        return torch.full_like(search.touched, len(search.screen.starts) - 1)

    monkeypatch.setattr(pruning, "choose_start", last_start)
    monkeypatch.setattr(pruning, "COSTS", pruning.COSTS._replace(scan=1e12))
    monkeypatch.setattr(oracle_module, "has_bfloat16_units", lambda: True)
    points = certificates.decaying(900, 120, power=power)
    data = points_source(points)
    oracle, asked = Oracle(data, tolerance=1e-4), torch.full((len(WIDE),), 1e-4).double()
    x = queries_of(points, kind, WIDE, generator(4))
    truth = evaluated(points, data.atoms().weights.log(), x, WIDE)
    columns = examined(oracle, points, truth, x, WIDE)
    assert not verdict(columns, asked)["broken"]
    assert columns["pruned"].double().mean() > 0.8
    assert set(begun) == {len(oracle._screen(oracle.class_points()).levels) + 1}


def test_what_is_held_twice_counts_as_held(points_source, monkeypatch):
    """Where memory is short there are no coordinates in bfloat16, and the answer is the same."""
    monkeypatch.setattr(oracle_module, "has_bfloat16_units", lambda: True)
    points = certificates.decaying(900, 120)
    data, t = points_source(points), torch.full((32,), 0.8, dtype=torch.float64)
    x = queries_of(points, "forward path", t, generator(4))
    size = points.nbytes
    for memory, whole in ((size, False), (2 * size, True)):
        oracle = Oracle(data, tolerance=1e-4, memory=memory)
        velocity = oracle(x, t)
        assert (oracle._screen(oracle.class_points()).bfloat16 is not None) == whole
        assert oracle._cache.bytes == size + whole * size // 2
        plain = Oracle(data)(x, t)
        assert ((velocity - plain).norm(dim=1) <= 1e-4 * plain.norm(dim=1)).all()
