"""The theory on one page, in the order of the paper; every test is a statement of it."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from torch.testing import assert_close

import floracle
from floracle.core.paths import LINEAR, PATHS, QUANTITIES, ProbabilityPath, convert
from floracle.oracle.reference import reference

POINTS, DIMS, CLASSES = 300, 24, 3


@pytest.fixture(scope="module")
def data(points_source):
    """Points in three classes, each a cloud of its own spectrum."""
    drawn = torch.randn(POINTS, DIMS, generator=torch.Generator().manual_seed(1))
    labels = torch.arange(POINTS) % CLASSES
    scales = torch.linspace(1.2, 0.2, DIMS)
    return points_source(drawn * scales + labels[:, None], labels)


@pytest.fixture(scope="module")
def oracle(data):
    return floracle.Oracle(data)


def agree(found, expected, relative=1e-5):
    """Whether velocities [b, D] agree relative to the norm of each: the exactness contract."""
    off = (found - expected).norm(dim=1) / expected.norm(dim=1)
    assert off.max() <= relative, f"off by {off.max():.1e} of the norm"


def pairs(data, count: int, seed: int = 0, label: int | None = None):
    """Rows, their points and noise, drawn in proportion to weight."""
    generator = torch.Generator().manual_seed(seed)
    rows = torch.arange(len(data)) if label is None else data.atoms(label).rows
    rows = rows[torch.randint(len(rows), (count,), generator=generator)]
    return rows, data.take(rows), torch.randn(count, DIMS, generator=generator)


# Section 2.1 -----------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("path", PATHS.values(), ids=list(PATHS))
@pytest.mark.parametrize("t", [0.2, 0.45, 0.6])
def test_the_oracle_transports_the_density_of_real_data(path, t):
    """∂p/∂t + ∇·(p u*) = 0  (Eq. 1), over p: by central differences on a class of digits."""
    digits = floracle.open_store("digits")
    rows, weights = digits.atoms(3)
    points = digits.take(rows).flatten(1).double()
    noise = torch.randn(6, points.shape[1], generator=torch.Generator().manual_seed(0)).double()

    def log_density(x, times):
        c = path.coefficients(times)
        squared = (x[:, None] - c.alpha[:, None, None] * points).square().sum(2)
        logits = weights.log() - squared / (2 * c.sigma[:, None] ** 2)
        return logits.logsumexp(1) - x.shape[1] * c.sigma.log()

    def velocity(x, times):
        return reference(points, x, times, weights=weights, path=path).velocity

    now = torch.full((6,), t, dtype=torch.float64)
    x, h = path.sample(points[:6], noise, now), 1e-5
    change = (log_density(x, now + h) - log_density(x, now - h)) / (2 * h)
    slopes, divergence = torch.empty_like(x), torch.zeros(6, dtype=torch.float64)
    for d in range(x.shape[1]):
        step = torch.zeros_like(x)
        step[:, d] = h
        slopes[:, d] = (log_density(x + step, now) - log_density(x - step, now)) / (2 * h)
        divergence += (velocity(x + step, now) - velocity(x - step, now))[:, d] / (2 * h)
    moving = (slopes * velocity(x, now)).sum(1)
    size = change.abs() + divergence.abs() + moving.abs()
    assert ((change + divergence + moving).abs() <= 1e-6 * size).all()
    oracle = floracle.Oracle(digits, path=path)
    found = oracle(x.view(6, *digits.shape), now, torch.full((6,), 3))
    agree(found.flatten(1), velocity(x, now))


@pytest.mark.parametrize("path", PATHS.values(), ids=list(PATHS))
def test_the_target_is_the_change_of_the_interpolation(data, path):
    """d/dt (α_t data + σ_t noise)  (Eq. 4) is the conditional target  (Eq. 5)."""
    _, points, noise = pairs(data, 50, seed=8)
    points, noise, h = points.double(), noise.double(), 1e-6
    t = torch.linspace(0.01, 0.98, 50, dtype=torch.float64)
    change = path.sample(points, noise, t + h) - path.sample(points, noise, t - h)
    assert_close(change / (2 * h), path.velocity(points, noise, t), rtol=1e-7, atol=1e-7)
    ends = path.sample(points[:2], noise[:2], torch.tensor([0.0, 1.0]).double())
    assert_close(ends, torch.stack([noise[0], points[1]]), rtol=0, atol=1e-15)


# Theorem 2.1 -----------------------------------------------------------------------------------


def test_oracle_is_the_closed_form(oracle, data):
    """u*(x, t) = A Σ γ_i x_i + B x, with γ the softmax of −‖x − αx_i‖² / 2σ²  (Eq. 6, 7)."""
    _, points, noise = pairs(data, 64)
    t = torch.linspace(0, 0.9999, 64, dtype=torch.float64)
    x = LINEAR.sample(points, noise, t)
    alpha, sigma = t[:, None], 1 - t[:, None]
    apart = x.double()[:, None] - alpha[..., None] * data.points.double()
    logits = -apart.square().sum(2) / (2 * sigma**2)
    mean = logits.softmax(1) @ data.points.double()
    expected = (mean - x.double()) / sigma
    agree(oracle(x.double(), t), expected)


@pytest.mark.parametrize("path", PATHS.values(), ids=list(PATHS))
def test_oracle_is_the_conditional_expectation(data, path):
    """E[velocity | x_t] = u*: what is left correlates with no function of x_t  (Eq. 2, 3)."""
    _, points, noise = pairs(data, 4000, seed=2)
    t = torch.full((4000,), 0.35, dtype=torch.float64)
    x = path.sample(points.double(), noise.double(), t)
    left = path.velocity(points.double(), noise.double(), t) - floracle.Oracle(data, path=path)(
        x, t
    )
    for function in (x, x.tanh(), torch.ones_like(x)):
        products = (left * function).mean(1)
        assert products.mean().abs() <= 4 * products.std() / len(products) ** 0.5


def test_class_conditional_oracle_is_the_oracle_of_the_class(oracle, data):
    """For labelled queries the sum runs over the samples of the class."""
    _, points, noise = pairs(data, 60, seed=3)
    t = torch.rand(60, dtype=torch.float64) * 0.99
    x, labels = LINEAR.sample(points, noise, t).double(), torch.arange(60) % CLASSES
    found = oracle(x, t, labels)
    for label in range(CLASSES):
        chosen = labels == label
        members = data.points[data.labels == label]
        agree(found[chosen], reference(members, x[chosen], t[chosen]).velocity)


def test_unconditional_oracle_averages_the_classes(oracle, data):
    """E[u_c | x_t] = u: class masses weigh the class oracles."""
    _, points, noise = pairs(data, 20, seed=4)
    t = torch.full((20,), 0.2, dtype=torch.float64)
    x = LINEAR.sample(points, noise, t).double()
    by_class = [oracle.posterior(x, t, torch.full((20,), label)) for label in range(CLASSES)]
    masses = torch.stack([posterior.log_mass for posterior in by_class]).softmax(0)
    velocities = torch.stack([oracle(x, t, torch.full((20,), c)) for c in range(CLASSES)])
    agree((masses[..., None] * velocities).sum(0), oracle(x, t))


# The two stages --------------------------------------------------------------------------------


def test_at_pure_noise_everything_votes_alike(oracle, data):
    """At t = 0 the prediction is the mean of the data."""
    x, t = torch.randn(5, DIMS), torch.zeros(5, dtype=torch.float64)
    agree(oracle(x, t), data.points.mean(0) - x)


def test_near_the_data_one_sample_holds_all_weight(oracle, data):
    """At t → 1 the oracle is the conditional target of the sample itself."""
    rows, points, noise = pairs(data, 50, seed=5)
    t = torch.full((50,), 0.999, dtype=torch.float64)
    x = LINEAR.sample(points.double(), noise.double(), t)
    posterior = oracle.posterior(x, t)
    assert (posterior.top_rows[:, 0] == rows).all()
    agree(oracle(x, t), (points - noise).double())


def test_a_single_point_pulls_straight(points_source):
    """One sample: u* = (x_1 − x) / (1 − t) at every t."""
    point = torch.randn(1, 8)
    x, t = torch.randn(5, 8), torch.linspace(0, 0.9, 5, dtype=torch.float64)
    agree(floracle.Oracle(points_source(point))(x, t), (point - x) / (1 - t[:, None]))


def test_own_weight_is_the_expected_participation(oracle, data):
    """E γ_own = E Σ γ²: the own sample is itself a draw from the posterior."""
    rows, _, noise = pairs(data, 4000, seed=6)
    times = torch.linspace(0.1, 0.8, 8, dtype=torch.float64)
    found = oracle.pairs(rows, noise, times)
    apart = found.self_weight - found.participation
    assert (apart.mean(0).abs() <= 4 * apart.std(0) / len(rows) ** 0.5).all()


def test_gap_is_the_conditional_variance(oracle, data):
    """E‖u* − (data − noise)‖² = A² E tr Cov(data | x_t), and the pairs estimate both."""
    rows, points, noise = pairs(data, 3000, seed=7)
    time = torch.tensor([0.3], dtype=torch.float64)
    t = time.repeat(len(rows))
    x = LINEAR.sample(points.double(), noise.double(), t)
    direct = (oracle(x, t) - (points - noise).double()).square().sum(1)
    found = oracle.pairs(rows, noise, time)
    indirect = (found.amplification.square() * found.variance)[:, 0]
    error = (direct - indirect).std() / len(rows) ** 0.5
    assert (direct - indirect).mean().abs() <= 4 * error
    assert direct.mean() > 100 * error  # the statement has content


@pytest.mark.slow
@pytest.mark.parametrize("path", PATHS.values(), ids=list(PATHS))
def test_information_law(data, path):
    """½ ∫ tr Cov(data | x_t) d(r²) = H(w) on every path, whatever the data (I-MMSE)."""
    measured = floracle.stages(floracle.Oracle(data, path=path), pairs=1024)
    for group in measured.groups:
        assert abs(group.area.value - group.max_information) <= 4 * group.area.error
        assert group.area.error <= 0.02 * group.max_information
    assert_close(measured.group(-1).max_information, math.log(POINTS))


@pytest.mark.slow
def test_a_gaussian_carries_the_most_information(oracle):
    """I(t) ≤ ½ Σ log(1 + r²λ) at every t."""
    for group in floracle.stages(oracle).groups:
        information = group.curves["information"]
        slack = 4 * information.error + 1e-9
        assert (information.mean <= group.predicted_information + slack).all()


# Sampling --------------------------------------------------------------------------------------


def test_pure_oracle_sampling_ends_on_training_samples(oracle, data):
    """Followed to the data, the oracle retrieves a training sample, for every seed (Fig 5)."""
    noise = floracle.noise(range(64), (DIMS,))
    x = floracle.sample(oracle, noise, floracle.time_grid(50))
    found = floracle.nearest(data, x)
    assert found.distances.max() <= 1e-4


@pytest.mark.slow
def test_sampling_lands_on_samples_as_often_as_they_weigh(points_source):
    """The endpoint's index is distributed as w: an exact null, up to the steps' error."""
    points = torch.randn(8, 32, generator=torch.Generator().manual_seed(3))
    data = points_source(points)
    x = floracle.sample(
        floracle.Oracle(data), floracle.noise(range(2000), (32,)), floracle.time_grid(100)
    )
    counts = floracle.nearest(data, x).rows.flatten().bincount(minlength=8).double()
    assert ((counts - 250).square() / 250).sum() <= 24.3  # 99.9 % of χ² with 7 degrees of freedom


@pytest.mark.parametrize(
    ("solver", "order"), [("euler", 1), ("midpoint", 2), ("heun", 2), ("rk4", 4)]
)
def test_orders_of_convergence(solver, order):
    """On x' = cos(3t) x the error falls as steps^−order."""

    def field(x, t, labels=None):
        return torch.cos(3 * t)[:, None] * x

    exact = math.exp(math.sin(3 * 0.9) / 3)
    start = torch.ones(1, 1, dtype=torch.float64)
    ends = [
        floracle.sample(field, start, floracle.time_grid(steps, stop=0.9), solver=solver)
        for steps in (64, 128, 256)
    ]
    errors = [abs(float(end) - exact) for end in ends]
    slopes = [math.log2(a / b) for a, b in itertools.pairwise(errors)]
    assert all(abs(slope - order) <= 0.25 for slope in slopes), slopes


# Conversions -----------------------------------------------------------------------------------


@pytest.mark.parametrize("path", PATHS.values(), ids=list(PATHS))
@pytest.mark.parametrize("source", QUANTITIES)
@pytest.mark.parametrize("target", QUANTITIES)
def test_every_prediction_implies_every_other(path: ProbabilityPath, source, target):
    """Data, noise, velocity and score are one 2×2 system."""
    drawn = torch.Generator().manual_seed(11)
    data, noise = torch.randn(2, 6, 5, generator=drawn, dtype=torch.float64)
    t = torch.linspace(0.05, 0.95, 6, dtype=torch.float64)
    x = path.sample(data, noise, t)
    known = {
        "data": data,
        "noise": noise,
        "velocity": path.velocity(data, noise, t),
        "score": -noise / path.coefficients(t).sigma[:, None],
    }
    found = convert(known[source], x, t, source=source, target=target, path=path)
    assert_close(found, known[target], rtol=1e-9, atol=1e-9)
