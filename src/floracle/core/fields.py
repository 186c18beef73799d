"""Velocity fields, and the translation of other projects' models into them.

Everything that moves samples is a `VelocityField`, a function (x, t, labels) -> velocity in our
time and on the linear path: the oracle, a network, guidance around a network. A `Convention` says
what a model predicts, how it counts time and which label means none; `as_field` translates it.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable
from dataclasses import dataclass, replace
from numbers import Real
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor

from .paths import (
    LINEAR,
    QUANTITIES,
    ProbabilityPath,
    Quantity,
    check_times,
    convert,
    expand,
    interpolate,
)
from .point_set import NO_LABEL
from .signatures import call_problem, takes_labels, takes_too_few

FIRST_TIME = 1e-3
"""The time at which a field starts whose prediction says nothing of the data at t = 0.

That of SiT's sampler. An error of the predicted noise is an error 1 / t as large of the velocity.
"""


@runtime_checkable
class VelocityField(Protocol):
    """A function that gives the velocity of samples."""

    def __call__(self, x: Tensor, t: Tensor, labels: Tensor | None = None) -> Tensor:
        """The velocity [b, *shape] at samples x [b, *shape], times t [b], labels int64 [b]."""
        ...


def evaluate(field: VelocityField, x: Tensor, t: Tensor, labels: Tensor | None = None) -> Tensor:
    """What a field answers; it gets copies, and so does the caller.

    Foreign code may write into its arguments, or return a buffer that its next call overwrites.
    """
    velocity = field(x.clone(), t.clone(), None if labels is None else labels.clone())
    return velocity.clone() if isinstance(velocity, Tensor) else velocity


def name_of(field: object) -> str:
    """The name of a field, or of the field inside that is guided or seen on another path."""
    while not isinstance(name := getattr(field, "name", None), str) and hasattr(field, "field"):
        field = getattr(field, "field", None)
    return name if isinstance(name, str) else "the field"


@dataclass(frozen=True)
class Convention:
    """What a model predicts, how it counts time, and which label it takes for none.

    Its times are linear in ours. noise_time=1000, data_time=0 is the timestep that diffusers
    passes to SD3; noise_time=1, data_time=0 the σ of Flux and REPA.
    """

    predicts: Quantity = "velocity"
    """A velocity is the change of x while time runs once from its lower to its higher end: with
    noise_time=1, data_time=0 it is noise − data on the linear path."""
    noise_time: float = 0.0
    data_time: float = 1.0
    null_label: int | None = None
    """The model's label for "no label"; None where it has none."""
    path: ProbabilityPath = LINEAR
    sign: int = 1
    """−1 where the model predicts the negative of what the other fields say."""
    noise_scale: float = 1.0
    """The deviation s of the noise that the model was trained with, x = α data + σ s ε. Its
    velocity and score are those of this x; its noise is ε, of deviation 1."""
    min_time_left: float = 0.0
    """The least 1 − t by which predicted data − x is divided: `t_eps` of JiT, whose samples stop
    short of the predicted data. 0 divides by 1 − t at all times."""

    def __post_init__(self) -> None:
        if self.predicts not in QUANTITIES:
            names = ", ".join(QUANTITIES)
            raise ValueError(f"predicts must be one of {names}, got {self.predicts!r}")
        if self.sign not in (1, -1):
            raise ValueError(f"sign must be 1 or -1, got {self.sign}")
        for name in ("noise_time", "data_time", "noise_scale", "min_time_left"):
            if not isinstance(getattr(self, name), Real):
                raise ValueError(f"{name} must be a number, got {getattr(self, name)!r}")
        if not 0 < self.noise_scale < math.inf:
            raise ValueError(f"noise_scale must be positive, got {self.noise_scale:g}")
        if not 0 <= self.min_time_left < 1:
            raise ValueError(f"min_time_left must lie in [0, 1), got {self.min_time_left:g}")
        if self.min_time_left and (self.predicts != "data" or self.path != LINEAR):
            raise ValueError("min_time_left is for predicts=data on the linear path")
        ends = (self.noise_time, self.data_time)
        if not all(map(math.isfinite, ends)) or self.noise_time == self.data_time:
            raise ValueError(
                f"noise_time and data_time must be finite and differ, got {ends[0]:g} and"
                f" {ends[1]:g}; noise_time=0, data_time=1 is the time of this library"
            )

    @property
    def towards_data(self) -> bool:
        """Whether its times grow from noise to data, as ours do."""
        return self.data_time > self.noise_time

    def from_t(self, t: Tensor) -> Tensor:
        """The model's times at our times t."""
        return self.noise_time + (self.data_time - self.noise_time) * t

    def to_t(self, time: Tensor) -> Tensor:
        """Our times t at the model's times."""
        return (time - self.noise_time) / (self.data_time - self.noise_time)

    @property
    def scaled_path(self) -> ProbabilityPath:
        """The path of the model's own states, α data + s σ noise."""
        path, scale = self.path, self.noise_scale
        if scale == 1:
            return path
        d_sigma = path.d_sigma
        return ProbabilityPath(
            path.name,
            path.alpha,
            lambda t: scale * path.sigma(t),
            path.d_alpha,
            None if d_sigma is None else lambda t: scale * d_sigma(t),
        )

    @property
    def first_time(self) -> float:
        """The least t at which a velocity follows from a prediction: 0, or .001 for the noise."""
        zero = torch.zeros(1, dtype=torch.float64)
        c, (a, b) = self.path.coefficients(zero), self.path.row(self.predicts, zero)
        # x = α data + σ noise and prediction = a data + b noise are one equation at determinant 0.
        return FIRST_TIME if (c.alpha * b - c.sigma * a).item() == 0 else 0.0


def with_fields(convention: Convention, **fields: Any) -> Convention:
    """The convention with other fields; `clock` and `null` of version 0.1 work until 0.3."""
    if "clock" in fields:
        clock = fields.pop("clock")
        ends = (clock.noise_time, clock.data_time) if isinstance(clock, Convention) else clock
        fields["noise_time"], fields["data_time"] = map(float, ends)
        _warn_renamed(f"clock= is now noise_time={ends[0]:g}, data_time={ends[1]:g}")
    if "null" in fields:
        fields["null_label"] = fields.pop("null")
        _warn_renamed("null= is now null_label=")
    return replace(convention, **fields)


def _warn_renamed(message: str) -> None:
    warnings.warn(f"{message}; the old word ends with 0.3", FutureWarning, stacklevel=4)


def clock(noise: float = 0.0, data: float = 1.0) -> Convention:
    """`floracle.Clock` of version 0.1, until 0.3: the convention with these times."""
    return Convention(noise_time=noise, data_time=data)


@dataclass(frozen=True)
class TranslatedField:
    """A model seen as a velocity field through its convention; made by `as_field`."""

    model: Callable[..., Tensor]
    convention: Convention

    def __call__(self, x: Tensor, t: Tensor, labels: Tensor | None = None) -> Tensor:
        """The velocity [b, *shape] in our time, on the linear path.

        Before the convention's `first_time` it leads to the data that is predicted there.
        """
        predicts, path = self.convention.predicts, self.convention.scaled_path
        t = check_times(t)
        late_enough = t.clamp(min=self.convention.first_time)  # t itself, or .001

        # 1. Our state on the model's path: both are α data + σ noise with the same ratio α / σ,
        #    so its time s solves α / (α + σ) = t, and its state is x (α + σ).
        s = path_time(path, late_enough)  # float64 [b]
        c = path.coefficients(s)
        state = (x.double() * expand(c.alpha + c.sigma, x)).to(x.dtype)

        # 2. Ask the model. A velocity along times that run to the noise points to the noise.
        prediction = self._ask(state.clone(), self.model_time(s, x), self.model_labels(labels, x))
        against = predicts == "velocity" and not self.convention.towards_data
        if (self.convention.sign == -1) != against:
            prediction = -prediction
        if self.convention.min_time_left:
            # x + ratio (x̂ − x): its velocity is (x̂ − x) / max(1 − s, least).
            ratio = (1 - s) / (1 - s).clamp(min=self.convention.min_time_left)
            prediction = interpolate(ratio, prediction, 1 - ratio, state)

        # 3. The velocity of the linear path is data − noise, and both follow from (s, prediction).
        if path == LINEAR:
            velocity = convert(prediction, x, s, source=predicts, target="velocity", path=LINEAR)
        else:
            data, noise = (
                convert(prediction, state, s, source=predicts, target=target, path=path)
                for target in ("data", "noise")
            )
            velocity = data - noise
        early = late_enough > t
        if early.any():  # x̂ = x + (1 − .001) v, and (x̂ − x) / (1 − t) leads there from t
            velocity = velocity * expand((1 - late_enough) / (1 - t), x).to(velocity.dtype)
        return velocity

    def _ask(self, state: Tensor, time: Tensor, labels: tuple[Tensor, ...]) -> Tensor:
        """The model's prediction [b, *shape]; refused if it is of another kind."""
        prediction = self.model(state, time, *labels)
        if not isinstance(prediction, Tensor) or prediction.shape != state.shape:
            got = list(prediction.shape) if isinstance(prediction, Tensor) else type(prediction)
            raise ValueError(
                f"a model returns a prediction for every number of its samples, but they are"
                f" {list(state.shape)} and it returned {got}; wrap it to return that alone"
            )
        if not prediction.is_floating_point():
            raise ValueError(f"a model predicts floating point numbers, got {prediction.dtype}")
        return prediction.to(torch.promote_types(prediction.dtype, state.dtype))

    def model_time(self, s: Tensor, x: Tensor) -> Tensor:
        """The model's time at s [b], in the type of x and float32 at least.

        1000 t in bfloat16 would be wrong by 2 steps.
        """
        precise = torch.promote_types(x.dtype, torch.float32)
        return self.convention.from_t(s).to(x.device, precise)

    def model_labels(self, labels: Tensor | None, x: Tensor) -> tuple[Tensor, ...]:
        """The labels argument of the model: −1 becomes its null label, where it has one."""
        null_label = self.convention.null_label
        if null_label is None:
            unlabelled = labels is None or bool((labels == NO_LABEL).all())
            if labels is None or (unlabelled and not takes_labels(self.model)):
                return ()
            _check_call(self.model, labelled=True)
            return (labels.clone(),)  # it may write into them
        if labels is None:
            labels = torch.full((len(x),), NO_LABEL, device=x.device)
        return (torch.where(labels == NO_LABEL, null_label, labels),)


def as_field(
    model: Callable[..., Tensor], convention: Convention | None = None, **fields: Any
) -> VelocityField:
    """See a model as a velocity field, whatever it predicts, on whatever times and path.

    Parameters
    ----------
    model
        Called as `model(x, time, labels)` with x [b, *shape] on the path of the convention, its
        times [b] and labels int64 [b]; as `model(x, time)` where there is neither a label nor a
        null label.
    convention
        What the model predicts and takes; by default the velocity data − noise at our times.
    fields
        Fields of `Convention` that differ from it, such as predicts="data", noise_time=1000,
        data_time=0.

    Raises
    ------
    ValueError
        If times do not differ, a quantity is unknown, or the names of the model's arguments are
        others; later, where the velocity does not follow from a prediction (from the data at
        t = 1, say).
    """
    if not takes_too_few(model):  # which is told at its first call
        _check_call(model, labelled=None)
    return TranslatedField(model, with_fields(convention or Convention(), **fields))


def _check_call(model: Callable[..., Tensor], *, labelled: bool | None) -> None:
    """Refuse a model whose arguments are others than x, time and labels."""
    if problem := call_problem(model, labelled=labelled):
        raise ValueError(f"the model {problem}; pass a function of x, time and labels")


@dataclass(frozen=True)
class FieldOnPath:
    """A velocity field seen on another path than the linear one; made by `on_path`."""

    field: VelocityField
    path: ProbabilityPath

    def __call__(self, x: Tensor, t: Tensor, labels: Tensor | None = None) -> Tensor:
        """The velocity α′ x̂ + σ′ ε̂ in the path's own time, at states α x + σ ε [b, *shape]."""
        c = self.path.coefficients(t)
        total = c.alpha + c.sigma  # float64 [b]
        linear_t = c.alpha / total  # the time of the linear path with the same α / σ, [b]
        state = x.double() / expand(total, x)
        given = (state.to(x.dtype), linear_t.to(t.device), labels)
        velocity = evaluate(self.field, *given).double()
        # On the linear path x̂ = x + (1 − t) v and ε̂ = x − t v.
        data = state + expand(1 - linear_t, x) * velocity
        noise = state - expand(linear_t, x) * velocity
        return interpolate(c.d_alpha, data, c.d_sigma, noise).to(x.dtype)


def on_path(field: VelocityField, path: ProbabilityPath) -> VelocityField:
    """See a field of the linear path, as all fields here are, on another path and in its time.

    The inverse of `as_field` with a path: states are x (α + σ), times those of equal α / (α + σ).
    """
    return field if path == LINEAR else FieldOnPath(field, path)


def path_time(path: ProbabilityPath, t: Tensor, *, halvings: int = 60) -> Tensor:
    """The time s of `path` whose signal share α / (α + σ) is t; float64 [b].

    By bisection, since users' paths have no inverse; 60 halvings reach the spacing of float64.
    """
    t = check_times(t)
    if path == LINEAR:
        return t
    low, high = torch.zeros_like(t), torch.ones_like(t)
    for _ in range(halvings):
        middle = (low + high) / 2
        alpha, sigma = path.alpha(middle), path.sigma(middle)
        too_early = alpha / (alpha + sigma) < t
        low, high = torch.where(too_early, middle, low), torch.where(too_early, high, middle)
    inside = (t > 0) & (t < 1)  # 0 and 1 are 0 and 1 on every path, exactly
    return torch.where(inside, (low + high) / 2, t)
