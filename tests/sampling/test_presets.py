import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from floracle.run.errors import InputError
from floracle.sampling.grid import time_grid
from floracle.sampling.presets import GRID_RECIPES, preset_grid
from floracle.sampling.sample import sample

steps = st.integers(2, 300)
names = st.sampled_from(list(GRID_RECIPES))


def by_hand(name, count, shift):
    """A project's readings in plain Python, as its code writes them down."""

    def moved(value):
        return shift * value / (1 + (shift - 1) * value)

    def even(first, last, points):
        return [first + (last - first) * i / (points - 1) for i in range(points)]

    match name:
        case "sit" | "lightningdit":
            return [moved(value) for value in even(0, 1, count)]
        case "repa":
            return even(1, 0, count + 1)
        case "repa-sde":
            return [*even(1, 0.04, count), 0]
        case "rae":
            return [moved(1 - value) for value in even(0, 0.999, count)]
        case "flux":
            return [*(moved(value) for value in even(1, 1 / count, count)), 0]
        case "sd3":
            return [*(moved(value) for value in even(1, moved(0.001), count)), 0]


@given(names, steps, st.floats(1, 12))
def test_readings_are_those_of_the_project(name, count, shift):
    shift = 1.0 if GRID_RECIPES[name].shift is None else shift
    preset = preset_grid(name, count, project_shift=shift)
    expected = torch.tensor(by_hand(name, count, shift), dtype=torch.float64)
    torch.testing.assert_close(preset.clock_times, expected, rtol=0, atol=1e-14)


@given(names, steps)
def test_grids_increase_and_agree_with_the_projects_clock(name, count):
    preset = preset_grid(name, count)
    assert preset.grid.dtype == torch.float64
    assert len(preset.grid) == len(preset.clock_times) == preset.steps + 1
    assert (preset.grid.diff() > 0).all()
    assert preset.grid[0] == 0
    torch.testing.assert_close(
        preset.clock.from_t(preset.grid), preset.clock_times, rtol=0, atol=1e-15
    )
    assert (preset.grid[-1] == 1) == (name != "rae")


def test_250_steps_are_249_evaluations_in_sit():
    found = preset_grid("sit", 250).evaluations
    assert found == {"euler": 249, "heun": 498, "midpoint": 498, "rk4": 996}


@given(steps)
def test_evaluations_are_counted_as_the_projects_count(count):
    assert preset_grid("repa", count).evaluations == {"euler": count, "heun": 2 * count - 1}
    assert preset_grid("rae", count).evaluations["euler"] == count - 1
    for name in ("flux", "sd3", "repa-sde"):
        assert preset_grid(name, count).evaluations == {"euler": count}


@pytest.mark.slow
@given(steps)
def test_a_euler_step_of_a_preset_is_one_evaluation(count):
    for name in GRID_RECIPES:
        preset = preset_grid(name, count)
        calls = []
        sample(
            lambda x, t, labels, calls=calls: calls.append(t) or x, torch.ones(1, 1), preset.grid
        )
        assert len(calls) == preset.evaluations["euler"]


def test_samples_follow_a_preset_to_where_it_stops():
    point, x = torch.full((3, 2), 2.0), torch.zeros(3, 2)

    def straight(x, t, labels):
        return point.to(x.dtype)  # from 0 at t = 0 to the point at t = 1

    assert torch.allclose(sample(straight, x, preset_grid("repa", 7).grid), point)
    short = sample(straight, x, preset_grid("rae", 7).grid)
    assert torch.allclose(short, (1 - 0.0068874) * point, atol=1e-6)


@given(steps)
def test_lightningdit_is_our_grid_of_one_step_less(count):
    preset = preset_grid("lightningdit", count, project_shift=0.3)
    expected = time_grid(count - 1, shift=0.3)
    torch.testing.assert_close(preset.grid, expected, rtol=0, atol=1e-14)


@given(steps, st.floats(0.2, 5))
def test_flux_is_our_grid_with_the_shift_turned_over(count, k):
    preset = preset_grid("flux", count, project_shift=k)
    expected = time_grid(count, shift=1 / k)
    torch.testing.assert_close(preset.grid, expected, rtol=0, atol=1e-14)


def test_zero_turns_the_shift_of_lightningdit_off():
    off, uniform = preset_grid("lightningdit", 50, project_shift=0), preset_grid("sit", 50)
    assert torch.equal(off.grid, uniform.grid)
    assert off.shift.s == 1


def test_sd3_shifts_its_last_sigma_twice():
    readings = preset_grid("sd3", 50, project_shift=3).clock_times
    assert readings[-1] == 0
    assert readings[-2].item() == pytest.approx(0.00893, abs=5e-6)
    once = 3 * 0.001 / (1 + 2 * 0.001)
    assert once == pytest.approx(0.00299, abs=5e-6)
    assert readings[-2].item() == pytest.approx(3 * once / (1 + 2 * once), rel=1e-12)


def test_without_a_shift_sd3_is_evenly_spaced_to_a_thousandth():
    readings = preset_grid("sd3", 11, project_shift=1).clock_times
    assert readings[-2].item() == pytest.approx(0.001)
    assert readings[:-1].diff().std().item() == pytest.approx(0, abs=1e-15)


def test_published_shifts():
    assert preset_grid("lightningdit", 50).shift.s == 0.3
    assert preset_grid("rae", 50).shift.k == pytest.approx(6.93, abs=5e-3)
    assert preset_grid("flux", 50).shift.mu == pytest.approx(1.15)
    assert preset_grid("sd3", 50).shift.k == pytest.approx(3)
    assert preset_grid("rae", 50).clock_times[-1].item() == pytest.approx(0.006887, abs=5e-7)


@pytest.mark.parametrize(
    ("name", "count", "shift", "words"),
    [
        ("sot", 50, None, "did you mean 'sit'"),
        ("sit", 1, None, "at least 2 steps"),
        ("repa", 0, None, "at least 1 steps"),
        ("repa", 50, 0.5, "repa has no shift"),
        ("rae", 50, 0.5, "below 1"),
        ("flux", 50, 0.0, "positive"),
        ("sd3", 50, math.nan, "positive"),
        ("lightningdit", 50, -1.0, "positive"),
    ],
)
def test_mistakes_are_named(name, count, shift, words):
    with pytest.raises(InputError, match=words):
        preset_grid(name, count, project_shift=shift)
