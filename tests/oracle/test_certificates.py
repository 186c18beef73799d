"""Certificates on real pictures, awkward points and stores of every type, against long double.

The evaluation is that of benchmarks/certificates.py, which asks ten thousand queries.
"""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))

import certificates
from certificates import WIDE, evaluated, examined, forced, queries_of, verdict
from floracle.core.coarse_view import Frame, coarse_view, leading_directions
from floracle.core.paths import LINEAR
from floracle.core.seeds import generator
from floracle.data.packing.pack import pack
from floracle.data.store import open_store
from floracle.oracle import oracle as oracle_module
from floracle.oracle.oracle import Oracle
from floracle.oracle.pruning import search as pruning
from floracle.oracle.pruning.levels import BoundLevel
from floracle.oracle.pruning.screen import make_screen
from floracle.oracle.queries import prepare_queries


def rows_of(data, count, times, **more):
    return certificates.table(data, count, times=times, **more)


def assert_kept(rows):
    """No promise is broken, and some were made."""
    assert not [row for row in rows if row["broken"]]
    proven = [row for row in rows if row["handed back"] < 1]
    assert proven
    assert all(row["reported / asked"] <= 1 and row["share touched"] <= 1 for row in proven)


@pytest.fixture(scope="module")
def pictures(shared):
    """2500 images of CIFAR-10, 250 of each class."""
    certificates.SHARED = shared
    return open_store(certificates.cifar10(1))


@pytest.mark.slow
def test_pictures_at_every_time(pictures):
    """Forward path, midpoints, near the data, trajectories: 10 queries of each at ten times."""
    rows = rows_of(pictures, 10, certificates.TIMES)
    assert_kept(rows)
    late = [row for row in rows if row["t"] >= 0.75 and row["kind"] == "forward path"]
    assert all(row["handed back"] == 0 and row["share touched"] < 0.05 for row in late)
    assert all(row["share touched"] == 1 for row in rows[:2])


@pytest.mark.slow
@pytest.mark.parametrize("kind", certificates.AWKWARD)
def test_points_in_awkward_company_when_no_query_escapes(kind):
    points, group = certificates.clusters(kind, 800, 96)
    with forced():
        rows = rows_of(open_store(points), 12, WIDE, group=group)
    assert_kept(rows)
    assert all(row["handed back"] == 0 for row in rows if row["kind"] != "midpoints")


@pytest.mark.slow
@pytest.mark.parametrize("power", [0.0, 1.0, 3.0])
def test_spectra_when_no_query_escapes(power):
    with forced():
        rows = rows_of(open_store(certificates.decaying(700, 80, power=power)), 6, WIDE)
    assert_kept(rows)


@pytest.mark.slow
def test_a_bound_that_is_too_low_is_found_out(monkeypatch):
    """Without what lies beyond the first coordinates promises break, and this is seen."""
    further = BoundLevel._further

    def less(level, queries):
        found = further(level, queries)
        found[:, :-2] = 0
        return found

    monkeypatch.setattr(BoundLevel, "_further", less)
    monkeypatch.setattr(oracle_module, "has_bfloat16_units", lambda: False)
    with forced():
        rows = rows_of(open_store(certificates.decaying(700, 80, power=0.5)), 6, WIDE)
    assert sum(row["broken"] for row in rows) > 10


@pytest.mark.slow
@pytest.mark.parametrize("dtype", ["fp16", "bf16", "fp32"])
def test_packed_stores_of_any_type_mirrored_or_not(tmp_path, dtype):
    """What a store says its points are is what certificates are about."""
    points = certificates.decaying(600, 12 * 8).reshape(600, 1, 12, 8)
    for flips in (False, True):
        pack(points, tmp_path / str(flips), dtype=dtype, flips=flips, quiet=True)
        store = open_store(tmp_path / str(flips))
        assert len(store.atoms().rows) == 600 * (1 + flips)
        with forced():
            assert_kept(rows_of(store, 6, (0.1, 0.5, 0.9, 0.9999)))


@pytest.mark.slow
@pytest.mark.parametrize("lowest", [-6, -300])
def test_weights_of_any_size(points_source, lowest):
    points = certificates.decaying(600, 80)
    weights = torch.logspace(lowest, 0, 600, dtype=torch.float64)
    weights = weights[torch.randperm(600, generator=generator(1))]
    data = points_source(points, weights=weights)
    log_weights, asked = data.atoms().weights.log(), torch.full((72,), 1e-3, dtype=torch.float64)
    t = torch.tensor(WIDE, dtype=torch.float64).repeat(6)
    for kind in certificates.KINDS[:3]:
        x = queries_of(points, kind, t, generator(2))
        truth = evaluated(points, log_weights, x, t)
        with forced():
            columns = examined(Oracle(data, tolerance=1e-3), points, truth, x, t)
        assert not verdict(columns, asked)["broken"]
        assert columns["pruned"].double().mean() > 0.9


@pytest.mark.parametrize("size", [1e-30, 1e-6, 1e6, 1e17, 1e30])
def test_points_of_any_size(points_source, size):
    """Where float32 holds no products of them, everything is handed back."""
    points = certificates.decaying(600, 80).double() * size
    members = Oracle(points_source(points)).class_points()
    screen = make_screen(members, coarse_view(members.source))
    t = torch.tensor(WIDE[1:], dtype=torch.float64).repeat(4)
    x = queries_of(points.float(), "forward path", t, generator(2))
    with forced():
        queries = prepare_queries(members, x, t, LINEAR)
        found, _ = pruning.prune(screen, queries, tolerance=1e-3, top_k=8)
    assert (len(found.indices) > 0) == (size < 1e30)
    assert found.mean.isfinite().all()
    assert (found.error <= 1e-3).all()


@pytest.mark.parametrize("size", [1e-18, 1.0, 1e18])
def test_directions_do_not_depend_on_the_scale(size):
    """Products of points that large leave float32."""
    points = certificates.decaying(300, 40, power=2.0)
    found = leading_directions(points * torch.tensor(size), 8)
    along = found @ leading_directions(points, 8).T
    assert (along.diagonal().abs() > 1 - 1e-5).all()


@pytest.mark.parametrize("size", [1e-15, 1e-24])
def test_lengths_whose_squares_vanish_are_still_bounds(points_source, size):
    """Most of the weight lies along a coordinate that the first level does not look at."""
    count, dims = 1200, 96
    points = torch.zeros(count, dims)
    points[:, 50] = size * (2 + torch.arange(count) / 3000)
    points[::64, 50] = 0
    points[::64, 51] = size * 1e-3 * torch.arange(1, 20)
    points[:3, 50], points[:3, 0] = 0, size * (1 + torch.arange(3) / 3000)
    members = Oracle(points_source(points)).class_points()
    frame = Frame.along(torch.zeros(dims).double(), torch.eye(dims), (60, 96))
    screen = make_screen(members, coarse_view(members.source, frame=frame))
    x = torch.zeros(64, dims, dtype=torch.float64)
    x[:, 0] = x[:, 50] = 3e-7 / size
    x[:, 1] = x[:, 0] * torch.rand(64).double()
    t = torch.full((64,), 0.9999, dtype=torch.float64)
    asked = prepare_queries(members, x, t, LINEAR)
    with forced(), certificates.watched() as seen:
        found, _ = pruning.prune(screen, asked, tolerance=1e-3, top_k=8)
    weights, *_ = evaluated(points, members.log_weights, x, t)
    assert len(found.indices) == 64
    for row in range(64):
        weights[row, seen[x[row].numpy().tobytes()]] = 0
    assert (weights.sum(1) <= found.missing).all()


@pytest.mark.slow
@pytest.mark.parametrize(("power", "t"), [(0.0, 0.05), (0.5, 0.05), (2.0, 0.15), (2.0, 0.25)])
def test_what_is_handed_back_keeps_the_contract(power, t):
    """Near the data u* is short, and thousands of others share what the leader leaves."""
    points, t = certificates.decaying(20_000, 1024, power=power), torch.full((100,), t).double()
    data = open_store(points)
    x = queries_of(points, "near data", t, generator(11))
    truth = evaluated(points, data.atoms().weights.log(), x, t)
    columns = examined(Oracle(data), points, truth, x, t)
    assert (columns["error"] <= 1e-5 + columns["floor"]).all()
