"""When shares settle, and lags: pair by pair, with intervals that cover the truth."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from floracle.analysis.trajectories.lag import lag, mean_lag
from floracle.analysis.trajectories.probe import probe
from floracle.analysis.trajectories.settling import settling_times
from floracle.oracle.oracle import Oracle
from floracle.run.errors import InputError
from floracle.sampling.grid import time_grid


def normal(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@given(
    st.lists(st.floats(0, 2), min_size=1, max_size=12).map(torch.tensor),
    st.floats(0.05, 0.95),
)
def test_shares_stay_below_the_threshold_from_the_transition_on(shares, threshold):
    shares = shares.double()
    times = torch.linspace(0, 0.9, len(shares), dtype=torch.float64)
    found = float(settling_times(times, shares[None], threshold)[0])
    if math.isnan(found):
        assert shares[-1] >= threshold
        return
    assert (shares[times > found] < threshold).all()
    before = shares[times <= found]
    assert found == 0 or before[-1] >= threshold
    at = torch.searchsorted(times, torch.tensor(found, dtype=torch.float64), right=True)
    if found > 0 and 0 < at < len(times):
        part = (found - times[at - 1]) / (times[at] - times[at - 1])
        value = shares[at - 1] + part * (shares[at] - shares[at - 1])
        assert float(value) == pytest.approx(threshold, abs=1e-6)


@pytest.fixture
def two(points_source):
    """A field that knows a fifth of the data, and the oracle of all."""
    points, labels = normal(60, 8), torch.arange(60) % 2
    known = {"labels": torch.arange(10) % 2, "grid": time_grid(60)}
    part = Oracle(points_source(points[:12], labels[:12]))
    return (
        probe(part, range(10), (8,), **known),
        probe(Oracle(points_source(points, labels)), range(10), (8,), **known),
    )


def test_the_lag_is_paired(two):
    field, oracle = two
    found, apart = lag(field, oracle), field.settling_times() - oracle.settling_times()
    assert found.value == pytest.approx(float(apart.mean()))
    assert found.error == pytest.approx(float(apart.std()) / 10**0.5)
    assert found.value == pytest.approx(field.settling().value - oracle.settling().value)
    back = lag(oracle, field)
    assert (back.value, back.low, back.high) == (-found.value, -found.high, -found.low)
    none = lag(oracle, oracle)
    assert (none.value, none.verdict) == (0, "not significant")
    assert lag(field, oracle, label=1).value == pytest.approx(float(apart[1::2].mean()))
    other = lag(field, oracle, threshold=0.4)
    assert other.value == lag(replace(field, threshold=0.4), oracle).value != found.value


def test_the_verdict_is_that_of_the_interval():
    for values, verdict in (
        ([0.1, 0.2, 0.15], "later"),
        ([-0.1, -0.2, -0.15], "earlier"),
        ([0.3, -0.2, 0.1], "not significant"),
        ([0.4], "not significant"),
    ):
        assert mean_lag(torch.tensor(values).double()).verdict == verdict


def test_intervals_of_lags_cover_the_truth():
    """Student's for eight pairs: 19 of 20 times, which two errors do not."""
    drawn = normal(1000, 8).double() * 0.1 + 0.03
    found = [mean_lag(some) for some in drawn]
    covered = sum(each.low <= 0.03 <= each.high for each in found)
    narrow = sum(abs(each.value - 0.03) <= 1.96 * each.error for each in found)
    assert 930 <= covered <= 970
    assert narrow < 925


@pytest.mark.slow
def test_fields_that_are_not_paired_have_no_lag(two, points_source):
    field = two[0]
    other = Oracle(points_source(normal(20, 8), torch.arange(20) % 2))
    labels = torch.arange(10) % 2
    for changed, words in (
        ({"grid": time_grid(30)}, "the grid of both differ"),
        ({"labels": 1 - labels}, "the labels of both differ"),
        ({"solver": "heun"}, "solver is euler and heun"),
    ):
        asked = {"labels": labels, "grid": time_grid(60), **changed}
        with pytest.raises(InputError, match=words):
            lag(field, probe(other, range(10), (8,), **asked))
    with pytest.raises(InputError, match=r"until is 0\.9 and 0\.8"):
        lag(field, replace(field, until=0.8))
    with pytest.raises(InputError, match="the seeds of both differ"):
        lag(field, probe(other, range(1, 11), (8,), labels=labels, grid=time_grid(60)))
