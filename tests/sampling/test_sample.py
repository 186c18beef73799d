import math

import pytest
import torch
from torch.testing import assert_close

from floracle.run.errors import InputError
from floracle.sampling.grid import split_grid, time_grid
from floracle.sampling.sample import evaluations, sample, trajectory
from floracle.sampling.solvers import SOLVERS, Solver, step

MEAN, SPREAD = 0.7, 0.4


def growing(x, t, labels=None):
    """x' = (1 + 2t) x, so x(t) = x(0) exp(t + t²)."""
    return (1 + 2 * t)[:, None] * x


def growing_flow(x, t):
    return x * math.exp(t + t * t)


def slowing(x, t, labels=None):
    """x' = −(1 + t) x |x|, not linear in x."""
    return -(1 + t)[:, None] * x * x.abs()


def slowing_flow(x, t):
    return x / (1 + x.abs() * (t + t * t / 2))


def gaussian(x, t, labels=None):
    """The exact field of data ~ N(MEAN, SPREAD²): E[data − noise | x]."""
    t = t[:, None]
    variance = t**2 * SPREAD**2 + (1 - t) ** 2
    return MEAN + (t * SPREAD**2 - (1 - t)) / variance * (x - t * MEAN)


def gaussian_flow(x, t):
    """Where noise x is carried by time t: quantiles stay quantiles."""
    return t * MEAN + math.sqrt(t**2 * SPREAD**2 + (1 - t) ** 2) * x


class Counted:
    def __init__(self, field):
        self.field, self.calls, self.times = field, 0, []

    def __call__(self, x, t, labels=None):
        self.calls += 1
        self.times.append(t)
        return self.field(x, t, labels)


def slope(solver, field, flow, stop):
    x, steps = torch.randn(16, 1, dtype=torch.float64), torch.tensor([16, 32, 64, 128])
    errors = [
        (sample(field, x, time_grid(n, stop=stop), solver=solver) - flow(x, stop)).abs().max()
        for n in steps.tolist()
    ]
    logs = torch.tensor(errors).log2()
    return -(logs[-1] - logs[0]).item() / 3


@pytest.mark.parametrize("solver", SOLVERS.values(), ids=SOLVERS)
@pytest.mark.parametrize(("field", "flow"), [(growing, growing_flow), (slowing, slowing_flow)])
def test_order_on_equations_with_a_known_solution(solver, field, flow):
    assert slope(solver, field, flow, stop=0.9) == pytest.approx(solver.order, abs=0.15)


@pytest.mark.parametrize("solver", SOLVERS.values(), ids=SOLVERS)
def test_order_on_the_field_of_gaussian_data(solver):
    order = (
        3 if solver.name == "midpoint" else solver.order
    )  # gains one: variance is quadratic in t
    assert slope(solver, gaussian, gaussian_flow, stop=0.7) == pytest.approx(order, abs=0.15)


@pytest.mark.parametrize("solver", SOLVERS.values(), ids=SOLVERS)
def test_tableaus_are_consistent(solver):
    assert sum(solver.weights) == pytest.approx(1, abs=1e-15)
    assert [sum(row) for row in solver.rows] == list(solver.nodes)
    assert all(len(row) == k for k, row in enumerate(solver.rows))


def test_samples_of_gaussian_data_have_its_mean_and_spread():
    x = sample(gaussian, torch.randn(50_000, 1), time_grid(100), solver="heun")
    assert x.mean().item() == pytest.approx(MEAN, abs=5 * SPREAD / math.sqrt(50_000))
    assert x.std().item() == pytest.approx(SPREAD, rel=0.02)


@pytest.mark.parametrize("solver", SOLVERS)
@pytest.mark.parametrize("stop", [1.0, 0.8])
def test_evaluations_are_what_the_field_counts(solver, stop):
    field, grid = Counted(growing), time_grid(7, stop=stop)
    sample(field, torch.randn(3, 2), grid, solver=solver)
    stages = len(SOLVERS[solver].weights)
    assert field.calls == evaluations(grid, solver)
    assert field.calls == (6 * stages + 1 if stop == 1 else 7 * stages)


@pytest.mark.parametrize("solver", SOLVERS)
def test_no_solver_asks_at_the_data(solver):
    field = Counted(growing)
    sample(field, torch.randn(3, 2), time_grid(5, shift=0.3), solver=solver)
    times = torch.stack(field.times)
    assert times.dtype == torch.float64
    assert times.shape == (field.calls, 3)
    assert times.max() < 1


@pytest.mark.parametrize("solver", SOLVERS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_pieces_in_sequence_equal_the_whole_bit_for_bit(solver, dtype):
    x, grid = torch.randn(5, 3).to(dtype), time_grid(20, shift=0.5)
    early, late = split_grid(grid, grid[6].item())
    whole = sample(gaussian, x, grid, solver=solver)
    parts = sample(gaussian, sample(gaussian, x, early, solver=solver), late, solver=solver)
    assert whole.dtype == dtype
    assert torch.equal(whole, parts)


def test_euler_by_hand():
    x, grid = torch.randn(4, 2, dtype=torch.float64), torch.tensor([0.0, 0.25, 0.5, 1.0])
    expected = x
    for t, h in [(0.0, 0.25), (0.25, 0.25), (0.5, 0.5)]:
        expected = expected + h * (1 + 2 * t) * expected
    assert_close(sample(growing, x, grid), expected, rtol=1e-15, atol=0)


def test_a_trajectory_yields_start_states_and_end():
    x, grid = torch.randn(4, 2), time_grid(6)
    states = list(trajectory(growing, x, grid, solver="rk4"))
    assert [state.t for state in states] == grid.tolist()
    assert torch.equal(states[0].x, x)
    assert torch.equal(states[-1].x, sample(growing, x, grid, solver="rk4"))
    assert states[-1].velocity is None
    for state in states[:-1]:
        t = torch.full((4,), state.t, dtype=torch.float64)
        assert torch.equal(state.velocity, growing(state.x, t))


def test_x_is_left_alone_and_nothing_is_differentiated():
    x = torch.randn(4, 2, requires_grad=True)
    before, weight = x.detach().clone(), torch.ones(1, requires_grad=True)
    last = sample(lambda x, t, labels: weight * x, x, time_grid(3))
    assert torch.equal(x, before)
    assert not last.requires_grad
    assert torch.is_grad_enabled()


def test_gradients_stay_on_between_states():
    for _ in trajectory(growing, torch.randn(2, 2), time_grid(3)):
        assert torch.is_grad_enabled()


@pytest.mark.parametrize(
    "labels", [3, torch.full((4,), 3), torch.full((4,), 3, dtype=torch.int32)]
)
def test_labels_reach_the_field_as_int64(labels):
    seen = []
    sample(
        lambda x, t, labels: seen.append(labels) or x,
        torch.randn(4, 2),
        time_grid(2),
        labels=labels,
    )
    assert all(torch.equal(given, torch.full((4,), 3)) for given in seen)


def test_no_labels_stay_none():
    seen = []
    sample(lambda x, t, labels: seen.append(labels) or x, torch.randn(4, 2), time_grid(2))
    assert seen == [None, None]


@pytest.mark.parametrize(
    "labels", [torch.zeros(3).long(), torch.zeros(4), torch.zeros(4, 1).long()]
)
def test_wrong_labels_are_refused_before_the_field_is_asked(labels):
    field = Counted(growing)
    with pytest.raises(InputError, match=r"one a sample"):
        trajectory(field, torch.randn(4, 2), time_grid(2), labels=labels)
    assert field.calls == 0


def test_a_misspelt_solver_gets_a_suggestion():
    with pytest.raises(InputError, match="did you mean 'euler'"):
        sample(growing, torch.randn(4, 2), time_grid(2), solver="eular")


def test_a_solver_of_the_users_own():
    ralston = Solver("ralston", (0, 2 / 3), ((), (2 / 3,)), (1 / 4, 3 / 4), order=2)
    assert slope(ralston, growing, growing_flow, stop=0.9) == pytest.approx(2, abs=0.15)


def test_a_field_of_another_shape_is_refused():
    with pytest.raises(ValueError, match=r"x is \[4, 2\] and its velocity \[4\]"):
        sample(lambda x, t, labels: t, torch.randn(4, 2), time_grid(2))


def test_whole_numbers_are_no_samples():
    with pytest.raises(InputError, match="floating point"):
        sample(growing, torch.zeros(4, 2, dtype=torch.int64), time_grid(2))


@pytest.mark.parametrize("solver", SOLVERS.values(), ids=SOLVERS)
def test_a_known_velocity_is_not_asked_again(solver):
    x, field = torch.randn(4, 2), Counted(growing)
    known = growing(x, torch.full((4,), 0.3, dtype=torch.float64))
    moved = step(field, x, 0.3, 0.5, solver=solver, velocity=known)
    assert torch.equal(moved, step(growing, x, 0.3, 0.5, solver=solver))
    assert field.calls == len(solver.weights) - 1
