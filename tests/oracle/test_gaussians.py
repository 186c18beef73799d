"""The oracle of Gaussian samples against a dense reference, its limits and its information law."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

import floracle
from clouds import Clouds
from floracle.core.paths import COSINE, LINEAR, TRIGONOMETRIC
from floracle.oracle.gaussian_data import GaussianOracle


@pytest.fixture
def clouds(points_source):
    def made(means: Tensor, stds: Tensor, labels=None, weights=None) -> Clouds:
        return Clouds(points_source(means, labels, weights), stds)

    return made


def dense(means, stds, weights, x, t, path=LINEAR):
    """Velocity, posterior, log density and mean in float64, written out term by term."""
    c = path.coefficients(t)
    velocities, posteriors, densities = [], [], []
    for i in range(len(x)):
        a, s = c.alpha[i], c.sigma[i]
        variance = s**2 + (a * stds.double()) ** 2
        apart = x[i].double() - a * means.double()
        log = -(apart.square() / variance + (2 * math.pi * variance).log()).sum(1) / 2
        log = log + weights.log()
        gamma = log.softmax(0)
        guess = means.double() + a * stds.double() ** 2 / variance * apart
        mean = gamma @ guess
        posteriors.append(gamma)
        densities.append(log.logsumexp(0))
        velocities.append(c.d_alpha[i] * mean + c.d_sigma[i] / s * (x[i].double() - a * mean))
    return torch.stack(velocities), torch.stack(posteriors), torch.stack(densities)


@pytest.mark.slow
@pytest.mark.parametrize("path", [LINEAR, TRIGONOMETRIC, COSINE], ids=lambda p: p.name)
@pytest.mark.parametrize("scale", [0.0, 1e-3, 0.3, 3.0])
def test_equals_the_dense_reference(clouds, path, scale):
    means, stds = torch.randn(40, 6), scale * torch.rand(40, 6)
    weights = torch.rand(40).double() + 0.1
    source = clouds(means, stds, weights=weights)
    oracle = GaussianOracle(source, path=path)
    x, t = torch.randn(24, 6).double(), torch.linspace(0, 0.999, 24).double()
    velocity, gamma, density = dense(means, stds, weights / weights.sum(), x, t, path)
    found = oracle.posterior(x, t, top=40)
    error = (oracle(x, t) - velocity).norm(dim=1) / velocity.norm(dim=1)
    assert error.max() < 1e-8
    assert_close(oracle.log_density(x, t), density, rtol=1e-9, atol=1e-7)
    assert_close(found.top_weights.sum(1), torch.ones(24).double())
    own = torch.zeros(24, 40).double().scatter_(1, found.top_rows, found.top_weights)
    assert_close(own, gamma, rtol=1e-6, atol=1e-9)


def test_narrow_gaussians_are_points(clouds, points_source):
    points = torch.randn(200, 32)
    narrow = GaussianOracle(clouds(points, torch.full_like(points, 1e-7)))
    plain = floracle.Oracle(points_source(points))
    x, t = torch.randn(16, 32), torch.linspace(0, 0.9, 16)
    assert_close(narrow(x, t), plain(x, t), rtol=1e-5, atol=1e-5)


def test_one_gaussian_has_a_linear_field(clouds):
    """x̂ = μ + α s² / (σ² + α² s²) (x − α μ), whatever the point."""
    mean, std = torch.randn(1, 5), torch.rand(1, 5)
    oracle = GaussianOracle(clouds(mean, std))
    x, t = torch.randn(9, 5).double(), torch.linspace(0, 0.99, 9).double()
    a = t[:, None]
    guess = mean + a * std**2 / ((1 - a) ** 2 + a**2 * std**2) * (x - a * mean)
    assert_close(oracle(x, t), (guess - x) / (1 - a))


@pytest.mark.slow
def test_sampling_reproduces_the_gaussians(clouds):
    """The flow carries noise to the mixture itself: mean and deviation of each component."""
    means = torch.tensor([[-4.0, 0.0], [4.0, 1.0]])
    stds = torch.tensor([[0.5, 0.2], [0.1, 1.0]])
    oracle = GaussianOracle(clouds(means, stds))
    grid = floracle.time_grid(200, stop=0.999)
    found = floracle.sample(oracle, torch.randn(4000, 2).double(), grid, solver="heun")
    for component, side in enumerate((found[:, 0] < 0, found[:, 0] > 0)):
        assert abs(side.double().mean() - 0.5) < 0.04
        assert_close(found[side].mean(0).float(), means[component], atol=0.06, rtol=0)
        assert_close(found[side].std(0).float(), stds[component], atol=0.05, rtol=0.05)


def test_blocks_and_classes_do_not_matter(clouds, monkeypatch):
    means, stds = torch.randn(60, 8), torch.rand(60, 8)
    source = clouds(means, stds, labels=torch.arange(60) % 3)
    x, t = torch.randn(12, 8), torch.linspace(0, 0.9, 12)
    labels = torch.arange(12) % 4 - 1
    oracle = GaussianOracle(source)
    whole = oracle(x, t, labels)
    monkeypatch.setattr("floracle.oracle.gaussian_data.PASS_BYTES", 7 * 8)
    assert_close(oracle(x, t, labels), whole)
    for label in range(3):
        these = labels == label
        only = GaussianOracle(clouds(means[label::3], stds[label::3]))
        assert_close(only(x[these], t[these]), whole[these])


@pytest.mark.slow
@pytest.mark.parametrize("scale", [0.05, 0.4])
def test_the_information_law_holds_between_the_gaussians(clouds, scale):
    """½ ∫ E‖m_own − x̂‖² d(r²) is what is learnt about the index, log N less what stays unknown."""
    means = torch.randn(100, 24)
    oracle = GaussianOracle(clouds(means, scale * (0.5 + torch.rand(100, 24))))
    stages = floracle.stages(oracle, pairs=256, times=60)
    main = stages.main
    assert main.law_holds
    assert abs(main.law_deviation) < 3.5
    assert main.area.error < 0.04 * math.log(100)


def test_overlapping_gaussians_never_settle(clouds):
    """Atoms wider than their distance cannot be told apart even at the data itself."""
    means = 0.1 * torch.randn(50, 4)
    stages = floracle.stages(GaussianOracle(clouds(means, torch.ones(50, 4))), pairs=64)
    assert stages.main.end.value is None
    assert stages.main.remaining_information > 2
    assert stages.main.law_holds


def test_the_gap_is_the_loss_of_the_field(clouds):
    """E‖u* − (data − noise)‖² measured directly equals the curve of the stages."""
    means, stds = torch.randn(80, 12), 0.3 * torch.rand(80, 12)
    source = clouds(means, stds)
    oracle = GaussianOracle(source)
    stages = floracle.stages(oracle, pairs=512, times=24)
    pick = int((stages.times < 0.5).sum()) - 1
    t = stages.times[pick].expand(6000)
    rows = torch.randint(80, (6000,))
    data = (means[rows] + stds[rows] * torch.randn(6000, 12)).double()
    noise = torch.randn(6000, 12).double()
    a = t[:, None]
    loss = (oracle(a * data + (1 - a) * noise, t) - (data - noise)).square().sum(1)
    curve = stages.main.curves["gap"]
    error = math.hypot(float(curve.error[pick]), float(loss.std() / 6000**0.5))
    assert abs(float(loss.mean() - curve.mean[pick])) < 4 * error


def test_bad_queries_are_refused(clouds):
    oracle = GaussianOracle(clouds(torch.randn(5, 3), torch.rand(5, 3)))
    with pytest.raises(ValueError, match="0 / 0"):
        oracle(torch.randn(1, 3), torch.ones(1))
    with pytest.raises(ValueError, match="shape"):
        oracle(torch.randn(1, 4), torch.zeros(1))
    with pytest.raises(ValueError, match="NaN"):
        oracle(torch.full((1, 3), torch.nan), torch.zeros(1))
    with pytest.raises(floracle.InputError, match="no class 7"):
        oracle(torch.randn(1, 3), torch.zeros(1), torch.tensor([7]))
