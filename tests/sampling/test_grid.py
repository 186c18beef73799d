import math

import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st

from floracle.run.errors import InputError
from floracle.sampling.grid import (
    check_grid,
    share_of_steps,
    shift_times,
    split_grid,
    time_grid,
    unshift_times,
)

steps = st.integers(1, 300)
shifts = st.floats(0.05, 20)
inside = st.floats(0.001, 0.999)


@given(steps, shifts)
def test_steps_means_steps_and_the_ends_are_exact(count, shift):
    grid = time_grid(count, shift=shift)
    assert grid.shape == (count + 1,)
    assert grid.dtype == torch.float64
    assert grid[0] == 0
    assert grid[-1] == 1
    assert (grid.diff() > 0).all()


@given(steps, shifts, inside, inside)
def test_parts_have_exact_ends_too(count, shift, one, other):
    assume(abs(one - other) > 1e-6)
    start, stop = sorted([one, other])
    grid = time_grid(count, shift=shift, start=start, stop=stop)
    assert grid[0].item() == start
    assert grid[-1].item() == stop
    assert len(grid) == count + 1


@given(st.integers(2, 200), shifts, st.data())
def test_resuming_from_a_point_of_a_grid_gives_its_rest(count, shift, data):
    k = data.draw(st.integers(1, count - 1))
    grid = time_grid(count, shift=shift)
    early = time_grid(k, shift=shift, stop=grid[k].item())
    late = time_grid(count - k, shift=shift, start=grid[k].item())
    torch.testing.assert_close(torch.cat([early, late[1:]]), grid, rtol=0, atol=1e-13)


def test_no_shift_is_uniform():
    torch.testing.assert_close(
        time_grid(7), torch.linspace(0, 1, 8, dtype=torch.float64), rtol=0, atol=1e-15
    )


@given(st.floats(0, 1), shifts)
def test_shift_follows_its_formula_and_is_undone(t, shift):
    moved = shift_times(torch.tensor(t, dtype=torch.float64), shift)
    assert math.isclose(moved.item(), shift * t / (1 + (shift - 1) * t), abs_tol=1e-14)
    assert math.isclose(unshift_times(moved, shift).item(), t, abs_tol=1e-13)


@given(st.floats(0, 1), shifts)
def test_shift_is_that_of_noise_levels_turned_over(t, shift):
    level = torch.tensor(1 - t, dtype=torch.float64)
    moved = (1 / shift) * level / (1 + (1 / shift - 1) * level)  # SD3 and Flux, k = 1 / s
    ours = shift_times(torch.tensor(t, dtype=torch.float64), shift)
    assert math.isclose(1 - moved.item(), ours.item(), abs_tol=1e-13)


@pytest.mark.parametrize(
    ("shift", "share"),
    [
        (5, 0.06),
        (4, 0.06),
        (2, 0.12),
        (1, 0.22),
        (0.7, 0.28),
        (0.5, 0.34),
        (0.3, 0.46),
        (0.1, 0.72),
    ],
)
def test_table_2_of_the_paper(shift, share):
    assert share_of_steps(time_grid(50, shift=shift), until=0.2) == pytest.approx(share, abs=1e-12)


@given(steps, shifts, inside)
def test_a_cut_shares_one_point_and_loses_none(count, shift, at):
    grid = time_grid(count, shift=shift)
    assume(grid[0] + 1e-9 < at < grid[-1] - 1e-9)
    early, late = split_grid(grid, at)
    assert early[-1] == late[0]
    assert abs(early[-1].item() - at) <= 1e-12
    joined = torch.cat([early, late[1:]])
    assert torch.isin(grid, joined).all()
    assert len(joined) - len(grid) in (0, 1)
    check_grid(joined)


@given(st.integers(2, 300), shifts, st.data())
def test_a_cut_at_a_point_snaps_to_it(count, shift, data):
    grid = time_grid(count, shift=shift)
    k = data.draw(st.integers(1, count - 1))
    off = data.draw(st.floats(-0.9e-12, 0.9e-12))
    early, late = split_grid(grid, grid[k].item() + off)
    assert torch.equal(early, grid[: k + 1])
    assert torch.equal(late, grid[k:])


def test_a_new_point_is_exact():
    early, late = split_grid(time_grid(10), 0.123)
    assert early[-1].item() == late[0].item() == 0.123
    assert (len(early), len(late)) == (3, 10)


def test_pieces_do_not_share_memory_with_the_grid():
    grid = time_grid(4)
    early, late = split_grid(grid, 0.5)
    early.zero_()
    late.zero_()
    assert torch.equal(grid, time_grid(4))


@pytest.mark.parametrize("at", [0.0, 1.0, -0.1, 1.1, 5e-13, 1 - 5e-13, math.nan])
def test_a_cut_needs_both_pieces(at):
    with pytest.raises(ValueError, match=r"cut inside \(0, 1\)"):
        split_grid(time_grid(10), at)


@pytest.mark.parametrize("shift", [0.0, -1.0, math.inf, math.nan])
def test_shift_is_positive(shift):
    with pytest.raises(InputError, match="shift must be positive"):
        time_grid(10, shift=shift)


@pytest.mark.parametrize(
    "wrong", [{"steps": 0}, {"start": 0.5, "stop": 0.5}, {"start": -0.1}, {"stop": 1.1}]
)
def test_grids_have_steps_and_stay_in_range(wrong):
    with pytest.raises(InputError, match="a grid"):
        time_grid(**{"steps": 10} | wrong)


@pytest.mark.parametrize(
    ("grid", "says"),
    [
        ([0.0, 0.5, 0.4, 1.0], "0.4 follows 0.5"),
        ([0.0, 0.5, 0.5, 1.0], "must increase"),
        ([1.0, 0.5, 0.0], "t = 0 is noise"),
        ([0.0, 1.5], "point 1 is 1.5"),
        ([-0.5, 1.0], "point 0 is -0.5"),
        ([0.0, math.nan, 1.0], "point 1 is nan"),
        ([0.0, math.inf], "point 1 is inf"),
        ([0.5], "at least one step"),
        ([[0.0, 1.0]], r"got \[1, 2\]"),
    ],
)
def test_a_grid_of_the_users_own_is_checked(grid, says):
    with pytest.raises(InputError, match=says):
        check_grid(torch.tensor(grid))
