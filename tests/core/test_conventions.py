"""Conventions of times and predictions, and the words of version 0.1."""

import math

import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st

import floracle
from floracle.core.fields import Convention, as_field

readings = st.floats(-1000, 1000).map(lambda value: round(value, 3))


@given(readings, readings, st.lists(st.floats(0, 1), min_size=1))
def test_clocks_round_trip(noise, data, t):
    assume(abs(noise - data) > 1e-2)
    clock, t = Convention("velocity", noise, data), torch.tensor(t, dtype=torch.float64)
    size = max(abs(noise), abs(data)) / abs(noise - data)
    torch.testing.assert_close(clock.to_t(clock.from_t(t)), t, rtol=0, atol=1e-14 * (1 + size))


@given(readings, readings)
def test_ends_are_read_exactly_at_noise(noise, data):
    assume(noise != data)
    clock = Convention("velocity", noise, data)
    assert clock.from_t(torch.tensor(0.0, dtype=torch.float64)).item() == noise
    assert clock.towards_data == (data > noise)


def test_known_clocks():
    t = torch.tensor([0.0, 0.25, 1.0], dtype=torch.float64)
    assert Convention().from_t(t).tolist() == t.tolist()
    assert Convention(noise_time=1000, data_time=0).from_t(t).tolist() == [1000, 750, 0]
    assert Convention(noise_time=1, data_time=0).from_t(t).tolist() == [1, 0.75, 0]
    assert not Convention(noise_time=1, data_time=0).towards_data


@pytest.mark.parametrize("readings", [(1.0, 1.0), (0.0, math.inf), (math.nan, 1.0)])
def test_a_clock_runs_between_finite_readings(readings):
    with pytest.raises(ValueError, match="must be finite and differ"):
        Convention("velocity", *readings)


@pytest.mark.parametrize("fields", [{"predicts": "speed"}, {"sign": 0}])
def test_unknown_predictions_and_signs_are_refused(fields):
    with pytest.raises(ValueError, match="must be"):
        Convention(**fields)


def test_the_words_of_version_0_1_still_work():
    with pytest.warns(DeprecationWarning, match="floracle.Convention"):
        clock = floracle.Clock(noise=1000, data=0)
    assert clock == Convention(noise_time=1000, data_time=0)
    with pytest.warns(FutureWarning, match="noise_time=1000, data_time=0"):
        field = as_field(len, predicts="data", clock=clock)
    assert field == as_field(len, Convention("data", 1000, 0))
    with pytest.warns(FutureWarning, match="null_label"):
        assert as_field(len, null=7) == as_field(len, null_label=7)
