"""Samples and trajectories: a field followed along a grid.

Stage swap, mixing the oracle with a model and resuming from t are all the same: sampling twice, on
the two pieces of a `cut` grid.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise
from typing import NamedTuple

import torch
from torch import Tensor

from floracle.core.fields import VelocityField
from floracle.core.paths import LINEAR, ProbabilityPath
from floracle.run.errors import InputError

from .grid import check_grid
from .guidance import evaluations_at
from .solvers import Solver, for_step, solver_named, step, velocity_at


class State(NamedTuple):
    """Where samples [b, *shape] are at one time of their grid, and how they move on from there."""

    t: float
    x: Tensor
    velocity: Tensor | None
    """None at the end of the grid, where nobody asks for it."""


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

    `labels` are int64 [b], or one for all. The field and the grid's times are those of `path`; see
    `on_path`. x itself is left as it is.
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
    """The states at every time of the grid, the start and the end among them; see `sample`."""
    times = check_grid(grid).tolist()
    known = {"labels": labels_of(x, labels), "solver": solver_named(solver), "path": path}
    return _states(field, checked_samples(x), times, **known)


@torch.no_grad()
def _states(
    field: VelocityField,
    x: Tensor,
    times: list[float],
    *,
    labels: Tensor | None,
    solver: Solver,
    path: ProbabilityPath,
) -> Iterator[State]:
    for t, s in pairwise(times):
        velocity = velocity_at(field, x, t, labels)
        yield State(t, x, velocity)
        known = {"labels": labels, "velocity": velocity, "path": path}
        x = step(field, x, t, s, solver=solver, **known)
    yield State(times[-1], x, None)


def evaluations(
    grid: Tensor, solver: str | Solver = "euler", *, field: VelocityField | None = None
) -> int:
    """How often `sample` asks the field (its NFE).

    A guided `field` costs two where it is guided: its own velocity and the reference's.
    """
    times = times_asked(grid, solver)
    return len(times) if field is None else sum(evaluations_at(field, t) for t in times)


def times_asked(grid: Tensor, solver: str | Solver = "euler") -> list[float]:
    """The times at which `sample` asks the field, in its order."""
    method = solver_named(solver)
    return [
        t + node * (s - t)
        for t, s in pairwise(check_grid(grid).tolist())
        for node in for_step(method, s).nodes
    ]


def checked_samples(x: Tensor) -> Tensor:
    """Samples without their history; only floating point ones can move."""
    if not x.is_floating_point() or x.ndim < 1:
        raise InputError(f"samples are floating point [b, *shape], got {x.dtype} {list(x.shape)}")
    return x.detach()


def labels_of(x: Tensor, labels: Tensor | int | None) -> Tensor | None:
    """Labels int64 [b] on the device of x, from one for all or one for each."""
    if labels is None:
        return None
    if isinstance(labels, int):
        return torch.full((len(x),), labels, dtype=torch.int64, device=x.device)
    if labels.shape != (len(x),) or labels.is_floating_point():
        raise InputError(
            f"labels are whole numbers [{len(x)}], one a sample, got {labels.dtype}"
            f" {list(labels.shape)}"
        )
    return labels.to(x.device, torch.int64)
