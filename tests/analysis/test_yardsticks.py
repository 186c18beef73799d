"""Yardstick fields against dense float64 formulas, and against the oracle."""

from __future__ import annotations

import itertools

import pytest
import torch
from sklearn.datasets import load_digits
from torch.testing import assert_close

import floracle.oracle.baselines.patch_local as local
from floracle.analysis.loss.baselines import baseline_distances
from floracle.core.paths import LINEAR, PATHS, TRIGONOMETRIC
from floracle.oracle.baselines.gaussian import class_gaussians, fit_gaussian, gaussian_field
from floracle.oracle.baselines.patch_local import local_oracle
from floracle.oracle.oracle import Oracle
from floracle.oracle.reference import reference
from floracle.run.errors import InputError

TIMES = torch.tensor([0.0, 0.1, 0.4, 0.7, 0.95, 0.99], dtype=torch.float64)


def normal(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def moments_of(points, weights):
    weights = weights / weights.sum()
    mean = weights @ points
    apart = points - mean
    return mean, apart.T @ (weights[:, None] * apart)


def dense_mean(points, weights, x, t, path):
    """The formula m + αC (α²C + σ²)⁻¹ (x − αm), with D × D matrices."""
    mean, covariance = moments_of(points.double(), weights.double())
    rows = []
    for query, time in zip(x.double(), t, strict=True):
        c = path.coefficients(time)
        total = c.alpha**2 * covariance + c.sigma**2 * torch.eye(len(mean), dtype=torch.float64)
        pulled = covariance @ torch.linalg.solve(total, query - c.alpha * mean)
        rows.append(mean + c.alpha * pulled)
    return torch.stack(rows)


def velocity(mean, x, t, path):
    c = path.coefficients(t)
    noise = (x - c.alpha[:, None] * mean) / c.sigma[:, None]
    return c.d_alpha[:, None] * mean + c.d_sigma[:, None] * noise


@pytest.mark.parametrize("path", PATHS.values(), ids=list(PATHS))
@pytest.mark.parametrize(("count", "dims"), [(12, 40), (90, 20), (20, 20)])
def test_gaussian_field_is_the_dense_formula(points_source, path, count, dims):
    points, weights = normal(count, dims) * 2 + 1, torch.rand(count, dtype=torch.float64) + 0.1
    x = normal(len(TIMES), dims, seed=1).double() * 3
    expected = velocity(dense_mean(points, weights, x, TIMES, path), x, TIMES, path)
    found = gaussian_field(points_source(points, weights=weights), path=path)(x, TIMES)
    assert_close(found, expected, rtol=1e-8, atol=1e-8)


def test_many_dimensions_need_only_the_inner_products(points_source):
    """100 points in 12,288 dimensions, against the formula in n × n (Woodbury)."""
    points, t = normal(100, 3, 64, 64), TIMES[1:]
    source = points_source(points)
    field, x = gaussian_field(source), normal(len(t), 3, 64, 64, seed=1).double()
    assert field.gaussian.directions.shape == (12_288, 99)
    flat = points.flatten(1).double()
    apart = (flat - flat.mean(0)) / 10
    gram = apart @ apart.T
    for i, time in enumerate(t):
        y = x[i].flatten() - time * flat.mean(0)
        small = (1 - time) ** 2 * torch.eye(100) + time**2 * gram
        mean = flat.mean(0) + time * apart.T @ torch.linalg.solve(small, apart @ y)
        expected = (mean - x[i].flatten()) / (1 - time)
        assert_close(field(x, t)[i].flatten(), expected, rtol=1e-8, atol=1e-8)


@pytest.mark.slow
def test_a_dense_cloud_is_its_gaussian(points_source):
    """The oracle of ever more points of one Gaussian nears the Gaussian field."""
    spread = torch.tensor([2.0, 0.5])
    x, t = normal(200, 2, seed=5).double(), torch.full((200,), 0.4, dtype=torch.float64)
    apart = []
    for count in (300, 30_000):
        source = points_source(normal(count, 2, seed=count) * spread)
        truth = Oracle(source)(x, t)
        field = gaussian_field(source)(x, t)
        apart.append(float((truth - field).square().mean() / truth.square().mean()))
    assert apart[1] < 1e-3 < apart[0]


@pytest.fixture(scope="module")
def unlike(points_source):
    """Three classes of unlike ranks in 10 dimensions: 4 of 5 points, all of 40, 0 of 1."""
    sizes = (5, 40, 1)
    points = torch.cat([normal(n, 10, seed=n) * 0.8 + 0.3 * n**0.5 for n in sizes])
    labels = torch.cat([torch.full((n,), label) for label, n in enumerate(sizes)])
    return points_source(points, labels)


@pytest.mark.parametrize("path", [LINEAR, TRIGONOMETRIC], ids=lambda path: path.name)
def test_densities_of_unlike_ranks_are_of_one_space(unlike, path):
    x, t = normal(len(TIMES), 10, seed=3).double(), TIMES
    c = path.coefficients(t)
    for label in (0, 1, 2):
        points = unlike.points[unlike.labels == label].double()
        mean, covariance = moments_of(points, torch.ones(len(points), dtype=torch.float64))
        total = c.alpha.square()[:, None, None] * covariance
        total = total + c.sigma.square()[:, None, None] * torch.eye(10)
        dense = torch.distributions.MultivariateNormal(c.alpha[:, None] * mean, total)
        assert_close(
            fit_gaussian(unlike, label).log_density(x, c), dense.log_prob(x), rtol=1e-9, atol=0
        )


def test_the_mixture_of_class_gaussians_is_the_dense_one(unlike):
    field, t = class_gaussians(unlike), TIMES[:4]
    x = torch.cat([normal(4, 10, seed=s).double() for s in range(5)]) + 0.5
    t = t.repeat(5)
    logs, means = [], []
    for label, share in zip((0, 1, 2), (5 / 46, 40 / 46, 1 / 46), strict=True):
        points = unlike.points[unlike.labels == label].double()
        weights = torch.ones(len(points), dtype=torch.float64)
        mean, covariance = moments_of(points, weights)
        total = t.square()[:, None, None] * covariance
        total = total + (1 - t).square()[:, None, None] * torch.eye(10)
        dense = torch.distributions.MultivariateNormal(t[:, None] * mean, total)
        logs.append(dense.log_prob(x) + torch.tensor(share).double().log())
        means.append(dense_mean(points, weights, x, t, LINEAR))
    shares = torch.stack(logs).softmax(0)
    assert ((shares > 0.05) & (shares < 0.95)).any()  # classes do compete somewhere
    assert_close(field.class_posterior(x, t), shares.T, rtol=1e-7, atol=1e-12)
    expected = velocity((shares[..., None] * torch.stack(means)).sum(0), x, t, LINEAR)
    assert_close(field(x, t), expected, rtol=1e-7, atol=1e-7)
    assert_close(field(x, t, torch.full((20,), -1)), field(x, t))


def test_labels_choose_the_class(unlike):
    x, t, labels = normal(3, 10).double(), TIMES[2:5], torch.tensor([1, 2, 0])
    found = class_gaussians(unlike)(x, t, labels)
    for i, label in enumerate(labels.tolist()):
        points = unlike.points[unlike.labels == label]
        mean = dense_mean(points, torch.ones(len(points)), x[i : i + 1], t[i : i + 1], LINEAR)
        assert_close(found[i], velocity(mean, x[i : i + 1], t[i : i + 1], LINEAR)[0])


def test_all_fields_start_at_the_class_mean(points_source):
    points, labels = normal(30, 2, 4, 4), torch.arange(30) % 3
    source = points_source(points, labels)
    x, t = normal(6, 2, 4, 4, seed=9), torch.zeros(6, dtype=torch.float64)
    for label in (0, 2, -1):
        mine = points if label == -1 else points[labels == label]
        expected = (mine.double().mean(0) - x).float()
        asked = torch.full((6,), label)
        for field in (class_gaussians(source), local_oracle(source, patch=3), Oracle(source)):
            assert_close(field(x, t, asked), expected, rtol=1e-5, atol=1e-5)
    expected = (points.double().mean(0) - x).float()
    assert_close(gaussian_field(source)(x, t), expected, rtol=1e-5, atol=1e-5)


def test_one_point_leaves_nothing_to_know(points_source):
    """Also where it occurs several times: copies are one atom and have no variance."""
    source = points_source(normal(1, 1, 4, 4).repeat(3, 1, 1, 1), torch.zeros(3))
    x, t = normal(6, 1, 4, 4, seed=2).double(), TIMES
    expected = Oracle(source)(x, t)
    fields = (gaussian_field(source), class_gaussians(source), local_oracle(source, patch=1))
    for field in fields:
        assert_close(field(x, t), expected, rtol=1e-9, atol=1e-9)


def naive_local(points, weights, x, t, patch):
    """Kamb & Ganguli's sum, pixel by pixel, in loops."""
    found, reach = torch.empty_like(x), patch // 2
    for b, h, w in itertools.product(range(len(x)), range(x.shape[2]), range(x.shape[3])):
        rows = slice(max(0, h - reach), h + reach + 1)
        columns = slice(max(0, w - reach), w + reach + 1)
        apart = x[b, :, rows, columns] - t[b] * points[:, :, rows, columns]
        logits = weights.log() - apart.square().flatten(1).sum(1) / (2 * (1 - t[b]) ** 2)
        found[b, :, h, w] = logits.softmax(0) @ points[:, :, h, w]
    return (found - x) / (1 - t.reshape(-1, 1, 1, 1))


@pytest.mark.parametrize("patch", [1, 3, 5])
def test_local_oracle_is_the_sum_over_patches(points_source, monkeypatch, patch):
    points, labels = normal(15, 2, 5, 4), torch.arange(15) % 2
    weights = torch.rand(15, dtype=torch.float64) + 0.1
    source = points_source(points, labels, weights)
    x, t = normal(6, 2, 5, 4, seed=4).double(), TIMES
    shares = weights / weights.sum()
    expected = naive_local(points.double(), shares, x, t, patch)
    assert_close(local_oracle(source, patch=patch)(x, t), expected, rtol=1e-9, atol=1e-9)
    mine = labels == 1
    expected = naive_local(points[mine].double(), shares[mine], x, t, patch)
    monkeypatch.setattr(
        local, "DIFFERENCE_BYTES", 8 * x.numel() * 2
    )  # a few atoms and queries a time
    found = local_oracle(source, patch=patch)(x, t, torch.ones(6, dtype=torch.int64))
    assert_close(found, expected, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("path", PATHS.values(), ids=list(PATHS))
def test_patches_of_the_whole_picture_are_the_oracle(points_source, path):
    source = points_source(normal(40, 3, 6, 4), torch.arange(40) % 4)
    oracle, field = Oracle(source, path=path), local_oracle(source, patch=11, path=path)
    x, t = normal(6, 3, 6, 4, seed=1).double(), TIMES
    for labels in (None, torch.tensor([0, 1, 2, 3, -1, 0])):
        truth = oracle(x, t, labels)
        assert (field(x, t, labels) - truth).norm() <= 1e-6 * truth.norm()


def test_pixels_that_are_independent_need_no_neighbours(points_source):
    """All 2⁶ pictures of ±1: the posterior mean of every pixel is tanh(αx/σ²), any patch alike."""
    points = torch.tensor(list(itertools.product([-1.0, 1.0], repeat=6))).reshape(-1, 1, 2, 3)
    x, t = normal(6, 1, 2, 3).double(), TIMES
    spread = t.reshape(-1, 1, 1, 1)
    expected = (torch.tanh(spread * x / (1 - spread) ** 2) - x) / (1 - spread)
    for patch in (1, 3, 5):
        field = local_oracle(points_source(points), patch=patch)
        assert_close(field(x, t), expected, rtol=1e-9, atol=1e-9)


def test_single_pixels_are_oracles_of_their_own(points_source):
    points, x = normal(20, 1, 4, 4), normal(6, 1, 4, 4, seed=1).double()
    found = local_oracle(points_source(points), patch=1)(x, TIMES).flatten(1)
    for place in range(16):
        alone = reference(points.flatten(1)[:, place, None], x.flatten(1)[:, place, None], TIMES)
        assert_close(found[:, place, None], alone.velocity, rtol=1e-9, atol=1e-9)


def test_velocities_have_the_type_of_the_samples(unlike):
    x, t = normal(6, 10), TIMES
    for field in (gaussian_field(unlike), class_gaussians(unlike)):
        assert field(x, t).dtype == torch.float32
        assert_close(field(x, t), field(x.double(), t).float(), rtol=1e-6, atol=1e-6)


def test_distances_of_known_fields(points_source):
    """The oracle plus a constant c is off by c² exactly, twice the oracle by its own square."""
    oracle = Oracle(points_source(normal(50, 12)))
    fields = {
        "same": oracle,
        "off": lambda x, t, labels: oracle(x, t, labels) + 0.5,
        "twice": lambda x, t, labels: 2 * oracle(x, t, labels),
    }
    found = baseline_distances(oracle, fields, times=TIMES, pairs=32)
    assert found.curves["same"].mean.max() == 0
    assert_close(found.curves["off"].mean, torch.full_like(TIMES, 0.25), rtol=1e-5, atol=0)
    assert found.curves["off"].error.max() < 1e-6
    assert_close(found.curves["twice"].mean, found.oracle_square.mean, rtol=1e-5, atol=0)
    assert_close(found.relative["twice"].mean, torch.ones_like(TIMES), rtol=1e-5, atol=0)
    assert found.relative["twice"].error.max() < 1e-6
    assert found.nearest() == ["same"] * len(TIMES)
    assert found.oracle_square.error.min() > 0
    swapped = baseline_distances(
        oracle, {"oracle": oracle}, times=TIMES, pairs=32, reference=fields["off"]
    )
    assert_close(swapped.curves["oracle"].mean, found.curves["off"].mean, rtol=1e-5, atol=0)


def test_errors_of_distances_cover(points_source):
    """Over 30 seeds the standard error is the spread of the means, also of the ratio."""
    source = points_source(normal(60, 8))
    oracle, fields = Oracle(source), {"one": gaussian_field(source)}
    times = torch.tensor([0.3, 0.6], dtype=torch.float64)
    runs = [
        baseline_distances(oracle, fields, times=times, pairs=64, seed=1000 * seed)
        for seed in range(30)
    ]
    for kind in ("curves", "relative"):
        found = [getattr(run, kind)["one"] for run in runs]
        spread = torch.stack([curve.mean for curve in found]).std(0)
        claimed = torch.stack([curve.error for curve in found]).mean(0)
        assert ((spread / claimed - 1).abs() < 0.45).all(), kind


@pytest.fixture(scope="module")
def digits(points_source):
    images, labels = load_digits(return_X_y=True)
    points = torch.from_numpy(images).float().reshape(-1, 1, 8, 8) / 8 - 1
    return points_source(points, torch.from_numpy(labels))


@pytest.mark.slow
def test_digits_are_gaussian_by_class_in_navigation_and_patches_later(digits):
    """Navigation of the digits' whole set ends about t = .76, its collapse is at .57."""
    fields = {
        "gaussian": gaussian_field(digits),
        "class gaussians": class_gaussians(digits),
        "patches": local_oracle(digits, patch=7),
    }
    times = torch.tensor([0.1, 0.2, 0.3, 0.8, 0.95], dtype=torch.float64)
    found = baseline_distances(Oracle(digits), fields, times=times, pairs=64)
    classes = found.relative["class gaussians"].mean
    assert found.nearest() == ["class gaussians"] * 3 + ["patches"] * 2
    assert (classes[:3] < 0.01).all()  # measured .00003, .0003, .003
    assert (classes[:3] < found.relative["gaussian"].mean[:3] / 3).all()
    assert (classes[:3] < found.relative["patches"].mean[:3] / 3).all()
    assert (classes[3:] > 0.25).all()  # measured .30, .43
    assert (found.relative["patches"].mean[3:] < 0.05).all()  # measured .01, 0


def test_mistakes(points_source, digits):
    flat = points_source(normal(6, 16))
    with pytest.raises(InputError, match="label on every row"):
        class_gaussians(flat)
    with pytest.raises(InputError, match="pictures"):
        local_oracle(flat, patch=3)
    for patch in (0, 4, -3):
        with pytest.raises(InputError, match="odd"):
            local_oracle(digits, patch=patch)
    x, t, absent = torch.zeros(1, 1, 8, 8), TIMES[:1], torch.tensor([11])
    for field in (class_gaussians(digits), local_oracle(digits, patch=3)):
        with pytest.raises(InputError, match="no class 11"):
            field(x, t, absent)
    oracle, field = Oracle(flat), gaussian_field(flat)
    with pytest.raises(ValueError, match="shape"):
        field(torch.zeros(1, 4, 4), t)
    with pytest.raises(ValueError, match="t = 1"):
        field(torch.zeros(1, 16), torch.ones(1))
    for times in ([0.5, 1.0], [0.5, 0.5], [0.5]):
        with pytest.raises(InputError, match="times"):
            baseline_distances(oracle, {"one": field}, times=torch.tensor(times))
    with pytest.raises(InputError, match="no field"):
        baseline_distances(oracle, {}, times=TIMES)
    with pytest.raises(InputError, match="2 pairs"):
        baseline_distances(oracle, {"one": field}, times=TIMES, pairs=1)
    with pytest.raises(InputError, match="no class 3"):
        baseline_distances(oracle, {"one": field}, times=TIMES, label=3)


def test_what_does_not_fit_is_refused(points_source, monkeypatch):
    monkeypatch.setattr("floracle.oracle.baselines.gaussian.memory_budget", lambda: 2**20)
    with pytest.raises(InputError, match="MiB"):
        gaussian_field(points_source(normal(200, 3, 32, 32)))
