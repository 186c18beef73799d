"""The exactness contract: 1e-5 of ‖u*‖ against the dense float64 reference, wherever it is asked.

Where x is so placed that its own float64 rounding moves u* further than that, the response to that
rounding is what can be asked: A · (α/σ²) · 2⁻⁵² (‖x‖ + max‖x_i‖) · tr Cov.
"""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st

from floracle.core.paths import LINEAR, PATHS
from floracle.oracle import scan as dense
from floracle.oracle.float64_refinement import MAX_PREDICTED_ERROR, refine
from floracle.oracle.oracle import Oracle
from floracle.oracle.queries import prepare_queries
from floracle.oracle.reference import reference
from floracle.oracle.scan import BlockMaxima, scan
from floracle.sampling.grid import time_grid
from floracle.sampling.sample import trajectory

CONTRACT = 1e-5
TIMES = torch.tensor(
    [0, 1e-3, 0.03, 0.1, 0.2, 0.3, 0.5, 0.7, 0.9, 0.97, 0.99, 0.999, 0.9999], dtype=torch.float64
)
QUERIES = ("path", "two", "five", "zero", "far", "noisy")
LAYOUTS = ("plain", "near 1e-3", "near 1e-5", "ball 1e-2", "ball 1e-4", "two clouds", "mirrored")


def cloud(count, dims, *, seed=0, layout="plain", scale=1.0, offset=0.0):
    """Points of a decaying spectrum, laid out so that something about them is hard."""
    drawn = torch.Generator().manual_seed(seed)
    spectrum = (1 + torch.arange(dims)).double() ** -0.7
    points = torch.randn(count, dims, generator=drawn) * (spectrum / spectrum.mean()).sqrt() / 2
    kind, _, size = layout.partition(" ")
    half = max(1, count // 2)
    if kind == "near":
        nudge = float(size) * torch.randn(half, dims, generator=drawn) / 2
        points[-half:] = points[:half] + nudge
    elif kind == "ball":
        few = min(200, max(1, count - 3))
        points[:few] = points[0] + float(size) * torch.randn(few, dims, generator=drawn)
    elif kind == "two":
        points += 100 * (2 * (torch.arange(count) % 2)[:, None] - 1)
    elif kind == "mirrored":
        points[-half:] = -points[:half]
    return (points * scale + offset).float()


def placed(points, kind, t, *, seed=0, path=LINEAR):
    """Queries float64 of one kind, one for each time."""
    drawn = torch.Generator().manual_seed(seed)
    data, c, count = points.double(), path.coefficients(t), len(t)
    rows = torch.randint(len(points), (5, count), generator=drawn)
    noise = torch.randn(count, points.shape[1], generator=drawn, dtype=torch.float64)
    alpha, sigma = c.alpha[:, None], c.sigma[:, None]
    middle = alpha * data[rows[:2]].mean(0)
    return {
        "path": alpha * data[rows[0]] + sigma * noise,
        "two": middle,
        "noisy": middle + sigma * noise,
        "five": alpha * data[rows].mean(0),
        "zero": torch.zeros_like(noise),
        "far": alpha * data[rows[0]] + 10 * noise,
    }[kind]


def errors(velocity, points, x, t, weights=None, path=LINEAR):
    """Distances from the reference over what the contract allows; at most 1."""
    truth, c = reference(points, x, t, weights=weights, path=path), path.coefficients(t)
    points, x = points.double(), x.double()
    amplification = c.d_alpha - c.alpha * c.d_sigma / c.sigma
    about = points - points.mean(0)
    spread = truth.posterior @ about.square().sum(1)
    spread = (spread - (truth.mean - points.mean(0)).square().sum(1)).clamp(min=0)
    longest = points.norm(dim=1).max()
    moved = c.alpha / c.sigma**2 * 2.0**-52 * (x.norm(dim=1) + longest) * spread
    floor = amplification * (moved + 2.0**-50 * longest)
    allowed = CONTRACT * truth.velocity.norm(dim=1) + floor
    return (velocity.double() - truth.velocity).norm(dim=1) / allowed


def holds(points, kinds=QUERIES, *, t=TIMES, weights=None, path=LINEAR, source, **settings):
    """Check the contract on queries of several kinds; returns the worst share of it used."""
    data = source(points, weights=weights)
    atoms, oracle = data.atoms(), Oracle(data, path=path, **settings)
    worst = 0.0
    for kind in kinds:
        x = placed(points, kind, t, path=path)
        off = errors(oracle(x, t), data.take(atoms.rows), x, t, atoms.weights, path)
        assert off.max() <= 1, f"{kind}: {off.max():.2g} of the contract at t = {t[off.argmax()]}"
        worst = max(worst, float(off.max()))
    return worst


# the reference itself --------------------------------------------------------------------------


@pytest.mark.parametrize("path", PATHS.values(), ids=list(PATHS))
def test_reference_agrees_with_extended_precision(path):
    points = cloud(40, 12)
    x, wide = placed(points, "noisy", TIMES, path=path), np.longdouble
    truth, c = reference(points, x, TIMES, path=path), path.coefficients(TIMES)
    for k, (alpha, sigma, d_alpha, d_sigma) in enumerate(zip(*c, strict=True)):
        a, s = wide(alpha.item()), wide(sigma.item())
        atoms, query = points.double().numpy().astype(wide), x[k].numpy().astype(wide)
        logits = -((query - a * atoms) ** 2).sum(1) / (2 * s**2)
        weights = np.exp(logits - logits.max())
        mean = weights @ atoms / weights.sum()
        u = wide(d_alpha.item()) * mean + wide(d_sigma.item()) / s * (query - a * mean)
        u = torch.from_numpy(u.astype(np.float64))
        assert (truth.velocity[k] - u).norm() <= 1e-9 * u.norm()


# the contract ----------------------------------------------------------------------------------


@pytest.mark.slow
@given(
    count=st.integers(1, 230),
    dims=st.sampled_from([1, 2, 3, 16, 63, 64, 65, 128]),
    layout=st.sampled_from(LAYOUTS),
    scale=st.sampled_from([1e-3, 1.0, 1e3]),
    offset=st.sampled_from([0.0, 10.0, 1000.0]),
    kind=st.sampled_from(QUERIES),
    path=st.sampled_from(list(PATHS.values())),
    streamed=st.booleans(),
    weighted=st.booleans(),
    single=st.booleans(),
    seed=st.integers(0, 2**20),
)
@example(230, 64, "ball 1e-4", 1e3, 0.0, "two", LINEAR, False, False, False, 0)
@example(230, 64, "mirrored", 1e3, 0.0, "five", LINEAR, False, False, False, 0)
@example(230, 1, "plain", 1.0, 0.0, "noisy", LINEAR, True, True, False, 0)
@settings(max_examples=120)
def test_contract_holds_wherever_it_is_asked(
    points_source,
    count,
    dims,
    layout,
    scale,
    offset,
    kind,
    path,
    streamed,
    weighted,
    single,
    seed,
):
    points = cloud(count, dims, seed=seed, layout=layout, scale=scale, offset=offset)
    weights = torch.rand(count, dtype=torch.float64) + 0.01 if weighted else None
    data = points_source(points, weights=weights)
    atoms = data.atoms()
    x = placed(points, kind, TIMES, seed=seed, path=path)
    x = x.float() if single else x
    oracle = Oracle(data, path=path, memory=1 if streamed else None)
    velocity = oracle(x, TIMES)
    assert velocity.dtype == x.dtype
    off = errors(velocity, data.take(atoms.rows), x, TIMES, atoms.weights, path)
    assert off.max() <= 1 + 0.02 * single, f"{off.max():.2g} at t = {TIMES[off.argmax()]}"


@pytest.mark.slow
@pytest.mark.parametrize("streamed", [False, True])
@pytest.mark.parametrize(("scale", "offset"), [(1, 0), (1, 10), (1, 1000), (1e3, 0), (1e-3, 0)])
def test_contract_holds_for_images(points_source, scale, offset, streamed):
    points = cloud(200, 768, layout="near 1e-3", scale=scale, offset=offset)
    holds(points, source=points_source, memory=1 if streamed else None)


@pytest.mark.parametrize("layout", ["ball 1e-1", "ball 1e-2", "ball 1e-3", "ball 1e-4"])
@pytest.mark.parametrize("offset", [0.0, 1000.0])
def test_more_rivals_than_leaders_are_kept(points_source, layout, offset):
    points = cloud(230, 96, layout=layout, offset=offset)
    holds(points, ("path", "two", "noisy"), source=points_source)


@pytest.mark.parametrize("dims", [20_001, pytest.param(262_144, marks=pytest.mark.slow)])
def test_contract_holds_in_many_dimensions(points_source, dims):
    holds(cloud(16, dims, layout="near 1e-3"), ("path", "two"), source=points_source)


@pytest.mark.slow
def test_contract_holds_for_many_points(points_source):
    points = cloud(40_000, 64)
    t = TIMES[2:-1:2]
    assert holds(points, ("path", "noisy"), t=t, source=points_source) <= 1


@pytest.mark.parametrize("path", PATHS.values(), ids=list(PATHS))
def test_contract_holds_along_trajectories(points_source, path):
    points = cloud(150, 80, layout="near 1e-3")
    data = points_source(points)
    oracle, x = Oracle(data, path=path), torch.randn(4, 80, dtype=torch.float64)
    for state in trajectory(oracle, x, time_grid(25, stop=0.9999)):
        t = torch.full((4,), state.t, dtype=torch.float64)
        if state.velocity is not None:
            assert errors(state.velocity, points, state.x, t, path=path).max() <= 1


def test_cancelling_averages_are_noticed(points_source):
    """Mirrored points of a large scale: x̂ is small, what is averaged is not."""
    points = cloud(200, 128, layout="mirrored", scale=1e3)
    t = torch.tensor([0.0, 1e-6, 1e-4, 1e-3], dtype=torch.float64)
    holds(points, ("path", "two", "five"), t=t, source=points_source)


def test_rescoring_takes_bounded_memory(points_source, monkeypatch):
    """Queries are rescored a few at a time where points are large, with the same result."""
    points = cloud(30, 512, layout="near 1e-5")
    oracle = Oracle(points_source(points))
    x, t = placed(points, "noisy", TIMES), TIMES
    whole = oracle(x, t)
    monkeypatch.setattr("floracle.oracle.float64_refinement.RESCORED_COORDINATES", 1)
    torch.testing.assert_close(oracle(x, t), whole, rtol=1e-12, atol=0)


@pytest.mark.slow
@pytest.mark.parametrize("rows", [1, 7, 64, 4096])
def test_block_size_and_order_change_nothing(points_source, monkeypatch, rows):
    points = cloud(150, 96, layout="near 1e-3")
    x = placed(points, "noisy", TIMES)
    expected = Oracle(points_source(points))(x, TIMES)
    monkeypatch.setattr(dense, "block_rows", lambda *_: rows)
    for order in (torch.arange(150), torch.randperm(150)):
        for memory in (None, 1):
            found = Oracle(points_source(points[order]), memory=memory)(x, TIMES)
            assert errors(found, points, x, TIMES).max() <= 1
            apart = (found - expected).norm(dim=1) / expected.norm(dim=1)
            assert apart.max() <= 2 * CONTRACT


def test_single_precision_alone_would_break_the_contract(points_source):
    """What the rescoring is for: without it midpoints are wrong by far more than the contract."""
    points = cloud(150, 96, layout="near 1e-3")
    oracle, x = Oracle(points_source(points)), placed(points, "two", TIMES)
    asked = prepare_queries(oracle.class_points(), x, TIMES, LINEAR)
    sums = scan(oracle.class_points(), asked)
    raw = asked.velocity(sums.points / sums.mass[:, None] + oracle.class_points().offset)
    assert errors(raw, points, x, TIMES).max() > 10


@pytest.mark.parametrize("layout", LAYOUTS)
def test_what_is_not_rescored_did_not_need_it(points_source, layout):
    points = cloud(230, 96, layout=layout)
    oracle = Oracle(points_source(points))
    for kind in QUERIES:
        x = placed(points, kind, TIMES)
        asked = prepare_queries(oracle.class_points(), x, TIMES, LINEAR)
        resolved = refine(oracle.class_points(), asked, scan(oracle.class_points(), asked))
        left = resolved.rescored == 0
        off = errors(asked.velocity(resolved.mean), points, x, TIMES)
        assert (off[left] <= 1).all()
    assert MAX_PREDICTED_ERROR < CONTRACT


def test_forward_path_in_navigation_is_not_rescored(points_source):
    """Rescoring costs nothing where it is not needed."""
    points = cloud(1000, 1024)
    t = torch.linspace(0, 0.12, 24, dtype=torch.float64)
    oracle, x = Oracle(points_source(points)), placed(points, "path", t)
    asked = prepare_queries(oracle.class_points(), x, t, LINEAR)
    assert not refine(
        oracle.class_points(), asked, scan(oracle.class_points(), asked)
    ).rescored.any()


@pytest.mark.slow
def test_leaders_put_right_within_the_sums_are_enough(points_source):
    """At the collapse many atoms compete, but the few that weigh much are those that are kept."""
    spectrum = (1 + torch.arange(4096)).float() ** -1
    points = torch.randn(3000, 4096) * (spectrum / spectrum.mean()).sqrt()
    oracle, t = Oracle(points_source(points)), torch.linspace(0.06, 0.09, 32).double()
    x = placed(points, "path", t)
    asked = prepare_queries(oracle.class_points(), x, t, LINEAR)
    sums = scan(oracle.class_points(), asked)
    resolved = refine(oracle.class_points(), asked, sums)
    mended = resolved.rescored == sums.top.shape[1]
    assert mended.sum() >= 3
    raw = sums.points / sums.mass[:, None] + oracle.class_points().offset
    off, before = (errors(asked.velocity(mean), points, x, t) for mean in (resolved.mean, raw))
    assert (off <= 1).all()
    assert off[mended].max() < before[mended].max() / 2


@pytest.mark.slow
@pytest.mark.parametrize("layout", LAYOUTS)
def test_stretches_where_nothing_competes_can_be_left_out(points_source, layout, monkeypatch):
    """Scanning again wherever an atom competed gives what scanning everything again gives."""
    monkeypatch.setattr("floracle.oracle.scan.block_rows", lambda *_: 16)
    monkeypatch.setattr("floracle.oracle.float64_refinement.correct_kept_logits", _unsettled)
    points = cloud(230, 96, layout=layout)
    oracle = Oracle(points_source(points))
    for kind in QUERIES:
        x = placed(points, kind, TIMES)
        asked = prepare_queries(oracle.class_points(), x, TIMES, LINEAR)
        maxima = BlockMaxima()
        sums = scan(oracle.class_points(), asked, top_k=2, maxima=maxima)
        assert len(maxima.ranges) == 15
        off = errors(
            asked.velocity(refine(oracle.class_points(), asked, sums, maxima).mean),
            points,
            x,
            TIMES,
        )
        assert (off <= 1).all()


def _unsettled(members, queries, sums):
    mean = sums.points / sums.mass[:, None] + members.offset
    return sums, mean, torch.zeros(len(mean), dtype=torch.bool)
