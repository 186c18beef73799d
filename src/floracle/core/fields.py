"""Velocity fields: the one noun of this library.

Everything that moves samples is a `VelocityField`, a function (x, t, labels) -> velocity in our
clock and on the linear path: the oracle, a network, guidance around a network. `as_field` is the
one place where foreign clocks, signs, predictions and paths are translated.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor

from .clock import OURS, Clock
from .paths import LINEAR, ProbabilityPath, Quantity, check_times, convert, expand, interpolate
from .point_set import NO_LABEL


@runtime_checkable
class VelocityField(Protocol):
    """Anything that says where samples move."""

    def __call__(self, x: Tensor, t: Tensor, labels: Tensor | None = None) -> Tensor:
        """The velocity [b, *shape] at samples x [b, *shape], times t [b], labels int64 [b]."""
        ...


@dataclass(frozen=True)
class TranslatedField:
    """A foreign model seen as a velocity field; made by `as_field`."""

    model: Callable[..., Tensor]
    predicts: Quantity
    clock: Clock
    path: ProbabilityPath
    null: int | None

    def __call__(self, x: Tensor, t: Tensor, labels: Tensor | None = None) -> Tensor:
        """The velocity in our clock, on the linear path."""
        s = foreign_time(self.path, t)
        c = self.path.coefficients(s)
        state = (x.double() * expand(c.alpha + c.sigma, x)).to(x.dtype)
        prediction = self.model(state, self.reading(s, x), *self.labels_for(labels, x))
        if self.predicts == "velocity" and not self.clock.forward:
            prediction = -prediction
        if self.path == LINEAR:
            return convert(prediction, x, s, source=self.predicts, target="velocity", path=LINEAR)
        known = {"source": self.predicts, "path": self.path}
        return convert(prediction, state, s, target="data", **known) - convert(
            prediction, state, s, target="noise", **known
        )

    def reading(self, s: Tensor, x: Tensor) -> Tensor:
        """The time as the model expects it: as precise as the samples, and float32 at least."""
        precise = torch.promote_types(x.dtype, torch.float32)
        return self.clock.reading(s).to(x.device, precise)

    def labels_for(self, labels: Tensor | None, x: Tensor) -> tuple[Tensor, ...]:
        """Our labels with −1 replaced by the model's own null label."""
        if self.null is None:
            return () if labels is None else (labels,)
        if labels is None:
            labels = torch.full((len(x),), NO_LABEL, device=x.device)
        return (torch.where(labels == NO_LABEL, self.null, labels),)


def as_field(
    model: Callable[..., Tensor],
    *,
    predicts: Quantity = "velocity",
    clock: Clock = OURS,
    path: ProbabilityPath = LINEAR,
    null: int | None = None,
) -> VelocityField:
    """See a model as a velocity field, whatever its clock, prediction and path.

    `model(x, time, labels)` is called with times as its `clock` reads them. A predicted velocity
    is the change along the model's own clock, over its whole run; on a clock that runs from data
    to noise its sign is turned. On another `path` the state is rescaled, t = α / (α + σ) and
    x / (α + σ). `null` is the model's label for "no label"; without one, labels are passed on as
    they are.
    """
    return TranslatedField(model, predicts, clock, path, null)


@dataclass(frozen=True)
class FieldOnPath:
    """A velocity field seen on another path than the linear one; made by `on_path`."""

    field: VelocityField
    path: ProbabilityPath

    def __call__(self, x: Tensor, t: Tensor, labels: Tensor | None = None) -> Tensor:
        """The velocity α′ x̂ + σ′ ε̂ in the path's own time, at states α x + σ ε."""
        c = self.path.coefficients(t)
        total = c.alpha + c.sigma
        share = c.alpha / total  # the time of the linear path with the same α / σ
        state = x.double() / expand(total, x)
        velocity = self.field(state.to(x.dtype), share.to(t.device), labels).double()
        data = state + expand(1 - share, x) * velocity
        noise = state - expand(share, x) * velocity
        return interpolate(c.d_alpha, data, c.d_sigma, noise).to(x.dtype)


def on_path(field: VelocityField, path: ProbabilityPath) -> VelocityField:
    """See a field of the linear path, as all networks are, on another path and in its time.

    The reverse of `as_field`: states are x (α + σ), times those of equal α / (α + σ).
    """
    return field if path == LINEAR else FieldOnPath(field, path)


def foreign_time(path: ProbabilityPath, t: Tensor, *, halvings: int = 60) -> Tensor:
    """The time s of `path` whose signal share α / (α + σ) is t; by bisection, float64 [b]."""
    t = check_times(t)
    if path == LINEAR:
        return t
    low, high = torch.zeros_like(t), torch.ones_like(t)
    for _ in range(halvings):
        middle = (low + high) / 2
        alpha, sigma = path.alpha(middle), path.sigma(middle)
        early = alpha / (alpha + sigma) < t
        low, high = torch.where(early, middle, low), torch.where(early, high, middle)
    inside = (t > 0) & (t < 1)  # the ends are ends on every path, exactly
    return torch.where(inside, (low + high) / 2, t)
