import numpy as np
import pytest
import torch
from torch.testing import assert_close

from floracle.core.spectrum import Moments, moments, spectrum

SIZES = [(12, 40), (40, 12), (20, 20), (1, 5)]


def covariance(points, weights):
    points = points.flatten(1).double().numpy()
    return np.cov(points.T, aweights=weights.numpy(), bias=True).reshape(points.shape[1], -1)


@pytest.mark.parametrize(("count", "dims"), SIZES, ids=str)
@pytest.mark.parametrize("offset", [0.0, 1e4])
def test_the_spectrum_is_that_of_numpy(points_source, count, dims, offset):
    points = torch.randn(count, dims) * torch.linspace(0.1, 3, dims) + offset
    weights = torch.rand(count, dtype=torch.float64) + 0.1
    expected = np.linalg.eigvalsh(covariance(points, weights))[::-1][: min(count, dims)]
    found = spectrum(points_source(points, weights=weights), rows=7)
    assert found.shape == (min(count, dims),)
    np.testing.assert_allclose(found.numpy(), expected, rtol=0, atol=2e-6 * max(expected[0], 1e-9))
    assert (found >= 0).all()


@pytest.mark.parametrize(("count", "dims"), SIZES, ids=str)
def test_the_spectrum_sums_to_the_variance(points_source, count, dims):
    source = points_source(torch.randn(count, dims))
    assert_close(spectrum(source).sum(), moments(source).variance.sum(), rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("offset", [0.0, 1e6])
def test_moments_are_those_of_numpy(points_source, offset):
    points = torch.randn(50, 3, 2) + offset
    weights = torch.rand(50, dtype=torch.float64) + 0.1
    found = moments(points_source(points, weights=weights), rows=9)
    flat = points.flatten(1).double()
    mean = np.average(flat, axis=0, weights=weights)
    np.testing.assert_allclose(found.mean, mean, rtol=1e-14, atol=1e-14)
    np.testing.assert_allclose(found.variance, np.diag(covariance(points, weights)), rtol=1e-9)


@pytest.mark.parametrize("offset", [0.0, 1e6])
def test_moments_do_not_depend_on_blocks(points_source, offset):
    source = points_source(torch.randn(101, 6) + offset)
    whole = moments(source, rows=101)
    for rows in (1, 7, 100, 5000):
        parts = moments(source, rows=rows)
        assert_close(parts.weight, whole.weight, rtol=1e-13, atol=0)
        assert_close(parts.mean, whole.mean, rtol=1e-13, atol=1e-13)
        assert_close(parts.variance, whole.variance, rtol=1e-10, atol=0)


def test_the_spectrum_does_not_depend_on_blocks(points_source):
    for shape in SIZES:
        source = points_source(torch.randn(shape))
        whole = spectrum(source)
        assert_close(spectrum(source, rows=3), whole, rtol=0, atol=2e-6 * float(whole[0]) + 1e-12)


def test_nothing_merged_with_nothing_is_nothing():
    empty = Moments.empty(3)
    merged = empty.merge(empty)
    assert merged.weight == 0
    assert torch.equal(merged.mean, torch.zeros(3, dtype=torch.float64))


def test_empty_is_neutral_on_both_sides(points_source):
    some = moments(points_source(torch.randn(5, 3)))
    for merged in (some.merge(Moments.empty(3)), Moments.empty(3).merge(some)):
        assert_close(merged.mean, some.mean, rtol=0, atol=0)
        assert_close(merged.variance, some.variance, rtol=0, atol=0)


def test_within_a_class(points_source):
    points, labels = torch.randn(30, 4), torch.arange(30) % 2
    source = points_source(points, labels)
    alone = points_source(points[labels == 1])
    assert_close(moments(source, 1).variance, moments(alone).variance)
    assert_close(spectrum(source, 1), spectrum(alone))


def test_duplicates_count_as_often_as_they_occur(points_source):
    points = torch.randn(10, 3)
    doubled = torch.cat([points, points[:4]])
    expected = doubled.double().var(0, correction=0)
    assert_close(moments(points_source(doubled)).variance, expected, rtol=1e-10, atol=0)
