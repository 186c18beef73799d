import math

import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st

from floracle.core.time_conventions import (
    FLUX_MU,
    SD3_MU,
    TIMES,
    Shift,
    dit_times,
    foreign_times,
    mu_for,
    step_time,
)

inside = st.floats(1e-6, 1 - 1e-6)
anywhere = [name for name in TIMES if name != "dit"]


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
    assert math.isclose(TIMES[name].reads(t), expected, rel_tol=1e-9, abs_tol=1e-12)


@given(st.sampled_from(anywhere), inside)
def test_every_clock_round_trips(name, t):
    clock = TIMES[name]
    # ᾱ near 1 has lost 1 − ᾱ to rounding: its error is eps / (1 − t)
    tolerance = 4e-16 / min(t, 1 - t) if name == "alphabar" else 1e-14
    assert math.isclose(clock.at(clock.reads(t)), t, rel_tol=0, abs_tol=max(tolerance, 1e-14))


@given(st.sampled_from(list(TIMES)), inside, inside)
def test_readings_run_between_their_ends_in_one_direction(name, t, s):
    assume(t + 1e-6 < s)
    clock = TIMES[name]
    early, late = clock.reads(t), clock.reads(s)
    if name == "dit" and (math.isnan(early) or math.isnan(late)):
        return
    assert (early < late) == clock.forward
    low, high = sorted((clock.noise, clock.data))
    assert low <= min(early, late)
    assert max(early, late) <= high


@pytest.mark.parametrize("name", anywhere)
def test_ends_are_exact(name):
    clock = TIMES[name]
    assert clock.reads(0.0) == clock.noise
    assert clock.reads(1.0) == clock.data
    assert clock.at(clock.noise) == 0
    assert clock.at(clock.data) == 1
    assert math.copysign(1, clock.at(clock.noise)) == 1  # not −0


def test_noise_is_infinite_for_edm_and_log_snr():
    assert TIMES["edm"].reads(0.0) == math.inf
    assert TIMES["edm2"].at(math.inf) == 0
    assert TIMES["logsnr"].reads(0.0) == -math.inf
    assert TIMES["logsnr"].reads(1.0) == math.inf


def test_the_published_guidance_interval():
    edm = TIMES["edm"]
    assert edm.at(1.02) == pytest.approx(0.495, abs=5e-4)
    assert edm.at(0.34) == pytest.approx(0.746, abs=5e-4)


@given(inside)
def test_edm2_is_edm_of_data_scaled_to_deviation_one(t):
    assert math.isclose(2 * TIMES["edm2"].reads(t), TIMES["edm"].reads(t), rel_tol=1e-14)


def test_dit_steps_are_those_of_the_linear_schedule():
    alphabars = vp_alphabars()
    times = dit_times().tolist()
    for step in (0, 1, 250, 500, 998, 999):
        root, rest = math.sqrt(alphabars[step]), math.sqrt(1 - alphabars[step])
        assert times[step] == pytest.approx(root / (root + rest), rel=1e-10)
        assert TIMES["dit"].at(step) == pytest.approx(times[step], rel=1e-12)
        assert TIMES["dit"].reads(times[step]) == pytest.approx(step, abs=1e-8)
        assert TIMES["alphabar"].reads(times[step]) == pytest.approx(alphabars[step], rel=1e-9)
    assert times[0] == pytest.approx(0.990, abs=5e-4)
    assert times[-1] == pytest.approx(0.00631, abs=5e-6)


@given(st.floats(0, 999))
def test_dit_steps_round_trip(step):
    clock = TIMES["dit"]
    assert math.isclose(clock.reads(clock.at(step)), step, rel_tol=0, abs_tol=1e-8)


@pytest.mark.parametrize("t", [0.0, 0.006, 0.991, 1.0])
def test_beyond_its_schedule_dit_has_no_step(t):
    assert math.isnan(TIMES["dit"].reads(t))


@pytest.mark.parametrize(
    ("name", "reading"),
    [("t", 1.1), ("sigma", -0.1), ("timestep", 1000.5), ("edm", -1.0), ("dit", 1000.0)],
)
def test_readings_outside_the_range_are_refused(name, reading):
    with pytest.raises(ValueError, match=f"{name} lies in"):
        TIMES[name].at(reading)


def test_nan_is_no_reading():
    for clock in TIMES.values():
        with pytest.raises(ValueError, match="lies in"):
            clock.at(math.nan)


def test_an_unknown_clock_is_answered_with_the_nearest():
    assert foreign_times("edm2") is TIMES["edm2"]
    with pytest.raises(ValueError, match="did you mean 'timestep'"):
        foreign_times("timesteps")


def test_steps_of_a_grid_count_its_points():
    clock = step_time(torch.tensor([0.0, 0.125, 0.5, 1.0]))
    assert [clock.reads(t) for t in (0.0, 0.0625, 0.125, 0.3125, 1.0)] == [0, 0.5, 1, 1.5, 3]
    assert [clock.at(k) for k in (0, 0.5, 1, 1.5, 3)] == [0.0, 0.0625, 0.125, 0.3125, 1.0]


@given(st.lists(st.floats(0.01, 1), min_size=1, max_size=9), st.floats(0, 1))
def test_steps_of_any_grid_round_trip(gaps, share):
    grid = torch.tensor([0.0, *gaps], dtype=torch.float64).cumsum(0)
    grid = (grid / grid[-1]).clamp(max=1)
    clock = step_time(grid)
    assert math.isclose(clock.at(clock.reads(share)), share, abs_tol=1e-12)


def test_beyond_a_grid_there_is_no_step():
    clock = step_time(torch.tensor([0.0, 0.5, 0.9]))
    assert math.isnan(clock.reads(0.95))


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
    assert mu_for(256) == 0.5
    assert mu_for(4096) == pytest.approx(FLUX_MU)
    assert mu_for(4096, highest=SD3_MU) == pytest.approx(1.16)
    assert mu_for((256 + 4096) // 2) == pytest.approx((0.5 + 1.15) / 2)
    with pytest.raises(ValueError, match="at least one"):
        mu_for(0)
