"""Whether a prediction is off by a constant factor, such as the scale of a loss.

A velocity is linear in the prediction: with k times the prediction it is v₀ + k A, where v₀ is
that of a prediction of 0. The right velocity regresses the target c = data − noise on x_t, so its
error is orthogonal to every function z of x_t, and with z = x_t less its mean

    E⟨c − v₀ − k A, z⟩ = 0        gives        k = E⟨c − v₀, z⟩ / E⟨A, z⟩

at every time. k is 1 for the right scale. The error of a network is nearly orthogonal to x_t, so
that it hardly moves k; least squares of c on A would count it as a factor below 1.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import NamedTuple

import torch
from torch import Tensor

from floracle.core.fields import TranslatedField, VelocityField, evaluate

from .field import ModelField

MIN_DEVIATION = 0.05
"""The least deviation of k from 1 that is a factor; networks of other people are within .02."""
MAX_ERROR = 0.01  # of k at a time that is looked at
SIGNIFICANT_ERRORS = 5.0  # standard errors of k


class Factor(NamedTuple):
    """The factor by which a prediction has to be multiplied."""

    value: float
    loss: Tensor
    """What is then left unexplained of each pair, float64 [n]."""

    @property
    def words(self) -> str:
        """The reading in words for people."""
        return f"{self.value:.3g} times the prediction"


def fit_factor(
    field: VelocityField,
    data: Tensor,
    noise: Tensor,
    labels: Tensor | None,
    *,
    times: Sequence[float],
) -> Factor | None:
    """The factor k of the prediction; None where it is 1, or cannot be told."""
    c = (data - noise).double().flatten(1)  # [n, D]
    scale = c.var(dim=0).sum().clamp(min=1e-30)
    nothing = zero_prediction(field)
    values, errors, squares = [], [], []
    for time in times:
        t = torch.full((len(data),), time, dtype=torch.float64)
        x = time * data + (1 - time) * noise
        v0 = evaluate(nothing, x, t, labels).double().flatten(1)
        rest = c - v0
        a = evaluate(field, x, t, labels).double().flatten(1) - v0  # A, [n, D]
        z = (x - x.mean(0)).double().flatten(1)
        value, error = moment_ratio((rest * z).sum(1), (a * z).sum(1))
        values.append(value)
        errors.append(error)
        # ‖c − v₀ − k A‖² of each pair, as coefficients of k² and k
        squares.append(torch.stack([a.square().sum(1), (a * rest).sum(1), rest.square().sum(1)]))
    value = common_factor(torch.stack(values), torch.stack(errors))
    if value is None:
        return None
    square, product, rest = torch.stack(squares).mean(0)  # [n] each
    return Factor(value, (rest - 2 * value * product + value**2 * square) / scale)


def zero_prediction(field: VelocityField) -> VelocityField:
    """The field whose model predicts 0; of a field that is no translation, the velocity 0."""
    if isinstance(field, ModelField):
        field = field.translated
    if isinstance(field, TranslatedField):
        convention = replace(field.convention, null_label=None)
        return TranslatedField(_zeros, convention)
    return _zeros


def _zeros(x: Tensor, t: Tensor, labels: Tensor | None = None) -> Tensor:
    return torch.zeros_like(x)


def moment_ratio(numerator: Tensor, denominator: Tensor) -> tuple[Tensor, Tensor]:
    """The ratio of two sums over pairs [n], and its standard error."""
    ratio = numerator.sum() / denominator.sum()
    rest = numerator - ratio * denominator
    return ratio, (rest.square().sum().sqrt() / denominator.sum()).abs()


def common_factor(values: Tensor, errors: Tensor) -> float | None:
    """The mean of factors [T] that are off 1 on the same side wherever they are known; or None."""
    known = errors < MAX_ERROR  # False for NaN
    if not known.any():
        return None
    values, errors = values[known], errors[known]
    off = values - 1
    limit = torch.maximum(SIGNIFICANT_ERRORS * errors, torch.full_like(errors, MIN_DEVIATION))
    if not bool((off > limit).all()) and not bool((off < -limit).all()):
        return None
    weights = errors.clamp(min=1e-6) ** -2
    return float((weights * values).sum() / weights.sum())


def noise_factor(velocity: Tensor, noise: Tensor) -> float | None:
    """The factor of a velocity [n, *shape] at t = 0, where E data − noise is right; None for 1."""
    z = (noise - noise.mean(0)).double().flatten(1)
    value, error = moment_ratio(-z.square().sum(1), (velocity.double().flatten(1) * z).sum(1))
    return common_factor(value[None], error[None])
