"""Samples and trajectories: a field followed along a grid.

Invariants. Sampling on the two parts of a split grid equals sampling on the whole bit for bit, for
every solver: stage swap, switching between oracle and model, and forward-backward sampling are all
two calls of `sample`. Sample i depends on its own noise and label alone.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from itertools import pairwise
from typing import NamedTuple

import torch
from torch import Tensor

from floracle.core.fields import VelocityField, name_of
from floracle.core.paths import LINEAR, ProbabilityPath
from floracle.core.point_set import NO_LABEL
from floracle.run.errors import InputError

from .grid import check_grid
from .guidance import evaluations_per_velocity
from .solvers import Solver, check_finite, evaluate_field, find_solver, solver_for_step, step


class State(NamedTuple):
    """Samples x [b, *shape] at one time of their grid, and the velocity they leave it with."""

    t: float
    x: Tensor
    velocity: Tensor | None
    """None at the end of the grid, where it is not evaluated."""


def sample(
    field: VelocityField,
    x: Tensor,
    grid: Tensor,
    *,
    labels: Tensor | int | None = None,
    solver: str | Solver = "euler",
    path: ProbabilityPath = LINEAR,
) -> Tensor:
    """Follow a field from samples x [b, *shape] at the grid's first time to its last.

    - `field`, `path`: The field, and the path that it and the grid's times are of; see `on_path`.
    - `x`: Floating point and finite; left as it is.
    - `labels`: int64 [b], or one for all.

    Raises InputError where the field answers NaN or infinity, or samples leave the range of their
    type.
    """
    for state in trajectory(field, x, grid, labels=labels, solver=solver, path=path):
        x = state.x
    return x


def trajectory(
    field: VelocityField,
    x: Tensor,
    grid: Tensor,
    *,
    labels: Tensor | int | None = None,
    solver: str | Solver = "euler",
    path: ProbabilityPath = LINEAR,
) -> Iterator[State]:
    """The states at every time of the grid, its ends included; see `sample`."""
    times, classes = check_grid(grid).tolist(), expand_labels(x, labels)
    evaluate = partial(evaluate_field, field, labels=classes)
    advance = partial(step, field, labels=classes, solver=find_solver(solver), path=path)
    # all checks before the first state
    return _states(check_samples(x), times, evaluate, advance, f"a sample of {name_of(field)}")


@torch.no_grad()
def _states(
    x: Tensor,
    times: list[float],
    evaluate: Callable[..., Tensor],
    advance: Callable[..., Tensor],
    name: str,
) -> Iterator[State]:
    for t, s in pairwise(times):
        velocity = evaluate(x, t)
        yield State(t, x, velocity)
        x = advance(x, t, s, velocity=velocity)
        check_finite(x, x.new_full((len(x),), s, dtype=torch.float64), name)
    yield State(times[-1], x, None)


def evaluations(
    grid: Tensor, solver: str | Solver = "euler", *, field: VelocityField | None = None
) -> int:
    """The number of evaluations of the field in `sample` (its NFE).

    A guided `field` counts twice where it is guided: its own velocity and the reference's.
    """
    times = evaluation_times(grid, solver)
    return len(times) if field is None else sum(evaluations_per_velocity(field, t) for t in times)


def evaluation_times(grid: Tensor, solver: str | Solver = "euler") -> list[float]:
    """The times at which `sample` evaluates the field, in its order."""
    method = find_solver(solver)
    return [
        t + node * (s - t)
        for t, s in pairwise(check_grid(grid).tolist())
        for node in solver_for_step(method, s).nodes
    ]


def check_samples(x: Tensor) -> Tensor:
    """Samples without their autograd history; only finite floating point ones can move."""
    if not isinstance(x, Tensor):
        raise InputError(f"samples are a tensor [b, *shape], got a {type(x).__name__}")
    if not x.is_floating_point() or x.ndim < 1:
        raise InputError(f"samples are floating point [b, *shape], got {x.dtype} {list(x.shape)}")
    if not x.isfinite().all():
        raise InputError("the samples to start from contain NaN or infinity")
    return x.detach()


def expand_labels(x: Tensor, labels: Tensor | Sequence[int] | int | None) -> Tensor | None:
    """Labels int64 [b] on the device of x, from one for all or one for each."""
    if labels is None:
        return None
    try:
        values = torch.as_tensor(labels)
    except (TypeError, ValueError, RuntimeError) as error:
        raise InputError(f"labels are whole numbers, got {labels!r}") from error
    given = values.expand(len(x)) if values.ndim == 0 else values
    counts = not (values.is_floating_point() or values.is_complex() or values.dtype == torch.bool)
    if given.shape != (len(x),) or not counts:
        raise InputError(
            f"labels are whole numbers [{len(x)}], one a sample, got {values.dtype}"
            f" {list(values.shape)}"
        )
    given = given.to(x.device, torch.int64, copy=True)
    if (given < NO_LABEL).any():
        raise InputError(f"labels count from 0, and -1 is none, got {int(given.min())}")
    return given
