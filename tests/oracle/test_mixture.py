"""Classes as a mixture, sample weights, temperature and densities."""

from __future__ import annotations

import math

import pytest
import torch
from torch.testing import assert_close

import floracle
from floracle.oracle.mixture import mixture
from floracle.oracle.reference import reference


@pytest.fixture
def digits():
    return floracle.Oracle(floracle.open_store("digits"))


def noisy(oracle, count=24, last=0.95):
    t = torch.linspace(0, last, count).double()
    rows = torch.randint(len(oracle.data), (count,))
    data, noise = oracle.data.take(rows).double(), torch.randn(count, *oracle.data.shape).double()
    a = t.reshape(-1, 1, 1, 1)
    return a * data + (1 - a) * noise, t, rows


def test_the_data_s_own_priors_give_the_whole_set_s_oracle(digits):
    x, t, _ = noisy(digits)
    mixed, whole = mixture(digits)(x, t), digits(x, t)
    error = (mixed - whole).flatten(1).norm(dim=1) / whole.flatten(1).norm(dim=1)
    assert error.max() < 1e-5


def test_priors_are_weights_of_samples(points_source):
    """Priors π_c are the same as weights π_c / N_c on every sample."""
    points, labels = torch.randn(90, 6), torch.arange(90) % 3
    priors = torch.tensor([0.7, 0.05, 0.25]).double()
    x, t = torch.randn(16, 6).double(), torch.linspace(0, 0.9, 16).double()
    found = mixture(floracle.Oracle(points_source(points, labels)), priors)(x, t)
    weights = priors[labels] / 30
    assert_close(found, reference(points, x, t, weights=weights).velocity, rtol=1e-5, atol=1e-7)


def test_class_posteriors_find_the_class(digits):
    x, t, rows = noisy(digits)
    found = mixture(digits).class_posterior(x, t)
    labels = digits.data.labels[rows]
    assert_close(found.sum(1), torch.ones(24).double())
    counts = torch.bincount(digits.data.labels).double()
    assert_close(
        found[0], counts / counts.sum(), rtol=1e-6, atol=1e-9
    )  # nothing is known at t = 0
    late = t > 0.7
    assert (found[late].gather(1, labels[late, None]) > 0.999).all()


def test_a_prior_of_one_is_the_class(digits):
    x, t, _ = noisy(digits)
    priors = torch.zeros(10)
    priors[4] = 1
    only = digits(x, t, torch.full((24,), 4))
    assert_close(mixture(digits, priors)(x, t), only)
    labels = torch.full((24,), 7)
    assert_close(mixture(digits, priors)(x, t, labels), digits(x, t, labels))


def test_bad_priors_are_refused(digits, points_source):
    for priors in ([1.0] * 9, [0.0] * 10, [math.nan] * 10, [-1.0] + [1.0] * 9):
        with pytest.raises(floracle.InputError, match="priors"):
            mixture(digits, priors)
    with pytest.raises(floracle.InputError, match="label"):
        mixture(floracle.Oracle(points_source(torch.randn(4, 2))))


@pytest.mark.parametrize("temperature", [0.25, 0.9, 2.0, 50.0])
def test_temperature_takes_powers_of_the_weights(points_source, temperature):
    points, weights = torch.randn(300, 80) * 0.4, torch.rand(300).double() + 0.1
    oracle = floracle.Oracle(points_source(points, weights=weights), temperature=temperature)
    x, t = torch.randn(20, 80).double(), torch.linspace(0, 0.97, 20).double()
    plain = reference(points, x, t, weights=weights / weights.sum())
    gamma = (plain.posterior.log() / temperature).softmax(1)
    mean = gamma @ points.double()
    velocity = (mean - x) / (1 - t[:, None])
    found = oracle(x, t)
    sure = plain.posterior.min(1).values > 0  # else the logarithm above is lost
    assert sure.sum() >= 5
    error = (found - velocity).norm(dim=1) / velocity.norm(dim=1)
    assert error[sure].max() < 1e-5
    top = oracle.posterior(x, t).top_weights[:, 0]
    assert_close(top[sure], gamma.max(1).values[sure], rtol=1e-4, atol=1e-7)


def test_no_pairs_and_densities_at_another_temperature(points_source):
    oracle = floracle.Oracle(points_source(torch.randn(9, 3)), temperature=2.0)
    with pytest.raises(floracle.InputError, match="temperature 1"):
        oracle.log_density(torch.zeros(1, 3), torch.zeros(1))
    with pytest.raises(floracle.InputError, match="temperature 1"):
        oracle.pairs(torch.tensor([0]), torch.zeros(1, 3), torch.tensor([0.5]))
    for bad in (0.0, -1.0, math.inf, math.nan):
        with pytest.raises(floracle.InputError, match="temperature"):
            floracle.Oracle(points_source(torch.randn(9, 3)), temperature=bad)


def test_densities_integrate_to_one(points_source):
    """∫ p_t(x) dx = 1 in one dimension, at any t, weights unequal."""
    points, weights = torch.randn(7, 1), torch.rand(7).double()
    oracle = floracle.Oracle(points_source(points, weights=weights))
    x = torch.linspace(-12, 12, 20001).double()[:, None]
    for t in (0.0, 0.3, 0.8, 0.98):
        density = oracle.log_density(x, torch.full((len(x),), t)).exp()
        assert abs(torch.trapezoid(density, x[:, 0]) - 1) < 1e-5


def test_the_density_is_that_of_the_field(points_source):
    """The score of log p_t is (t u* − x) / (1 − t): finite differences of the density."""
    points = torch.randn(30, 5)
    oracle = floracle.Oracle(points_source(points))
    x, t = torch.randn(6, 5).double(), torch.linspace(0.1, 0.9, 6).double()
    score = (t[:, None] * oracle(x, t) - x) / (1 - t[:, None])
    for axis in range(5):
        step = torch.zeros(5).double()
        step[axis] = 1e-4
        rise = oracle.log_density(x + step, t) - oracle.log_density(x - step, t)
        assert_close(rise / 2e-4, score[:, axis], rtol=1e-4, atol=1e-4)


def test_the_class_is_known_before_the_sample(digits):
    """E H(class | x_t) against a count by hand of the posterior's weights, and its landmark."""
    stages = floracle.stages(digits, classes=[-1], pairs=64)
    whole = stages.group(-1)
    assert whole.speciation.value < whole.centre.value
    counts = torch.bincount(digits.data.labels).double()
    known = torch.special.entr(counts / counts.sum()).sum()
    assert abs(whole.max_class_information - known) < 1e-12
    assert (whole.curves["class_information"].mean.diff() > -1e-6).all()

    rows, noise = torch.arange(0, 60), torch.randn(60, 1, 8, 8)
    times = torch.tensor([0.2, 0.4], dtype=torch.float64)
    found = digits.pairs(rows, noise, times)
    for i, t in enumerate(times):
        x = t * digits.data.take(rows).double() + (1 - t) * noise.double()
        atoms = digits.data.atoms()
        points = digits.data.take(atoms.rows).flatten(1)
        gamma = reference(points, x.flatten(1), t.expand(60), weights=atoms.weights).posterior
        shares = torch.zeros(60, 10).double().index_add_(1, digits.data.labels[atoms.rows], gamma)
        entropy = torch.special.entr(shares).sum(1)
        assert_close(found.class_entropy[:, i], entropy, rtol=1e-4, atol=1e-5)


def test_many_classes_are_summed_alike(points_source, monkeypatch):
    points, labels = torch.randn(400, 12), torch.arange(400) % 80
    oracle = floracle.Oracle(points_source(points, labels))
    times = torch.tensor([0.1, 0.5, 0.8])
    asked = torch.arange(20), torch.randn(20, 12), times
    sparse = oracle.pairs(*asked).class_entropy
    monkeypatch.setattr("floracle.oracle.pairs.pair_posteriors.MAX_CLASSES_BY_PRODUCT", 1000)
    assert_close(sparse, oracle.pairs(*asked).class_entropy, rtol=1e-5, atol=1e-6)
