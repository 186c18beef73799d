import math

import pytest
import torch

from floracle.run.errors import InputError
from floracle.training.config import TrainingSettings
from floracle.training.times import LogitNormal, Shifted, SplitAware, Uniform, times_for

ALL = [Uniform(), LogitNormal(), Shifted(0.3), Shifted(3.0), SplitAware(0.06), SplitAware(0.5)]
NAMES = ["uniform", "logit-normal", "shifted early", "shifted late", "split .06", "split .5"]
UNBIASED = (Uniform, SplitAware)
EACH = pytest.mark.parametrize("times", ALL, ids=NAMES)


@EACH
def test_the_density_is_that_of_the_times(times):
    u = torch.linspace(0.01, 0.99, 4001, dtype=torch.float64)
    t = times.of(u)
    middle = times.of((u[1:] + u[:-1]) / 2)
    measured = u.diff() / t.diff()
    inside = (middle - getattr(times, "split", 2.0)).abs() > 1e-3
    # the mean density of a cell against that in its middle: second order in its width
    assert torch.allclose(measured[inside], times.density(middle)[inside], rtol=2e-3)


@EACH
def test_times_rise_with_their_uniform_number_and_stay_inside(times):
    last = torch.tensor([1 - 2**-53], dtype=torch.float64)
    t = times.of(torch.cat([torch.linspace(0, 1, 1001, dtype=torch.float64)[:-1], last]))
    assert (t.diff() > 0).all()
    assert t[0] >= 0
    assert t[-1] < 1


@EACH
def test_unbiased_means_that_weighted_averages_are_those_of_uniform_times(times):
    u = torch.rand(200_000, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    t = times.of(u)
    for k in range(4):  # moments of the loss in t, whatever the loss is
        values = times.weight(t) * t**k
        apart = float(values.mean()) - 1 / (k + 1)
        error = float(values.std()) / len(u) ** 0.5
        if isinstance(times, UNBIASED):
            assert abs(apart) <= 4.5 * error + 1e-12
    assert isinstance(times, UNBIASED) == (abs(apart) <= 5 * error + 1e-12)


def test_weights_undo_the_density_exactly_where_times_are_unbiased():
    t = torch.linspace(0, 0.999, 500, dtype=torch.float64)
    for times in ALL:
        product = times.weight(t) * times.density(t)
        assert torch.allclose(product, torch.ones_like(t)) == isinstance(times, UNBIASED)


def test_half_of_split_aware_times_are_in_navigation():
    u = (torch.arange(1000, dtype=torch.float64) + 0.5) / 1000
    assert int((SplitAware(0.06).of(u) < 0.06).sum()) == 500


def test_logit_normal_times_are_lightningdits():
    u = torch.rand(100_000, dtype=torch.float64)
    logits = torch.logit(LogitNormal().of(u))
    assert abs(float(logits.mean())) < 5 / math.sqrt(len(u))
    assert abs(float(logits.std()) - 1) < 5 / math.sqrt(2 * len(u))


def test_a_shift_below_one_is_sd3s_shift_upside_down():
    u = torch.rand(100, dtype=torch.float64)
    s = 1 - u  # SD3 counts from the data and shifts by k s / (1 + (k − 1) s)
    theirs = 3.0 * s / (1 + (3.0 - 1) * s)
    assert torch.allclose(Shifted(1 / 3).of(u), 1 - theirs)


def test_split_aware_times_need_a_split():
    with pytest.raises(InputError, match="need a split"):
        times_for(TrainingSettings(times="split-aware"))
    assert times_for(TrainingSettings(times="split-aware"), 0.1) == SplitAware(0.1)
    assert times_for(TrainingSettings(times="split-aware", split=0.2), 0.1) == SplitAware(0.2)
