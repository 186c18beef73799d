"""What parts two spaces: scale, spectrum and number of points, as factors that multiply."""

from __future__ import annotations

import math

import pytest
import torch

import floracle
from floracle.analysis.compare import DataSpace, compare_spaces


def space(points, dims=None, scale=1.0):
    data = floracle.open_store(scale * torch.randn(points, dims))
    oracle = floracle.Oracle(data)
    stages = floracle.stages(oracle, pairs=32, times=16)
    from floracle.core.spectrum import spectrum

    return DataSpace(f"{points}", stages, spectrum(data), -1)


def test_the_same_space_differs_by_nothing():
    one = space(200, 24)
    assert tuple(compare_spaces(one, one)) == pytest.approx((1, 1, 1))


def test_scale_alone_moves_the_ratio_by_its_inverse():
    torch.manual_seed(1)
    one = space(200, 24)
    torch.manual_seed(1)
    two = space(200, 24, scale=3.0)
    apart = compare_spaces(one, two)
    assert apart.scale == pytest.approx(1 / 3, rel=1e-4)
    assert apart.shape == pytest.approx(1, rel=1e-4)
    assert apart.points == pytest.approx(1, rel=1e-4)
    assert one.unit_collapse() == pytest.approx(two.unit_collapse(), rel=1e-4)


def test_factors_multiply_to_the_predicted_whole():
    one, two = space(100, 12), space(900, 48, scale=0.4)
    apart = compare_spaces(one, two)
    ratios = [t.predicted().collapse / (1 - t.predicted().collapse) for t in (one, two)]
    assert apart.whole == pytest.approx(ratios[1] / ratios[0], rel=1e-6)
    assert apart.points > 1  # more points come later
    assert apart.shape < 1  # more dimensions, earlier
    assert apart.scale > 1  # smaller, later


def test_effective_dimensions_of_an_isotropic_cloud():
    one = space(4000, 10)
    assert 9.9 < one.effective_dims <= 10
    assert one.density == pytest.approx(math.log(4000) / 10)
