import itertools
import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.testing import assert_close

from floracle.core.paths import (
    COSINE,
    LINEAR,
    PATHS,
    QUANTITIES,
    TRIGONOMETRIC,
    ProbabilityPath,
    check_times,
    convert,
)

paths = pytest.mark.parametrize("path", PATHS.values(), ids=PATHS)
seeds = st.integers(0, 2**31)
times = st.lists(st.floats(0.01, 0.99), min_size=1, max_size=4)


def pairs(seed, count):
    drawn = torch.Generator().manual_seed(seed)
    return torch.randn(2, count, 3, 2, generator=drawn, dtype=torch.float64)


def truth(path, data, noise, t):
    """The four quantities, straight from their definitions."""
    c = path.coefficients(t)
    column = lambda values: values[:, None, None]  # noqa: E731
    return {
        "data": data,
        "noise": noise,
        "velocity": column(c.d_alpha) * data + column(c.d_sigma) * noise,
        "score": -noise / column(c.sigma),
    }


def without_derivatives(path):
    return ProbabilityPath(path.name, path.alpha, path.sigma)


@pytest.mark.slow
@paths
@given(seed=seeds, t=times)
def test_sixteen_conversions_agree_with_the_definitions(path, seed, t):
    t = torch.tensor(t, dtype=torch.float64)
    data, noise = pairs(seed, len(t))
    x, known = path.sample(data, noise, t), truth(path, data, noise, t)
    for source, target in itertools.product(QUANTITIES, repeat=2):
        found = convert(known[source], x, t, source=source, target=target, path=path)
        assert_close(found, known[target], rtol=1e-10, atol=1e-10)


@pytest.mark.slow
@paths
@given(seed=seeds, t=times)
def test_sixteen_conversions_round_trip(path, seed, t):
    t = torch.tensor(t, dtype=torch.float64)
    value, x = pairs(seed, len(t))  # any prediction, not only a true one
    for source, target in itertools.product(QUANTITIES, repeat=2):
        there = convert(value, x, t, source=source, target=target, path=path)
        back = convert(there, x, t, source=target, target=source, path=path)
        assert_close(back, value, rtol=1e-8, atol=1e-8)


@paths
@given(t=st.floats(0.001, 0.999))
def test_derivatives_are_those_of_finite_differences(path, t):
    h = 1e-6 * min(t, 1 - t) ** 0.5
    c, around = (
        path.coefficients(torch.tensor([t], dtype=torch.float64)),
        path.coefficients(torch.tensor([t - h, t + h], dtype=torch.float64)),
    )
    assert_close(c.d_alpha, around.alpha.diff() / (2 * h), rtol=1e-5, atol=1e-6)
    assert_close(c.d_sigma, around.sigma.diff() / (2 * h), rtol=1e-5, atol=1e-6)


@paths
def test_automatic_derivatives_equal_the_written_ones(path):
    t = torch.linspace(0.001, 0.999, 99, dtype=torch.float64)
    assert_close(without_derivatives(path).coefficients(t), path.coefficients(t))


def test_a_constant_coefficient_has_no_slope():
    still = ProbabilityPath("still", lambda t: t, torch.ones_like)
    c = still.coefficients(torch.linspace(0, 1, 5))
    assert torch.equal(c.d_alpha, torch.ones(5, dtype=torch.float64))
    assert torch.equal(c.d_sigma, torch.zeros(5, dtype=torch.float64))


def test_automatic_derivatives_work_where_gradients_are_off():
    user, t = without_derivatives(TRIGONOMETRIC), torch.tensor([0.3])
    for off in (torch.no_grad, torch.inference_mode):
        with off():
            assert_close(user.coefficients(t.clone()), TRIGONOMETRIC.coefficients(t))


@paths
def test_paths_begin_as_noise_and_end_as_data(path):
    data, noise = pairs(0, 2)
    c = path.coefficients(torch.tensor([0.0, 1.0]))
    assert torch.equal(c.alpha, torch.tensor([0.0, 1.0], dtype=torch.float64))
    assert_close(c.sigma, torch.tensor([1.0, 0.0], dtype=torch.float64), rtol=0, atol=1e-15)
    x = path.sample(data, noise, torch.tensor([0.0, 1.0]))
    assert torch.equal(x[0], noise[0])
    assert_close(x[1], data[1], rtol=0, atol=1e-14)


@paths
def test_alpha_rises_and_sigma_falls(path):
    c = path.coefficients(torch.linspace(0, 1, 1001, dtype=torch.float64))
    assert (c.alpha.diff() > 0).all()
    assert (c.sigma.diff() < 0).all()


@pytest.mark.parametrize("path", [COSINE, TRIGONOMETRIC], ids=lambda path: path.name)
def test_variance_is_preserved(path):
    c = path.coefficients(torch.linspace(0, 1, 1001, dtype=torch.float64))
    assert_close(
        c.alpha**2 + c.sigma**2, torch.ones(1001, dtype=torch.float64), rtol=0, atol=1e-15
    )


def test_the_cosine_schedule_is_that_of_the_paper_that_states_it():
    def alpha_bar(u):  # Nichol & Dhariwal 2021, Eq. 17
        return (
            math.cos((u + 0.008) / 1.008 * math.pi / 2) ** 2
            / math.cos(0.008 / 1.008 * math.pi / 2) ** 2
        )

    t = torch.linspace(0.01, 1, 50, dtype=torch.float64)
    expected = torch.tensor([alpha_bar(1 - u) for u in t.tolist()], dtype=torch.float64)
    assert_close(COSINE.coefficients(t).alpha ** 2, expected, rtol=1e-12, atol=1e-15)


def test_the_cosine_schedule_keeps_its_digits_near_the_data():
    near = 1e-12
    c = COSINE.coefficients(torch.tensor([1 - near], dtype=torch.float64))
    left = 1 - torch.tensor([1 - near], dtype=torch.float64)  # what 1 − t is once rounded
    slope = COSINE.coefficients(torch.tensor([1.0])).d_alpha
    assert_close(c.sigma, (2 * slope * left).sqrt(), rtol=1e-9, atol=0)


def test_the_linear_velocity_is_data_minus_noise_at_every_time():
    data, noise = pairs(1, 3)
    t = torch.tensor([0.0, 0.5, 1.0])
    assert torch.equal(LINEAR.velocity(data, noise, t), data - noise)


def test_an_infinite_velocity_is_refused_not_returned():
    data, noise = pairs(1, 2)
    with pytest.raises(ValueError, match="cosine path is infinite at t = 1"):
        COSINE.velocity(data, noise, torch.tensor([0.5, 1.0]))
    assert COSINE.velocity(data, noise, torch.tensor([0.0, 0.9999])).isfinite().all()


undetermined = [
    (LINEAR, "data", "velocity", 1.0),
    (LINEAR, "data", "noise", 1.0),
    (LINEAR, "noise", "data", 0.0),
    (LINEAR, "noise", "velocity", 0.0),
    (LINEAR, "score", "data", 1.0),
    (LINEAR, "score", "velocity", 1.0),
    (LINEAR, "velocity", "score", 1.0),
    (COSINE, "noise", "data", 0.0),
    (COSINE, "velocity", "data", 1.0),
    (COSINE, "data", "velocity", 1.0),
    (TRIGONOMETRIC, "noise", "data", 0.0),
]


@pytest.mark.parametrize(("path", "source", "target", "t"), undetermined)
def test_what_does_not_follow_is_refused(path, source, target, t):
    value, x = pairs(2, 2)
    with pytest.raises(ValueError, match=f"{target} does not follow from {source} at t = {t:g}"):
        convert(value, x, torch.tensor([0.5, t]), source=source, target=target, path=path)


@paths
@pytest.mark.parametrize("t", [0.0, 1.0])
def test_every_finite_answer_at_the_ends_is_right(path, t):
    data, noise = pairs(3, 2)
    times = torch.full((2,), t)
    x, known = path.sample(data, noise, times), truth(path, data, noise, times)
    for source, target in itertools.product(QUANTITIES, repeat=2):
        try:
            found = convert(known[source], x, times, source=source, target=target, path=path)
        except ValueError:
            continue
        assert_close(found, known[target], rtol=1e-10, atol=1e-10)


@paths
def test_the_velocity_at_noise_follows_from_the_data_and_back(path):
    data, noise = pairs(3, 2)
    t = torch.zeros(2)
    x, target = path.sample(data, noise, t), path.velocity(data, noise, t)
    assert_close(convert(data, x, t, source="data", target="velocity", path=path), target)
    assert_close(convert(target, x, t, source="velocity", target="data", path=path), data)


@pytest.mark.parametrize("wrong", [-1e-9, 1 + 1e-9, math.nan, math.inf])
def test_times_outside_are_refused(wrong):
    with pytest.raises(ValueError, match=r"t must lie in \[0, 1\]"):
        check_times(torch.tensor([0.5, wrong], dtype=torch.float64))
    with pytest.raises(ValueError, match=r"t must lie in \[0, 1\]"):
        LINEAR.sample(*pairs(0, 2), torch.tensor([0.5, wrong], dtype=torch.float64))


@paths
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_results_have_the_type_of_the_data(path, dtype):
    data, noise = pairs(4, 2).to(dtype)
    t = torch.tensor([0.2, 0.7])
    x = path.sample(data, noise, t)
    assert x.dtype == path.velocity(data, noise, t).dtype == dtype
    exact = path.sample(data.double(), noise.double(), t)
    assert torch.equal(x, exact.to(dtype))


def test_an_unknown_quantity_is_named():
    with pytest.raises(ValueError, match="unknown quantity 'epsilon'; one of data, noise"):
        LINEAR.row("epsilon", torch.tensor([0.5]))
