"""Averages, crossings and landmarks."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.testing import assert_close

from floracle.analysis.curves import (
    Curve,
    Landmark,
    bootstrap_means,
    find_landmark,
    find_landmarks,
    first_crossings,
    standard_error,
    subtract_control,
)
from floracle.analysis.interpolation import MeasuredTimes

values = st.lists(st.floats(-5, 5), min_size=2, max_size=30)


@given(values, st.floats(-6, 6))
def test_crossing_is_the_first_time_at_or_above_the_level(heights, level):
    curve = torch.tensor([heights], dtype=torch.float64)
    times = torch.linspace(0, 1, len(heights), dtype=torch.float64)
    found = float(first_crossings(times, curve, level)[0])
    if max(heights) < level:
        assert found != found
        return
    first = next(i for i, height in enumerate(heights) if height >= level)
    assert found <= times[first] + 1e-15
    assert found >= times[max(first - 1, 0)] - 1e-15
    if first:  # on the line that is drawn
        assert float(MeasuredTimes(times).values(curve[0], found)) == pytest.approx(
            level, abs=1e-6
        )


@given(values, st.lists(st.floats(-5, 5), min_size=2, max_size=2).map(sorted))
def test_higher_levels_are_crossed_later(heights, levels):
    curve = torch.tensor([heights], dtype=torch.float64)
    times = torch.linspace(0, 1, len(heights), dtype=torch.float64)
    low, high = (first_crossings(times, curve, level).nan_to_num(nan=2.0) for level in levels)
    assert low <= high + 1e-12


def test_crossing_treats_curves_one_by_one():
    times = torch.tensor([0.0, 0.5, 1.0]).double()
    curves = torch.tensor([[0, 1, 2], [2, 2, 2], [0, 0, 0], [0, 0, 1]]).double()
    found = first_crossings(times, curves, 1.0)
    assert found[[0, 1, 3]].tolist() == [0.5, 0.0, 1.0]
    assert found[2].isnan()


def test_a_landmark_that_is_not_reached_says_so():
    times = torch.linspace(0, 1, 5).double()
    flat = torch.zeros(5).double()
    found = find_landmark(times, flat, flat.repeat(10, 1), 0.5)
    assert found == Landmark(None)
    assert str(found) == "not reached"


def test_landmarks_of_several_curves_are_those_of_each():
    """One of them is not reached, one is at once, some resamples are not reached."""
    times, drawn = torch.linspace(0, 1, 9).double(), torch.Generator().manual_seed(3)
    means = torch.stack([times, 2 * times, 0 * times, 1 + times, 0.52 * times])
    again = means[:, None] + 0.1 * torch.randn(5, 50, 1, generator=drawn, dtype=torch.float64)
    levels = torch.tensor([0.5, 0.7, 0.5, 0.5, 0.5], dtype=torch.float64)
    found = find_landmarks(times, means, again, levels)
    assert found[2] == Landmark(None)
    assert found[3].value == 0
    for mark, mean, resamples, level in zip(found, means, again, levels.tolist(), strict=True):
        assert mark == find_landmark(times, mean, resamples, level)
        where = float(first_crossings(times, mean[None], level)[0])
        assert mark.value == where or (mark.value is None and where != where)


def test_curves_of_several_are_those_of_each():
    drawn = torch.Generator().manual_seed(4)
    values = {name: torch.randn(30, 5, generator=drawn).double() for name in "abc"}
    for name, curve in Curve.of_each(values).items():
        assert_close(curve.mean, values[name].mean(0), rtol=1e-14, atol=1e-14)
        assert_close(curve.error, values[name].std(0) / 30**0.5, rtol=1e-13, atol=0)


@pytest.mark.slow
def test_landmark_intervals_cover_the_truth():
    """Noisy pairs around a known line: 95 % intervals hold the crossing in 88 of 100 draws."""
    times, held = torch.linspace(0, 1, 21).double(), 0
    for seed in range(100):
        drawn = torch.Generator().manual_seed(seed)
        shifts = torch.randn(60, 1, generator=drawn, dtype=torch.float64)
        pairs = times + 0.3 * shifts
        found = find_landmark(times, pairs.mean(0), bootstrap_means(pairs, seed), 0.5)
        held += found.low <= 0.5 <= found.high
    assert held >= 88


def test_errors_of_means():
    values = torch.randn(400, 3).double()
    assert_close(standard_error(values), values.std(0) / 20)
    assert standard_error(values[:1]).isinf().all()
    curve = Curve.of(values)
    assert_close(curve.mean, values.mean(0))
    assert_close(bootstrap_means(values, 1).std(0), curve.error, rtol=0.2, atol=0)
    assert_close(bootstrap_means(values, 1), bootstrap_means(values, 1))


def test_a_control_narrows_and_does_not_shift():
    control = torch.randn(20_000, 2).double()
    values = 0.8 * control + 0.1 * torch.randn(20_000, 2).double() + 1
    narrowed = subtract_control(values, control)
    assert (narrowed.std(0) < 0.2).all()
    assert (narrowed.mean(0) - 1).abs().max() < 0.01
    assert_close(subtract_control(values, torch.zeros_like(values)), values)


@pytest.mark.slow
@pytest.mark.parametrize("pairs", [16, 64, 128])
def test_a_control_leaves_the_mean_where_it_was(pairs):
    """Values bend with the control: a slope learnt from the pair itself would be biased."""
    control = torch.randn(pairs, 20_000).double()
    values = control.square() + control  # of mean 1
    means = subtract_control(values, control).mean(0)
    assert abs(means.mean() - 1) <= 4 * means.std() / len(means) ** 0.5


@pytest.mark.parametrize("scale", [1e-18, 1e-9, 1.0])
def test_a_control_that_one_pair_carries_adds_no_more_than_itself(scale):
    """The denominators that cancelled: a slope is at most 1, whatever the other pairs are."""
    for seed in range(20):
        source = torch.Generator().manual_seed(seed)
        values = scale * torch.rand(512, 1, generator=source).double() ** 4
        control = scale * torch.randn(512, 1, generator=source).double()
        values[seed], control[seed] = 1.0, (-1) ** seed * torch.rand(1, generator=source).double()
        found = subtract_control(values, control)
        assert found.std() <= 1.001 * (values.std() + control.std())


def test_a_control_follows_skewed_values_without_leaning():
    control = torch.randn(64, 4000).double()
    values = (control * 1.5).exp()  # its mean depends on how far the control reached
    means = subtract_control(values, control).mean(0)
    assert abs(means.mean() - torch.tensor(1.125).exp()) <= 4 * means.std() / len(means) ** 0.5
