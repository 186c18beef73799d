"""Explicit Runge-Kutta solvers, as tables of numbers.

From t to s = t + h a solver with nodes cₖ, rows aₖⱼ and weights bₖ evaluates

    vₖ = v(x + h Σⱼ aₖⱼ vⱼ, t + cₖ h)        and steps to        x + h Σₖ bₖ vₖ     (Butcher 1964)

Its order is the power of h with which the error of a whole trajectory falls.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from floracle.core.fields import VelocityField, evaluate, name_of
from floracle.core.paths import LINEAR, ProbabilityPath, convert
from floracle.run.errors import InputError, suggestion


class Solver(NamedTuple):
    """A Butcher tableau; the first node is 0 and its row is empty."""

    name: str
    nodes: tuple[float, ...]
    rows: tuple[tuple[float, ...], ...]
    weights: tuple[float, ...]
    order: int


EULER = Solver("euler", (0,), ((),), (1,), order=1)
HEUN = Solver("heun", (0, 1), ((), (1,)), (1 / 2, 1 / 2), order=2)
MIDPOINT = Solver("midpoint", (0, 1 / 2), ((), (1 / 2,)), (0, 1), order=2)
RK4 = Solver(
    "rk4",
    (0, 1 / 2, 1 / 2, 1),
    ((), (1 / 2,), (0, 1 / 2), (0, 0, 1)),
    (1 / 6, 1 / 3, 1 / 3, 1 / 6),
    order=4,
)
SOLVERS = {solver.name: solver for solver in (EULER, HEUN, MIDPOINT, RK4)}


def find_solver(solver: str | Solver) -> Solver:
    """A solver by its name."""
    if isinstance(solver, Solver):
        return solver
    if solver not in SOLVERS:
        raise InputError(f"unknown solver {solver!r}; {suggestion(solver, SOLVERS)}")
    return SOLVERS[solver]


def solver_for_step(solver: Solver, s: float) -> Solver:
    """The solver of a step to s."""
    if s == 1:  # the velocity of the oracle is 0 / 0 at the data itself
        return EULER
    return solver


def step(
    field: VelocityField,
    x: Tensor,
    t: float,
    s: float,
    *,
    solver: Solver = EULER,
    labels: Tensor | None = None,
    velocity: Tensor | None = None,
    path: ProbabilityPath = LINEAR,
) -> Tensor:
    """Samples x [b, *shape] moved from t to s; `velocity` is that at (x, t), where it is known.

    A step to t = 1 returns the data that the velocity implies, on the linear path Euler's step.
    Stages are combined in float64 and rounded to the type of x once each.
    """
    solver = solver_for_step(solver, s)
    slopes = [evaluate_field(field, x, t, labels) if velocity is None else velocity]  # v₁
    for node, row in zip(solver.nodes[1:], solver.rows[1:], strict=True):
        stage = combine_slopes(x, slopes, row, s - t)  # x + h Σⱼ aₖⱼ vⱼ
        slopes.append(evaluate_field(field, stage, t + node * (s - t), labels))  # vₖ
    if s == 1:
        return implied_data(x, slopes[0], t, path)
    return combine_slopes(x, slopes, solver.weights, s - t)  # x + h Σₖ bₖ vₖ


def implied_data(x: Tensor, velocity: Tensor, t: float, path: ProbabilityPath = LINEAR) -> Tensor:
    """The data x̂ [b, *shape] that a velocity implies; x + (1 − t) v on the linear path."""
    if path == LINEAR:  # the operations of Euler's step, so that both agree to the last bit
        return combine_slopes(x, [velocity], (1,), 1 - t)
    times = torch.full((len(x),), t, dtype=torch.float64)
    return convert(velocity, x, times, source="velocity", target="data", path=path)


def combine_slopes(
    x: Tensor, slopes: Sequence[Tensor], weights: Sequence[float], h: float
) -> Tensor:
    """The samples x + h Σ weight · slope, in the type of x."""
    total = x.double()
    for slope, weight in zip(slopes, weights, strict=True):
        if weight:
            total = total + h * weight * slope.double()
    return total.to(x.dtype)


def evaluate_field(field: VelocityField, x: Tensor, t: float, labels: Tensor | None) -> Tensor:
    """The velocity of all samples at one time; refused unless it is finite and of their shape."""
    times = torch.full((len(x),), t, dtype=torch.float64, device=x.device)
    return checked_velocity(field, x, times, labels)


def checked_velocity(
    field: VelocityField, x: Tensor, t: Tensor, labels: Tensor | None = None
) -> Tensor:
    """The velocity at samples x [b, *shape] and times t [b], which the field cannot alter."""
    velocity = evaluate(field, x, t, labels)
    if not isinstance(velocity, Tensor) or velocity.shape != x.shape:
        got = list(velocity.shape) if isinstance(velocity, Tensor) else type(velocity).__name__
        raise InputError(
            f"a field returns a velocity for every number of x, but x is {list(x.shape)} and its"
            f" velocity {got} ({name_of(field)}); take the data that it was made for"
        )
    check_finite(velocity, t, f"the velocity of {name_of(field)}")
    return velocity


def check_finite(values: Tensor, t: Tensor, what: str) -> None:
    """Refuse values [b, *shape] at times t [b] of which one is NaN or infinite."""
    broken = ~values.isfinite().flatten(1).all(1)
    if broken.any():
        i = int(broken.int().argmax())
        raise NotFiniteError(
            f"{what} at t = {float(t[i]):g} is not finite (NaN or infinity) for sample {i} of"
            f" {len(values)}, {int(broken.sum())} in all",
            i,
        )


class NotFiniteError(InputError):
    """A field has answered NaN or infinity, or its samples have left the floating point range."""

    def __init__(self, message: str, index: int) -> None:
        super().__init__(f"{message}; check its weights, its convention and the scale of the data")
        self.index = index
        """The sample, counted from 0 in its batch."""
