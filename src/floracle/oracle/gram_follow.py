"""Pure-oracle trajectories in Gram space: coefficients are followed, points are made when asked.

A solver moves the coefficients as it would move the sample, since both take the same linear
combination of velocities. Nothing here has D dimensions but what `points` returns and `lifted`
is given.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from floracle.core.paths import LINEAR, Coefficients, Path, checked_times, expand
from floracle.core.source import Source
from floracle.run.errors import Mistake, suggestion

from .gram import Gram, combined, project

FAINT = -500.0
"""Atoms so far below the peak in logits have weight 0; smaller numbers would not be normal."""

FORGOTTEN = 1e-14
"""A share of noise below this is rounding."""


class Span(NamedTuple):
    """Points centre · m + Σ atoms_i z_i + noise · ε, or velocities; float64."""

    centre: Tensor
    """[b]."""
    atoms: Tensor
    """[b, n]."""
    noise: Tensor
    """[b]."""


class Votes(NamedTuple):
    """The posterior at b points; float64 [b] unless stated."""

    weights: Tensor
    """γ, [b, n]."""
    leaders: Tensor
    """Positions of the atoms with the largest weights, int64 [b]."""
    top: Tensor
    """Those weights."""
    entropy: Tensor
    """−Σ γ log γ in nats."""
    concentration: Tensor
    """Σ γ²."""


class Moment(NamedTuple):
    """Where trajectories are at one time of their grid, who votes there, and how they move on."""

    t: float
    point: Span
    votes: Votes | None
    """None at the end of the grid, where nobody asks."""
    velocity: Span | None
    """The same."""


class Landed(NamedTuple):
    """Where trajectories end."""

    rows: Tensor
    """The row each was drawn to most when last asked, int64 [b]."""
    weights: Tensor
    """The weight of that row then, float64 [b]."""
    point: Span


class Tableau(Protocol):
    """An explicit Runge-Kutta solver as numbers, such as those of `sampling.solvers`."""

    @property
    def nodes(self) -> Sequence[float]:
        """cₖ."""
        ...

    @property
    def rows(self) -> Sequence[Sequence[float]]:
        """aₖⱼ, empty for the first."""
        ...

    @property
    def weights(self) -> Sequence[float]:
        """bₖ."""
        ...


class Table(NamedTuple):
    """The numbers of a solver."""

    nodes: tuple[float, ...]
    rows: tuple[tuple[float, ...], ...]
    weights: tuple[float, ...]


EULER = Table((0,), ((),), (1,))
HEUN = Table((0, 1), ((), (1,)), (1 / 2, 1 / 2))
TABLES: dict[str, Tableau] = {"euler": EULER, "heun": HEUN}


def at_noise(gram: Gram, count: int) -> Span:
    """The start of trajectories at t = 0: the noise itself."""
    zeros = torch.zeros(count, len(gram) + 1, dtype=torch.float64, device=gram.device)
    return Span(zeros[:, 0], zeros[:, 1:], torch.ones_like(zeros[:, 0]))


def on_path(gram: Gram, rows: Tensor, t: Tensor, path: Path = LINEAR) -> Span:
    """Noisy samples α x_o + σ ε of rows [b] at times t [b]."""
    c, start = path.coefficients(t.to(gram.device)), at_noise(gram, len(rows))
    atoms = start.atoms.scatter(1, gram.positions(rows)[:, None], c.alpha[:, None])
    return Span(c.alpha, atoms, c.sigma)


def lifted(
    gram: Gram, source: Source, x: Tensor, t: Tensor, path: Path = LINEAR
) -> tuple[Span, Tensor]:
    """Any samples x [b, *shape] at times t [b], such as a model's, and their projections [b, n].

    What is left of x without α m takes the place of the noise.
    """
    alpha = path.coefficients(t.to(gram.device)).alpha
    rest = x.double() - expand(alpha, x) * gram.frame.centre.reshape(source.shape).to(x.device)
    start = at_noise(gram, len(x))
    return start._replace(centre=alpha), project(gram, source, rest)


def posterior(
    gram: Gram, point: Span, projections: Tensor, t: Tensor, path: Path = LINEAR
) -> Votes:
    """Who votes at points with noise of these projections [b, n] at times t [b] < 1."""
    c = path.coefficients(t.to(gram.device))
    if (c.sigma <= 0).any():
        raise ValueError("the oracle's velocity is 0 / 0 at t = 1; ask for it at t < 1")
    return _votes(gram, point, projections, c)


def _votes(gram: Gram, point: Span, projections: Tensor, c: Coefficients) -> Votes:
    seen = gram.gathered(point.atoms) @ gram.products
    seen.addcmul_(point.noise[:, None], projections)
    seen.addcmul_((point.centre - c.alpha)[:, None], gram.along)
    seen.addcmul_(c.alpha[:, None], gram.gains, value=-1)
    seen *= (c.alpha / c.sigma**2)[:, None]
    sums = gram.summed(seen)
    leaders = (sums.total + gram.log_weights).argmax(1)
    weight = gram.log_weights - gram.log_weights[leaders][:, None]
    return votes_of(sums.apart(leaders) + weight)


def votes_of(logits: Tensor) -> Votes:
    """The votes that logits float64 [b, n] stand for."""
    peak, leaders = logits.max(1)
    relative = (logits - peak[:, None]).clamp_(min=FAINT)
    weights = torch.threshold_(relative.exp(), 1.1 * torch.tensor(FAINT).double().exp().item(), 0)
    mass = weights.sum(1)
    entropy = (mass.log() - torch.linalg.vecdot(weights, relative) / mass).clamp_(min=0)
    weights /= mass[:, None]
    return Votes(weights, leaders, 1 / mass, entropy, weights.square().sum(1))


def velocity(point: Span, votes: Votes, c: Coefficients) -> Span:
    """u* = α' x̂ + (σ'/σ) (x − α x̂) at points, from their votes."""
    pull = c.d_sigma / c.sigma
    atoms = (point.atoms - c.alpha[:, None] * votes.weights) * pull[:, None]
    return Span(
        c.d_alpha + (point.centre - c.alpha) * pull,
        atoms.addcmul_(c.d_alpha[:, None], votes.weights),
        point.noise * pull,
    )


def follow(
    gram: Gram,
    projections: Tensor,
    grid: Tensor,
    *,
    solver: str | Tableau = "euler",
    start: Span | None = None,
    path: Path = LINEAR,
) -> Iterator[Moment]:
    """Trajectories of the oracle along a grid, from noise of these projections [b, n].

    `start` is where they are at the grid's first time, by default the noise at t = 0. The step to
    t = 1 is an Euler step, as the velocity is 0 / 0 there.
    """
    times, table = _checked(grid), _named(solver)
    if start is None and times[0] != 0:
        raise Mistake(f"trajectories from t = {times[0]:g} need a start; see on_path and lifted")
    point = at_noise(gram, len(projections)) if start is None else start
    return _moments(gram, point, projections, times, table, path)


@torch.no_grad()
def _moments(
    gram: Gram, point: Span, projections: Tensor, times: list[float], table: Tableau, path: Path
) -> Iterator[Moment]:
    def asked(point: Span, t: float) -> tuple[Votes, Span]:
        c = path.coefficients(torch.full_like(point.noise, t))
        votes = _votes(gram, point, projections, c)
        return votes, velocity(point, votes, c)

    for t, s in pairwise(times):
        votes, slope = asked(point, t)
        yield Moment(t, point, votes, slope)
        slopes, steps = [slope], EULER if s == 1 else table
        for node, row in zip(steps.nodes[1:], steps.rows[1:], strict=True):
            slopes.append(asked(moved(point, slopes, row, s - t), t + node * (s - t))[1])
        point = moved(point, slopes, steps.weights, s - t)
    yield Moment(times[-1], point, None, None)


def moved(point: Span, slopes: Sequence[Span], weights: Sequence[float], h: float) -> Span:
    """The points x + h Σ weight · slope."""
    for slope, weight in zip(slopes, weights, strict=True):
        if weight:
            point = Span(*(x + h * weight * v for x, v in zip(point, slope, strict=True)))
    return point


def landed(
    gram: Gram,
    projections: Tensor,
    grid: Tensor,
    *,
    solver: str | Tableau = "euler",
    start: Span | None = None,
    path: Path = LINEAR,
) -> Landed:
    """Where trajectories end that are followed to the end of the grid; see `follow`."""
    *_, last, end = follow(gram, projections, grid, solver=solver, start=start, path=path)
    assert last.votes is not None
    return Landed(gram.frame.rows[last.votes.leaders.cpu()], last.votes.top, end.point)


def points(gram: Gram, source: Source, span: Span, noise: Tensor | None = None) -> Tensor:
    """The points, or velocities, that coefficients stand for, float64 [b, *shape].

    The noise [b, *shape] may be left out where it has no share left, as at t = 1.
    """
    found = combined(gram, source, gram.gathered(span.atoms))
    found += expand(span.centre.cpu(), found) * gram.frame.centre.reshape(source.shape)
    if noise is not None:
        found += expand(span.noise.cpu(), found) * noise.cpu().double()
    elif (span.noise.abs() > FORGOTTEN).any():
        raise Mistake("these points still contain noise; give the noise they started from")
    return found


def _named(solver: str | Tableau) -> Tableau:
    if not isinstance(solver, str):
        return solver
    if solver not in TABLES:
        raise Mistake(f"unknown solver {solver!r}; {suggestion(solver, TABLES)}")
    return TABLES[solver]


def _checked(grid: Tensor) -> list[float]:
    times = checked_times(grid)
    if times.ndim != 1 or len(times) < 2 or (times.diff() <= 0).any():
        raise Mistake(f"a grid is [steps + 1] and increases, got {times.tolist()[:5]}")
    return times.tolist()
