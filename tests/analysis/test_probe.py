"""Probed fields whose predictions are known in closed form, and a real model."""

from __future__ import annotations

import math
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

import floracle
from clouds import Clouds
from floracle.analysis.trajectories import probe as module
from floracle.analysis.trajectories.frequency_bands import radial_bands
from floracle.analysis.trajectories.lag import initial_error, lag
from floracle.analysis.trajectories.probe import COARSE_CYCLES, probe
from floracle.core.seeds import noise
from floracle.oracle.gaussian_data import GaussianOracle
from floracle.oracle.oracle import Oracle
from floracle.oracle.reference import reference
from floracle.run.errors import InputError
from floracle.sampling.grid import time_grid
from floracle.sampling.sample import sample


def normal(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.fixture
def gaussian(points_source):
    """One Gaussian in six dimensions, far from isotropic."""
    mean, stds = normal(1, 6, seed=3), torch.tensor([[0.2, 0.5, 0.8, 1.0, 2.0, 3.0]])
    return mean, stds, GaussianOracle(Clouds(points_source(mean), stds))


def exact_shares(stds: Tensor, z: Tensor, t: Tensor, until: float) -> Tensor:
    """ρ(t) of one Gaussian in float64 [b, T]: x(t) = t μ + √v z with v = (1 − t)² + t² s²."""
    s = stds.double()[None]

    def gone(t):
        return t[:, None] * s / ((1 - t[:, None]) ** 2 + t[:, None] ** 2 * s**2).sqrt()

    whole, weights = gone(torch.tensor([until]).double()), (s * z).square()
    left = (gone(t) - whole).square()  # of s² z² in every direction
    return (weights[:, None] * left[None]).sum(2) / (weights * whole.square()).sum(1, True)


@pytest.mark.slow
@pytest.mark.parametrize("until", [0.9, 1.0])
def test_a_gaussian_is_followed_as_its_closed_form_says(gaussian, until):
    mean, stds, oracle = gaussian
    grid = time_grid(200)
    found = probe(oracle, range(12), (6,), grid=grid, solver="rk4", until=until)
    z, t = noise(range(12), (6,)).double(), grid[:-1]
    shares = exact_shares(stds[0], z, t, until)
    assert_close(found.columns["remaining"], shares, atol=2e-4, rtol=0)
    v = (1 - t[:, None]) ** 2 + t[:, None] ** 2 * stds[0].double() ** 2
    rate = (t[:, None] * stds[0] ** 2 - (1 - t[:, None])) / v.sqrt()
    velocity = mean[0].double() + rate[None] * z[:, None]
    speeds = velocity.square().mean(2).sqrt()
    assert_close(found.columns["speed"], speeds, atol=1e-4, rtol=1e-4)
    for b, when in enumerate(found.settling_times().tolist()):
        low, high = 0.0, until
        for _ in range(50):
            middle = (low + high) / 2
            at = torch.tensor([middle]).double()
            left = float(exact_shares(stds[0], z[b : b + 1], at, until))
            low, high = (middle, high) if left >= 0.1 else (low, middle)
        assert when == pytest.approx(low, abs=1e-3)


@pytest.mark.slow
def test_an_isotropic_gaussian_settles_at_one_time(points_source):
    """ρ is (1 − t s / √v)² for every seed, so the transition is a root that can be written out."""
    s, level = 0.7, 0.1
    oracle = GaussianOracle(Clouds(points_source(normal(1, 5)), torch.full((1, 5), s)))
    found = probe(
        oracle, range(6), (5,), grid=time_grid(500), solver="heun", threshold=level, until=1.0
    )
    r = 1 - math.sqrt(level)  # t s = r √v
    odds = r / (s * math.sqrt(1 - r**2))  # t / (1 − t)
    when = found.settling()
    assert when.value == pytest.approx(odds / (1 + odds), abs=1e-3)
    assert when.error < 1e-4


def test_one_point_has_nothing_to_come(points_source):
    """x̂ is the point from the first time on, on any grid and in many dimensions."""
    for dims, steps in ((6, 3), (6, 60), (2000, 40)):
        found = probe(
            Oracle(points_source(normal(1, dims))), range(5), (dims,), grid=time_grid(steps)
        )
        assert (found.columns["remaining"] == 0).all()
        assert found.settling().value == 0
        assert found.detours.max() < 1 + 1e-6
        assert found.columns["change"].max() < 1e-4


def test_every_number_is_that_of_the_formula(points_source):
    """Against Euler steps of the dense float64 oracle, measured in the plainest way."""
    points, grid = normal(20, 2, 6, 6, seed=1), time_grid(15, shift=0.5)
    found = probe(Oracle(points_source(points)), range(6), (2, 6, 6), grid=grid)
    x = noise(range(6), (72,)).double()
    start, length = x, torch.zeros(6).double()
    means, velocities = [], []
    for t, s in pairwise(grid):
        truth = reference(points.flatten(1), x, t.expand(6))
        means.append(truth.mean)
        velocities.append(truth.velocity)
        length = length + (s - t) * truth.velocity.norm(dim=1)
        x = x + (s - t) * truth.velocity
    means, v = torch.stack(means, 1), torch.stack(velocities, 1)
    late = int((grid - 0.9).abs().argmin())
    left = (means - means[:, late, None]).square().sum(2)
    h = grid[:-1].diff()
    change, middle = v[:, 1:] - v[:, :-1], v[:, 1:] + v[:, :-1]
    along = (change * middle).sum(2, keepdim=True) / middle.square().sum(2, keepdim=True)
    radius = torch.fft.fftfreq(6, dtype=torch.float64) * 6
    low = torch.hypot(radius[:, None], radius[None]) <= COARSE_CYCLES

    def layout(values):
        waves = torch.fft.fft2(values.unflatten(-1, (2, 6, 6)), norm="ortho")
        return (waves.abs().square() * low).flatten(-3).sum(-1)

    smooth = layout(means - means[:, late, None])
    expected = {
        "remaining": left / left[:, :1],
        "layout": smooth / smooth[:, :1],
        "speed": v.square().mean(2).sqrt(),
        "change": means.diff(dim=1).square().mean(2).sqrt() / h,
        "turning": (change - along * middle).square().mean(2).sqrt() / h,
    }
    for name, values in expected.items():
        assert_close(found.columns[name], values, rtol=1e-3, atol=1e-4, msg=name)
    assert_close(found.detours, length / (x - start).norm(dim=1), rtol=1e-4, atol=0)
    assert found.evaluations == 15
    kept = [int((grid - t).abs().argmin()) for t in found.prediction_times[:-1]]
    assert_close(found.predictions[:, :-1].flatten(2).double(), means[:, kept], atol=1e-3, rtol=0)


@pytest.mark.slow
def test_the_ends_are_those_of_sample_and_the_calls_are_counted(points_source):
    oracle, asked = Oracle(points_source(normal(30, 4), torch.arange(30) % 2)), []

    def counted(x, t, labels=None):
        asked.append(len(x))
        return oracle(x, t, labels)

    for solver in ("euler", "heun", "rk4"):
        asked.clear()
        labels = torch.tensor([0, 1, 1])
        known = {"labels": labels, "solver": solver, "grid": time_grid(9), "until": 1.0}
        found = probe(counted, [4, 2, 9], (4,), **known)
        assert asked == [3] * found.evaluations
        end = sample(oracle, noise([4, 2, 9], (4,)), time_grid(9), labels=labels, solver=solver)
        assert torch.equal(found.predictions[:, -1], end)
        assert (found.columns["remaining"][:, 0] == 1).all()
        assert found.columns["remaining"][:, -1].max() < 1e-9  # the last step ends there
        assert found.detours.min() >= 1 - 1e-9


def test_guidance_costs_twice_inside_its_interval(points_source):
    oracle, asked = Oracle(points_source(normal(30, 4), torch.arange(30) % 2)), []

    def counted(x, t, labels=None):
        asked.append(len(x))
        return oracle(x, t, labels)

    field = floracle.guided(counted, 2.0, interval=(0.2, 0.5))
    found = probe(field, range(3), (4,), labels=torch.tensor([0, 1, 1]), grid=time_grid(10))
    assert found.evaluations == 10 + 4  # at .2, .3, .4 and .5
    assert sum(asked) == 3 * found.evaluations


@pytest.mark.slow
def test_how_many_are_followed_together_does_not_matter(points_source, monkeypatch):
    oracle = Oracle(points_source(normal(30, 1, 4, 4)))
    whole = probe(oracle, range(7), (1, 4, 4), labels=None)
    monkeypatch.setattr(module, "BATCH_BYTES", 4 * 16 * 51 * 3)
    parts = probe(oracle, range(7), (1, 4, 4))
    for name, values in whole.columns.items():
        assert_close(parts.columns[name], values, rtol=1e-4, atol=1e-5, msg=name)
    assert parts.predictions.shape == whole.predictions.shape == (7, 12, 1, 4, 4)
    monkeypatch.setattr(module, "KEPT_VALUES", 5 * 12 * 16)
    assert torch.equal(probe(oracle, range(7), (1, 4, 4)).predictions, parts.predictions[:5])


def test_layout_may_settle_before_the_rest(points_source):
    """Two points that differ in fine stripes alone: their mean has the layout of both."""
    stripes = torch.tensor([1.0, -1.0]).repeat(4).expand(1, 8, 8)
    ground = torch.linspace(-1, 1, 8)[:, None].expand(1, 8, 8)
    found = probe(
        Oracle(points_source(torch.stack([ground + stripes, ground - stripes]))),
        range(4),
        (1, 8, 8),
    )
    assert radial_bands((1, 8, 8), (COARSE_CYCLES,)).energies(stripes[None])[0, 0] < 1e-9
    assert found.settling("layout").value == 0
    assert found.settling().value > 0.03


def late(x, t, labels=None):
    """Predicts 0, and 1 from t = .95 on; −1 instead for label 1."""
    end = torch.where(t >= 0.95, 1.0, 0.0).to(x)
    if labels is not None:
        end = torch.where(labels == 1, -0.5, end)
    return (end[:, None] - x) / (1 - t[:, None].to(x))


def test_what_settles_with_the_last_step_alone_is_not_reached():
    found = probe(late, range(3), (5,), grid=time_grid(20), until=1.0)
    assert found.settling_times().isnan().all()
    assert str(found.settling()) == "not reached by 3 of 3"
    assert lag(found, found).value is None
    assert lag(found, found).verdict == "not significant"
    # asked at .95 and .975
    finer = probe(late, range(3), (5,), grid=time_grid(40), until=1.0)
    assert finer.settling().value == pytest.approx(0.95 - 0.1 * 0.025, abs=1e-6)


def test_what_moves_after_the_time_of_comparison_is_told():
    """The jump at .95 is not seen at .9, where all predictions are the same."""
    found = probe(late, range(3), (5,), grid=time_grid(20))
    assert found.until == pytest.approx(0.9)
    assert found.settling().value == 0
    assert (
        found.late_movement().value == 0
    )  # no way was made before it that it could be a share of
    halfway = probe(twice, range(3), (5,), grid=time_grid(40))  # 0, 2 from .5 on, 3 from .95 on
    assert halfway.settling().value == pytest.approx(0.5 - 0.1 * 0.025, abs=1e-6)
    assert halfway.late_movement().value == pytest.approx(0.25, abs=1e-5)  # (3 − 2)² / (2 − 0)²
    end = probe(twice, range(3), (5,), grid=time_grid(40), until=1.0)
    assert end.late_movement().value == 0
    assert end.settling("remaining").value > 0.9


def twice(x, t, labels=None):
    """Predicts 0, from t = .5 on 2, and from .95 on 3."""
    end = torch.where(t >= 0.5, 2.0, 0.0) + torch.where(t >= 0.95, 1.0, 0.0)
    return (end.to(x)[:, None] - x) / (1 - t[:, None].to(x))


def test_some_not_reached_leaves_the_mean_unknown():
    known = {"labels": torch.tensor([0, 1, 1, 0]), "until": 1.0}
    found = probe(late, range(4), (5,), grid=time_grid(20), **known)
    assert found.settling().value is None
    assert found.settling().reached == 2
    assert found.settling(label=1).value == 0  # one prediction throughout
    assert found.settling(label=0).value is None


def test_predictions_begin_at_the_mean(points_source):
    points = normal(40, 3, 4, 4) + 2
    oracle = probe(Oracle(points_source(points)), range(5), (3, 4, 4))
    assert_close(oracle.predictions[:, 0], points.mean(0).expand(5, 3, 4, 4), atol=1e-5, rtol=0)
    assert initial_error(oracle, oracle).value == 0

    def off(x, t, labels=None):
        return points.mean(0) + 0.5 - x  # right at t = 0, but for one half

    away = (oracle.predictions[:, -1] - points.mean(0)).flatten(1).norm(dim=1)
    found = initial_error(probe(off, range(5), (3, 4, 4)), oracle)
    assert found.value == pytest.approx(float((0.5 * 48**0.5 / away).mean()), rel=1e-4)


@pytest.fixture
def small(points_source):
    oracle = Oracle(points_source(normal(12, 1, 4, 4), torch.arange(12) % 2))
    return probe(oracle, range(4), (1, 4, 4), labels=torch.arange(4) % 2, grid=time_grid(12))


def test_what_is_saved_is_read_back(small, tmp_path):
    found = small
    floracle.save(found, tmp_path / "kept")
    again = floracle.load(tmp_path / "kept")
    assert isinstance(again, floracle.ProbeResult)
    for name in ("grid", "seeds", "labels", "detours", "prediction_times", "predictions"):
        assert torch.equal(getattr(again, name), getattr(found, name)), name
    assert again.columns.keys() == found.columns.keys()
    assert all(torch.equal(again.columns[name], found.columns[name]) for name in found.columns)
    for name in ("evaluations", "threshold", "until"):
        assert getattr(again, name) == getattr(found, name), name
    assert again.settings == found.settings


def test_results_that_are_not_whole_are_named(small):
    results = small.to_results()
    arrays = dict(results.arrays)
    for broken in (
        {name: values for name, values in arrays.items() if name != "columns/speed"},
        {**arrays, "columns/remaining": arrays["columns/remaining"][:, 1:]},
        {**arrays, "labels": arrays["labels"][1:]},
    ):
        with pytest.raises(InputError, match="not whole results of probe"):
            floracle.ProbeResult.of_results(replace(results, arrays=broken))
    with pytest.raises(InputError, match="not whole results of probe"):
        floracle.ProbeResult.of_results(replace(results, values={"evaluations": 5}))


def test_mistakes(points_source):
    oracle = Oracle(points_source(normal(15, 4)))
    for asked, words in (
        ({"grid": time_grid(9, start=0.2)}, "from 0 to 1"),
        ({"grid": time_grid(9, stop=0.8)}, "from 0 to 1"),
        ({"grid": time_grid(2)}, "3 steps at least"),
        ({"threshold": 0.0}, "a share between 0 and 1"),
        ({"threshold": 1.0}, "a share between 0 and 1"),
        ({"until": 0.01}, "two times of the grid before it"),
        ({"until": 1.5}, "until is a late time"),
        ({"prediction_times": [-0.1]}, "prediction times lie in"),
        ({"solver": "eulr"}, "euler"),
    ):
        with pytest.raises(InputError, match=words):
            probe(oracle, [1], (4,), **asked)
    with pytest.raises(InputError, match="pass at least one"):
        probe(oracle, [], (4,))
    with pytest.raises(InputError, match=r"t = 0\.5 is not finite"):
        probe(lambda x, t, labels=None: x / (t[:, None] < 0.5), [1], (4,), grid=time_grid(4))
    with pytest.raises(InputError, match="no trajectory has the label 3"):
        probe(oracle, [1], (4,)).settling(label=3)


@pytest.mark.slow
def test_a_real_model_begins_near_the_class_mean_and_settles_later(shared):
    """MNIST: somebody else's network beside the training set's own field."""
    where = shared / "data" / "mnist" / "train-images-idx3-ubyte.gz"
    data = floracle.open_store(str(where), normalize=1 / 255)
    network = f"{Path(__file__).parents[1] / 'models' / 'mnist_network.py'}:network"
    model = floracle.load_model(network, convention="predicts=data,null_label=10")
    known = {"labels": 3, "prediction_times": [0, 0.5]}
    field = probe(model, range(8), data.shape, **known)
    oracle = probe(Oracle(data), range(8), data.shape, **known)
    mean = data.take(data.atoms(3).rows).double().mean(0)
    assert_close(oracle.predictions[:, 0].double(), mean.expand(8, 1, 28, 28), atol=1e-5, rtol=0)
    begins = (field.predictions[:, 0].double() - mean).flatten(1).norm(dim=1) / mean.norm()
    assert begins.max() < 0.3
    assert initial_error(field, oracle).value < 0.3
    assert lag(field, oracle).verdict == "later"
    finer = probe(model, range(8), data.shape, grid=time_grid(150), **known)
    assert finer.settling().value == pytest.approx(field.settling().value, abs=0.01)
    assert (
        finer.late_movement().value > 1.5 * field.late_movement().value
    )  # which is why it is told apart
    near = floracle.nearest(data, oracle.predictions[:, -1], 1, label=3).distances
    assert near.max() < 1e-2
