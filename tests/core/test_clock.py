import math

import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st

from floracle.core.clock import OURS, Clock

readings = st.floats(-1000, 1000).map(lambda value: round(value, 3))


@given(readings, readings, st.lists(st.floats(0, 1), min_size=1))
def test_clocks_round_trip(noise, data, t):
    assume(abs(noise - data) > 1e-2)
    clock, t = Clock(noise, data), torch.tensor(t, dtype=torch.float64)
    size = max(abs(noise), abs(data)) / abs(noise - data)
    torch.testing.assert_close(clock.time(clock.reading(t)), t, rtol=0, atol=1e-14 * (1 + size))


@given(readings, readings)
def test_ends_are_read_exactly_at_noise(noise, data):
    assume(noise != data)
    clock = Clock(noise, data)
    assert clock.reading(torch.tensor(0.0, dtype=torch.float64)).item() == noise
    assert clock.forward == (data > noise)


def test_known_clocks():
    t = torch.tensor([0.0, 0.25, 1.0], dtype=torch.float64)
    assert OURS.reading(t).tolist() == t.tolist()
    assert Clock(noise=1000, data=0).reading(t).tolist() == [1000, 750, 0]
    assert Clock(noise=1, data=0).reading(t).tolist() == [1, 0.75, 0]
    assert not Clock(noise=1, data=0).forward


@pytest.mark.parametrize("readings", [(1.0, 1.0), (0.0, math.inf), (math.nan, 1.0)])
def test_a_clock_runs_between_finite_readings(readings):
    with pytest.raises(ValueError, match="a clock"):
        Clock(*readings)
