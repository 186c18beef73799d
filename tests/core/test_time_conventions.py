import math

import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st

from floracle.core.time_conventions import (
    FLUX_MU,
    TIME_CONVENTIONS,
    Shift,
    dit_times,
    flux_mu,
    grid_step_convention,
    time_convention,
)

inside = st.floats(1e-6, 1 - 1e-6)
anywhere = [name for name in TIME_CONVENTIONS if name != "dit"]


def vp_alphabars():
    """DDPM's ᾱ by hand, in the numbers of the paper."""
    product, found = 1.0, []
    for i in range(1000):
        product *= 1 - (1e-4 + i * (0.02 - 1e-4) / 999)
        found.append(product)
    return found


def by_signal_and_noise(name, t):
    """Every clock from the ratio of noise to data alone, without the code's formulas."""
    ratio = (1 - t) / t
    return {
        "t": 1 / (1 + ratio),
        "s": ratio / (1 + ratio),
        "sigma": ratio / (1 + ratio),
        "timestep": 1000 * ratio / (1 + ratio),
        "edm": ratio,
        "edm2": ratio / 2,
        "logsnr": -2 * math.log(ratio),
        "alphabar": 1 / (1 + ratio**2),
    }[name]


@given(st.sampled_from(anywhere), inside)
def test_every_clock_follows_from_the_ratio_of_noise_to_data(name, t):
    expected = by_signal_and_noise(name, t)
    assert math.isclose(
        TIME_CONVENTIONS[name].float_from_t(t), expected, rel_tol=1e-9, abs_tol=1e-12
    )


@given(st.sampled_from(anywhere), inside)
def test_every_clock_round_trips(name, t):
    clock = TIME_CONVENTIONS[name]
    # ᾱ near 1 has lost 1 − ᾱ to rounding: its error is eps / (1 − t)
    tolerance = 4e-16 / min(t, 1 - t) if name == "alphabar" else 1e-14
    assert math.isclose(
        clock.float_to_t(clock.float_from_t(t)), t, rel_tol=0, abs_tol=max(tolerance, 1e-14)
    )


@given(st.sampled_from(list(TIME_CONVENTIONS)), inside, inside)
def test_readings_run_between_their_ends_in_one_direction(name, t, s):
    assume(t + 1e-6 < s)
    clock = TIME_CONVENTIONS[name]
    early, late = clock.float_from_t(t), clock.float_from_t(s)
    if name == "dit" and (math.isnan(early) or math.isnan(late)):
        return
    assert (early < late) == clock.towards_data
    low, high = sorted((clock.noise_time, clock.data_time))
    assert low <= min(early, late)
    assert max(early, late) <= high


@pytest.mark.parametrize("name", anywhere)
def test_ends_are_exact(name):
    clock = TIME_CONVENTIONS[name]
    assert clock.float_from_t(0.0) == clock.noise_time
    assert clock.float_from_t(1.0) == clock.data_time
    assert clock.float_to_t(clock.noise_time) == 0
    assert clock.float_to_t(clock.data_time) == 1
    assert math.copysign(1, clock.float_to_t(clock.noise_time)) == 1  # not −0


def test_noise_is_infinite_for_edm_and_log_snr():
    assert TIME_CONVENTIONS["edm"].float_from_t(0.0) == math.inf
    assert TIME_CONVENTIONS["edm2"].float_to_t(math.inf) == 0
    assert TIME_CONVENTIONS["logsnr"].float_from_t(0.0) == -math.inf
    assert TIME_CONVENTIONS["logsnr"].float_from_t(1.0) == math.inf


def test_the_published_guidance_interval():
    edm = TIME_CONVENTIONS["edm"]
    assert edm.float_to_t(1.02) == pytest.approx(0.495, abs=5e-4)
    assert edm.float_to_t(0.34) == pytest.approx(0.746, abs=5e-4)


@given(inside)
def test_edm2_is_edm_of_data_scaled_to_deviation_one(t):
    assert math.isclose(
        2 * TIME_CONVENTIONS["edm2"].float_from_t(t),
        TIME_CONVENTIONS["edm"].float_from_t(t),
        rel_tol=1e-14,
    )


def test_dit_steps_are_those_of_the_linear_schedule():
    alphabars = vp_alphabars()
    times = dit_times().tolist()
    for step in (0, 1, 250, 500, 998, 999):
        root, rest = math.sqrt(alphabars[step]), math.sqrt(1 - alphabars[step])
        assert times[step] == pytest.approx(root / (root + rest), rel=1e-10)
        assert TIME_CONVENTIONS["dit"].float_to_t(step) == pytest.approx(times[step], rel=1e-12)
        assert TIME_CONVENTIONS["dit"].float_from_t(times[step]) == pytest.approx(step, abs=1e-8)
        assert TIME_CONVENTIONS["alphabar"].float_from_t(times[step]) == pytest.approx(
            alphabars[step], rel=1e-9
        )
    assert times[0] == pytest.approx(0.990, abs=5e-4)
    assert times[-1] == pytest.approx(0.00631, abs=5e-6)


@given(st.floats(0, 999))
def test_dit_steps_round_trip(step):
    clock = TIME_CONVENTIONS["dit"]
    assert math.isclose(clock.float_from_t(clock.float_to_t(step)), step, rel_tol=0, abs_tol=1e-8)


@pytest.mark.parametrize("t", [0.0, 0.006, 0.991, 1.0])
def test_beyond_its_schedule_dit_has_no_step(t):
    assert math.isnan(TIME_CONVENTIONS["dit"].float_from_t(t))


@pytest.mark.parametrize(
    ("name", "reading"),
    [("t", 1.1), ("sigma", -0.1), ("timestep", 1000.5), ("edm", -1.0), ("dit", 1000.0)],
)
def test_readings_outside_the_range_are_refused(name, reading):
    with pytest.raises(ValueError, match=f"{name} lies in"):
        TIME_CONVENTIONS[name].float_to_t(reading)


def test_nan_is_no_reading():
    for clock in TIME_CONVENTIONS.values():
        with pytest.raises(ValueError, match="lies in"):
            clock.float_to_t(math.nan)


def test_an_unknown_clock_is_answered_with_the_nearest():
    assert time_convention("edm2") is TIME_CONVENTIONS["edm2"]
    with pytest.raises(ValueError, match="did you mean 'timestep'"):
        time_convention("timesteps")


def test_steps_of_a_grid_count_its_points():
    clock = grid_step_convention(torch.tensor([0.0, 0.125, 0.5, 1.0]))
    assert [clock.float_from_t(t) for t in (0.0, 0.0625, 0.125, 0.3125, 1.0)] == [
        0,
        0.5,
        1,
        1.5,
        3,
    ]
    assert [clock.float_to_t(k) for k in (0, 0.5, 1, 1.5, 3)] == [0.0, 0.0625, 0.125, 0.3125, 1.0]


@given(st.lists(st.floats(0.01, 1), min_size=1, max_size=9), st.floats(0, 1))
def test_steps_of_any_grid_round_trip(gaps, share):
    grid = torch.tensor([0.0, *gaps], dtype=torch.float64).cumsum(0)
    grid = (grid / grid[-1]).clamp(max=1)
    clock = grid_step_convention(grid)
    assert math.isclose(clock.float_to_t(clock.float_from_t(share)), share, abs_tol=1e-12)


def test_beyond_a_grid_there_is_no_step():
    clock = grid_step_convention(torch.tensor([0.0, 0.5, 0.9]))
    assert math.isnan(clock.float_from_t(0.95))


@given(st.floats(0.01, 100))
def test_the_three_notations_of_a_shift(s):
    shift = Shift.of(s=s)
    assert math.isclose(shift.k * s, 1)
    assert math.isclose(math.exp(shift.mu), shift.k)
    assert math.isclose(Shift.of(k=shift.k).s, s)
    assert math.isclose(Shift.of(mu=shift.mu).s, s)


def test_known_shifts():
    assert Shift.of(s=0.3).k == pytest.approx(3.33, abs=5e-3)
    assert Shift.of() == Shift(1.0)
    for wrong in ({"s": 0.0}, {"k": -1.0}, {"mu": 1e9}, {"s": math.nan}, {"s": 1.0, "k": 1.0}):
        with pytest.raises(ValueError):
            Shift.of(**wrong)


def test_mu_is_linear_in_the_tokens():
    assert flux_mu(256) == 0.5
    assert flux_mu(4096) == pytest.approx(FLUX_MU)
    assert flux_mu(4096, highest=1.16) == pytest.approx(1.16)
    assert flux_mu((256 + 4096) // 2) == pytest.approx((0.5 + 1.15) / 2)
    with pytest.raises(ValueError, match="at least one"):
        flux_mu(0)
