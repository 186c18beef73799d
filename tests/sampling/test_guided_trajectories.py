"""Guidance along whole trajectories: against the closed form, and counted call by call."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import pytest
import torch
from torch.testing import assert_close

import floracle
from clouds import Clouds
from floracle.core.point_set import NO_LABEL
from floracle.oracle.reference import reference
from floracle.sampling.guidance import CHANNEL_CONVENTIONS, guidance_interval, guided
from floracle.sampling.sample import evaluation_times, evaluations, sample
from floracle.sampling.solvers import SOLVERS

MODELS = Path(__file__).parents[1] / "models"


@pytest.fixture(scope="module")
def oracle():
    return floracle.Oracle(floracle.open_store("digits"))


def closed_form(store, x, t, labels, scale, interval):
    """u_c + (w − 1)(u_c − u_0) by the formulas of the paper, in float64; u_c outside."""
    points = store.take(torch.arange(len(store))).flatten(1)
    flat, velocity = x.flatten(1), torch.empty_like(x.flatten(1))
    times = torch.full((len(x),), t, dtype=torch.float64)
    for label in labels.unique():
        rows = labels == label
        member = points[store.labels == label]
        velocity[rows] = reference(member, flat[rows], times[rows]).velocity
    if interval[0] <= t <= interval[1]:
        plain = reference(points, flat, times).velocity
        velocity = velocity + (scale - 1) * (velocity - plain)
    return velocity.view_as(x)


@pytest.mark.slow
@pytest.mark.parametrize("interval", [(0.1, 0.6), (0.0, 0.3), (0.2, 1.0)])
@pytest.mark.parametrize("scale", [2.5, 0.5])
def test_a_guided_oracle_follows_the_closed_form(oracle, scale, interval):
    labels = torch.arange(10).repeat(2)
    x = floracle.noise(range(20), (1, 8, 8)).double()
    grid = floracle.time_grid(20)
    field = guided(oracle, scale, interval=interval)
    states = list(floracle.trajectory(field, x, grid, labels=labels))
    for (t, s), state in zip(pairwise(grid.tolist()), states, strict=False):
        off = (state.x - x).flatten(1).norm(dim=1) / x.flatten(1).norm(dim=1)
        assert off.max() <= 1e-5
        x = x + (s - t) * closed_form(oracle.data, x, t, labels, scale, interval)
    off = (states[-1].x - x).flatten(1).norm(dim=1) / x.flatten(1).norm(dim=1)
    assert off.max() <= 1e-5


class Counting:
    """A field that keeps the time and the number of labelled and other rows of every call."""

    def __init__(self):
        self.calls = []

    def __call__(self, x, t, labels=None):
        given = torch.full((len(x),), NO_LABEL) if labels is None else labels
        assert len(t.unique()) == 1
        self.calls.append((t[0].item(), int((given >= 0).sum()), int((given < 0).sum())))
        return -x + (given >= 0).to(x)[:, None]


GRIDS = {
    "even": lambda: floracle.time_grid(20),
    "shifted": lambda: floracle.time_grid(20, shift=0.3),
    "late": lambda: floracle.split_grid(floracle.time_grid(20), at=0.33)[1],
}


@pytest.mark.parametrize("solver", SOLVERS)
@pytest.mark.parametrize("kind", GRIDS)
def test_evaluations_are_counted_inside_and_outside(solver, kind):
    grid, interval = GRIDS[kind](), (0.25, 0.6)
    field = Counting()
    push = guided(field, 2.5, interval=interval)
    sample(push, torch.randn(6, 3), grid, labels=torch.arange(6), solver=solver)
    assert [call[0] for call in field.calls] == evaluation_times(grid, solver)
    inside = [interval[0] <= t <= interval[1] for t in evaluation_times(grid, solver)]
    assert 0 < sum(inside) < len(inside)
    expected = [(6, 6 if within else 0) for within in inside]  # one call, doubled where guided
    assert [call[1:] for call in field.calls] == expected
    assert len(field.calls) == evaluations(grid, solver)
    rows = sum(sum(call[1:]) for call in field.calls)
    assert rows == 6 * evaluations(grid, solver, field=push)
    assert evaluations(grid, solver, field=field) == evaluations(grid, solver)


@pytest.mark.parametrize("solver", SOLVERS)
def test_autoguidance_asks_its_reference_inside_only(solver):
    grid, strong, weak = floracle.time_grid(20), Counting(), Counting()
    push = guided(strong, 2.0, interval=(0.25, 0.6), reference=weak)
    sample(push, torch.randn(6, 3), grid, labels=torch.arange(6), solver=solver)
    times = evaluation_times(grid, solver)
    assert [call[0] for call in strong.calls] == times
    assert [call[0] for call in weak.calls] == [t for t in times if 0.25 <= t <= 0.6]
    assert {call[1:] for call in strong.calls + weak.calls} == {(6, 0)}
    asked = len(strong.calls) + len(weak.calls)
    assert asked == evaluations(grid, solver, field=push)
    twice = guided(push, 3.0, reference=strong, interval=(0.5, 1.0))
    more = sum(t >= 0.5 for t in times)
    assert evaluations(grid, solver, field=twice) == asked + more


def test_scale_one_costs_nothing():
    field = Counting()
    grid = floracle.time_grid(10)
    push = guided(field, 1.0)
    sample(push, torch.randn(2, 3), grid, labels=0)
    assert len(field.calls) == evaluations(grid, field=push) == 10


def test_only_rows_inside_are_doubled():
    seen = []

    def field(x, t, labels=None):
        seen.append((t, labels))
        return x

    t = torch.tensor([0.05, 0.3, 0.9, 0.6])
    guided(field, 2.0, interval=(0.1, 0.6))(torch.randn(4, 3), t, torch.arange(4))
    ((times, labels),) = seen
    assert torch.equal(times, torch.cat([t, t[[1, 3]]]))
    assert labels.tolist() == [0, 1, 2, 3, -1, -1]


def two_calls(field, x, t, labels, scale):
    """Guidance as two calls."""
    with_labels, without = field(x, t, labels), field(x, t)
    return without + scale * (with_labels - without)


NETWORKS = '''
import torch

def pull():
    """A network of the whole set where it gets no labels."""
    return lambda x, t, labels=None: (0 if labels is None else labels[:, None] - 4.5) - x

def bound():
    return lambda x, t, labels: labels[:, None] - x
'''


def kinds(points_source, tmp_path):
    """A field of every kind, with the shape of its samples."""
    (tmp_path / "networks.py").write_text(NETWORKS)
    digits = floracle.open_store("digits")
    mnist = floracle.load_model(
        f"{MODELS / 'mnist_network.py'}:network", convention="predicts=data,null_label=10"
    )
    yield "oracle", floracle.Oracle(digits), (1, 8, 8)
    yield "network", mnist, (1, 28, 28)
    own = floracle.load_model(f"{tmp_path / 'networks.py'}:pull", convention="sit")
    yield "no null label", own, (3,)
    yield "temperature", floracle.Oracle(digits, temperature=2.0), (1, 8, 8)
    priors = torch.arange(1, 11, dtype=torch.float64)
    yield "mixture", floracle.mixture(floracle.Oracle(digits), priors / priors.sum()), (1, 8, 8)
    means = points_source(torch.randn(100, 6), torch.arange(100) % 10)
    clouds = Clouds(means, torch.full((100, 6), 0.3))
    yield "Gaussians", floracle.GaussianOracle(clouds), (6,)
    yield "guided", guided(mnist, 1.5, interval=(0.3, 0.8)), (1, 28, 28)


@pytest.mark.slow
def test_one_doubled_batch_equals_two_calls(shared, points_source, tmp_path):
    t = torch.linspace(0, 0.95, 12, dtype=torch.float64)
    for name, field, shape in kinds(points_source, tmp_path):
        x, labels = floracle.noise(range(12), shape), torch.arange(12) % 10
        if name == "guided":
            expected = field(x, t, labels) * 3 - 2 * field(x, t, torch.full((12,), NO_LABEL))
        else:
            expected = two_calls(field, x, t, labels, 3.0)
        found = guided(field, 3.0)(x, t, labels)
        off = (found - expected).flatten(1).norm(dim=1) / expected.flatten(1).norm(dim=1)
        assert off.max() <= 1e-6, name


def test_a_network_that_cannot_go_without_labels_says_so(tmp_path):
    (tmp_path / "networks.py").write_text(NETWORKS)
    field = floracle.load_model(f"{tmp_path / 'networks.py'}:bound", convention="sit")
    x, t = torch.randn(2, 3), torch.full((2,), 0.5)
    assert_close(field(x, t, torch.tensor([0, 1])), torch.tensor([[0.0], [1.0]]) - x)
    for labels in (None, torch.tensor([-1, 1])):
        with pytest.raises(floracle.InputError, match="null_label=10"):
            field(x, t, labels)


def test_guidance_needs_labels_or_a_reference(oracle):
    x, t = torch.randn(2, 1, 8, 8), torch.full((2,), 0.3)
    with pytest.raises(floracle.InputError, match="none were given; give labels, or a reference"):
        guided(oracle, 2.0)(x, t)
    assert_close(guided(oracle, 2.0, reference=oracle)(x, t), oracle(x, t))


def test_a_reference_of_another_shape_is_refused(oracle):
    push = guided(oracle, 2.0, reference=lambda x, t, labels=None: x[:, :, :4])
    with pytest.raises(floracle.InputError, match="same shape"):
        push(torch.randn(2, 1, 8, 8), torch.full((2,), 0.3), torch.zeros(2, dtype=torch.int64))


def test_the_habit_is_three_channels():
    x, t, labels = torch.randn(2, 32, 2, 2), torch.full((2,), 0.3), torch.tensor([1, 1])

    def field(x, t, labels=None):
        return x * (labels >= 0).to(x)[:, None, None, None]

    found = guided(field, 4.0, channels="three")(x, t, labels)
    assert torch.equal(found, guided(field, 4.0, channels=3)(x, t, labels))
    assert_close(found[:, :3], 4 * x[:, :3])
    assert torch.equal(found[:, 3:], x[:, 3:])
    assert CHANNEL_CONVENTIONS == {"three": 3}


def test_a_time_that_is_an_end_but_for_rounding_is_inside():
    field = guided(Counting(), 2.0, interval=(0.1, 0.6))
    end = 1 - 0.9  # as a clock from data to noise has it, below .1
    assert end < 0.1
    times = torch.tensor([end, 0.6, 0.1 - 1e-9], dtype=torch.float64)
    assert field.inside(times).tolist() == [True, True, False]


# intervals -------------------------------------------------------------------------------------


def test_intervals_of_other_clocks():
    # Kynkäänniemi et al.'s (.34, 1.02]; EDM2-XXL's best, t ≈ .38 to .78 (FACTS 2)
    assert guidance_interval("edm", 0.34, 1.02) == pytest.approx((0.495, 0.746), abs=5e-4)
    assert guidance_interval("edm", 0.28, 1.61) == pytest.approx((0.38, 0.78), abs=5e-3)
    assert guidance_interval("sigma", 0.4, 0.9) == pytest.approx((0.1, 0.6))
    assert guidance_interval("timestep", 400, 900) == pytest.approx((0.1, 0.6))
    assert guidance_interval("t", 0.1, 0.6) == pytest.approx((0.1, 0.6))


@pytest.mark.parametrize(("low", "high"), [(0.0, 1.0), (0.1, 0.6), (0.383, 0.781)])
def test_intervals_come_back_from_every_clock(low, high):
    def edm(t):
        return (1 - t) / t if t else float("inf")

    for clock, reads in (
        ("sigma", lambda t: 1 - t),
        ("edm", edm),
        ("edm2", lambda t: edm(t) / 2),
    ):
        assert guidance_interval(clock, reads(high), reads(low)) == pytest.approx((low, high))


@pytest.mark.parametrize(
    ("clock", "low", "high"),
    [
        ("edm", 1.02, 0.34),
        ("edm", -1.0, 0.5),
        ("sigma", 0.2, 1.2),
        ("sigma", 0.2, float("nan")),
        ("adm", 0.2, 0.4),
    ],
)
def test_nonsense_intervals_are_refused(clock, low, high):
    with pytest.raises(floracle.InputError):
        guidance_interval(clock, low, high)
