"""Noise-to-data paths and every conversion between what a network may predict.

A path carries noise (t = 0) to data (t = 1):

    x_t      = α(t) data + σ(t) noise
    velocity = α'(t) data + σ'(t) noise          (Lipman et al. 2023, Eq. 4 and 5 of the paper)
    score    = −noise / σ(t)

Each of the four quantities is a row (a, b) in a · data + b · noise. Knowing x_t and one of them is
a 2×2 linear system; `convert` solves it once for all sixteen pairs.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor

Quantity = Literal["data", "noise", "velocity", "score"]
QUANTITIES: tuple[Quantity, ...] = ("data", "noise", "velocity", "score")


class Coefficients(NamedTuple):
    """α, σ and their time derivatives α', σ' at times t; each float64 [b]."""

    alpha: Tensor
    sigma: Tensor
    d_alpha: Tensor
    d_sigma: Tensor

    @property
    def signal_to_noise(self) -> Tensor:
        """The signal-to-noise ratio r = α/σ; infinite where σ = 0."""
        return self.alpha / self.sigma

    @property
    def amplification(self) -> Tensor:
        """A = α' − α σ'/σ: an error of the posterior mean is an error A times as large of u*."""
        return self.d_alpha - self.alpha * self.d_sigma / self.sigma

    @property
    def contraction(self) -> Tensor:
        """B = σ'/σ: what multiplies x in u* = A x̂ + B x."""
        return self.d_sigma / self.sigma

    def of(self, rows: Tensor) -> Coefficients:
        """The coefficients at some of the times, by indices or a mask."""
        return Coefficients(*(values[rows] for values in self))

    def velocity(self, x: Tensor, mean: Tensor) -> Tensor:
        """u* = α' x̂ + B (x − α x̂) from x and the posterior mean x̂, float64 [b, *shape] each.

        In this form, and not as A x̂ + B x, because near the data A x̂ and B x cancel: both grow as
        1/σ while x − α x̂ shrinks as σ.
        """
        pull = (x - expand(self.alpha, x) * mean) * expand(self.contraction, x)
        return expand(self.d_alpha, x) * mean + pull


@dataclass(frozen=True)
class ProbabilityPath:
    """How noise becomes data: α rises from 0 to 1, σ falls from 1 to 0.

    `alpha` and `sigma` are functions of a float64 tensor of times. Derivatives that are not given
    are taken by automatic differentiation.
    """

    name: str
    alpha: Callable[[Tensor], Tensor]
    sigma: Callable[[Tensor], Tensor]
    d_alpha: Callable[[Tensor], Tensor] | None = None
    d_sigma: Callable[[Tensor], Tensor] | None = None

    def __reduce__(self) -> tuple[Any, ...]:
        """A path of this module is pickled by its name, since its functions have none."""
        if PATHS.get(self.name) is self:
            return _path_named, (self.name,)
        return ProbabilityPath, (self.name, self.alpha, self.sigma, self.d_alpha, self.d_sigma)

    def coefficients(self, t: Tensor) -> Coefficients:
        """α, σ, α', σ' at times t [b] in [0, 1], in float64."""
        t = check_times(t)
        return Coefficients(
            self.alpha(t),
            self.sigma(t),
            (self.d_alpha or derivative(self.alpha))(t),
            (self.d_sigma or derivative(self.sigma))(t),
        )

    def sample(self, data: Tensor, noise: Tensor, t: Tensor) -> Tensor:
        """The noisy sample x_t at times t [b]; data, noise and result are [b, *shape]."""
        c = self.coefficients(t)
        return interpolate(c.alpha, data, c.sigma, noise)

    def velocity(self, data: Tensor, noise: Tensor, t: Tensor) -> Tensor:
        """The training target at times t [b]; data, noise and result are [b, *shape]."""
        c = self.coefficients(t)
        infinite = ~(c.d_alpha.isfinite() & c.d_sigma.isfinite())
        if infinite.any():
            raise ValueError(
                f"the velocity of the {self.name} path is infinite at t = {_first(t, infinite):g};"
                f" draw times that leave it out"
            )
        return interpolate(c.d_alpha, data, c.d_sigma, noise)

    def row(self, quantity: Quantity, t: Tensor) -> tuple[Tensor, Tensor]:
        """The pair (a, b), each [b], with quantity = a · data + b · noise."""
        c = self.coefficients(t)
        ones, zeros = torch.ones_like(c.alpha), torch.zeros_like(c.alpha)
        match quantity:
            case "data":
                return ones, zeros
            case "noise":
                return zeros, ones
            case "velocity":
                return c.d_alpha, c.d_sigma
            case "score":
                return zeros, -1 / c.sigma
        raise ValueError(f"unknown quantity {quantity!r}; one of {', '.join(QUANTITIES)}")


def interpolate(a: Tensor, first: Tensor, b: Tensor, second: Tensor) -> Tensor:
    """The sum a · first + b · second per sample, in float64, returned as `first`'s type."""
    a, b = expand(a, first), expand(b, second)
    return (a * first.double() + b * second.double()).to(first.dtype)


def expand(values: Tensor, like: Tensor) -> Tensor:
    """Values [b] shaped to multiply samples [b, *shape], on their device."""
    return values.to(like.device).reshape(-1, *[1] * (like.ndim - 1))


def check_times(t: Tensor) -> Tensor:
    """Times in float64, refused outside [0, 1]."""
    t = torch.as_tensor(t).to(torch.float64)
    outside = ~((t >= 0) & (t <= 1))  # NaN as well
    if outside.any():
        raise ValueError(
            f"t must lie in [0, 1], got {_first(t, outside):g}; t = 0 is noise, t = 1 is data"
        )
    return t


def _first(t: Tensor, mask: Tensor) -> float:
    return torch.as_tensor(t, dtype=torch.float64)[mask].flatten()[0].item()


def derivative(function: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
    """The derivative of an elementwise function of time."""

    def differentiated(t: Tensor) -> Tensor:
        with torch.inference_mode(False), torch.enable_grad():
            times = t.detach().clone().requires_grad_()
            values = function(times)
            if not values.requires_grad:
                return torch.zeros_like(t)
            (slope,) = torch.autograd.grad(values.sum(), times)
        return slope.detach()

    return differentiated


def convert(
    value: Tensor,
    x: Tensor,
    t: Tensor,
    *,
    source: Quantity,
    target: Quantity,
    path: ProbabilityPath,
) -> Tensor:
    """Turn a prediction of `source` at (x, t) into the `target` it implies.

    `value`, `x` and the result are [b, *shape]; t is [b]. Where the two are not determined by each
    other (the velocity from the data at t = 1, say) a ValueError says so.
    """
    if source == target:
        return value
    c = path.coefficients(t)
    # x = α data + σ noise and value = a data + b noise, solved for target = p data + q noise:
    # target = ((p b − q a) x + (α q − σ p) value) / (α b − σ a).
    a, b = path.row(source, t)
    p, q = path.row(target, t)
    determinant = c.alpha * b - c.sigma * a
    from_x = (p * b - q * a) / determinant
    from_value = (c.alpha * q - c.sigma * p) / determinant
    singular = ~(from_x.isfinite() & from_value.isfinite())
    if singular.any():
        raise ValueError(
            f"{target} does not follow from {source} at t = {_first(t, singular):g} on the"
            f" {path.name} path; keep off that end"
        )
    return interpolate(from_value, value, from_x, x)


LINEAR = ProbabilityPath(
    "linear", lambda t: t, lambda t: 1 - t, torch.ones_like, lambda t: -torch.ones_like(t)
)
"""Rectified flow: α = t, σ = 1 − t (Liu et al. 2023); the path of the paper."""

TRIGONOMETRIC = ProbabilityPath(
    "trigonometric",
    lambda t: torch.sin(math.pi / 2 * t),
    lambda t: torch.sin(math.pi / 2 * (1 - t)),
    lambda t: math.pi / 2 * torch.sin(math.pi / 2 * (1 - t)),
    lambda t: -math.pi / 2 * torch.sin(math.pi / 2 * t),
)
"""α = sin(πt/2), σ = cos(πt/2), which is sin(π(1−t)/2) and 0 at t = 1 also when rounded.

Albergo & Vanden-Eijnden 2023; GVP in SiT.
"""

_OFFSET = 0.008  # s of Nichol & Dhariwal: the least noise is a little below the bin of a pixel
_QUARTER = math.pi / 2 / (1 + _OFFSET)
_END = math.cos(_QUARTER * _OFFSET)


def _angle(t: Tensor) -> Tensor:
    return _QUARTER * (1 - t + _OFFSET)


def _cosine_alpha(t: Tensor) -> Tensor:
    return torch.where(t == 0, 0.0, torch.cos(_angle(t)) / _END)


def _cosine_sigma(t: Tensor) -> Tensor:
    # σ² = 1 − α² ∝ cos² e − cos² a = sin(a + e) sin(a − e), which does not cancel near the data
    product = torch.sin(_angle(t) + _QUARTER * _OFFSET) * torch.sin(_QUARTER * (1 - t))
    return torch.where(t == 0, 1.0, product.sqrt() / _END)


def _cosine_d_alpha(t: Tensor) -> Tensor:
    return _QUARTER * torch.sin(_angle(t)) / _END


def _cosine_d_sigma(t: Tensor) -> Tensor:
    return -_cosine_alpha(t) * _cosine_d_alpha(t) / _cosine_sigma(t)


COSINE = ProbabilityPath("cosine", _cosine_alpha, _cosine_sigma, _cosine_d_alpha, _cosine_d_sigma)
"""The variance-preserving cosine schedule, α² = ᾱ(1 − t) (Nichol & Dhariwal 2021, Eq. 17).

σ falls as √(1 − t) near the data, so at t = 1 the velocity is infinite, and refused.
"""


def _path_named(name: str) -> ProbabilityPath:
    return PATHS[name]


PATHS = {path.name: path for path in (LINEAR, COSINE, TRIGONOMETRIC)}
