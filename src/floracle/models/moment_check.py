"""The factor of a field's prediction by time, which is 1 where the field is read rightly.

A velocity is linear in the prediction: with k times the prediction it is v₀ + k A, where v₀ is
that of a prediction of 0. The right velocity regresses the target c = data − noise on x_t, so its
error is orthogonal to every function z of x_t, and with z = x_t less its mean

    E⟨c − v₀ − k A, z⟩ = 0        gives        k = E⟨c − v₀, z⟩ / E⟨A, z⟩

at every time. k is 1 for the right reading. It is the same factor at all times where a prediction
is off by one, and differs from time to time where the path or the noise scale is another. The
error of a network is nearly orthogonal to x_t, so that it hardly moves k; a loss, by contrast, is
often the smaller for a velocity that is too small.
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
"""The least deviation of k from 1 that counts: a network of other people is .04 off."""
MAX_ERROR = 0.04  # of k at a time that is looked at
MAX_ERROR_RATIO = 10.0
"""To the least error of all times: where k is known much worse, the network itself errs."""
LEAST_ERROR = 0.0015  # for that ratio: near the data an exact field has k to four digits
ERROR_FLOOR = 0.005  # so that one time does not decide alone
SIGNIFICANT_ERRORS = 5.0
AGREEING_ERRORS = 2.0


class Moments(NamedTuple):
    """The factor k by time, and what a field leaves unexplained as a function of a factor."""

    values: Tensor
    """k, float64 [T]."""
    errors: Tensor
    """Its standard errors, float64 [T]."""
    loss_terms: Tensor
    """Coefficients of k², k and 1 in the loss of each pair, a share of Var c; float64 [3, n]."""

    @property
    def known(self) -> Tensor:
        """The times at which k is known, bool [T]."""
        least = self.errors.nan_to_num(nan=torch.inf).min().clamp(min=LEAST_ERROR)
        return (self.errors < MAX_ERROR) & (self.errors <= MAX_ERROR_RATIO * least)

    def deviates(self, errors: float = SIGNIFICANT_ERRORS, least: float = MIN_DEVIATION) -> bool:
        """Whether k differs from 1 at a time, by so many errors and by `least`."""
        return bool((self._off().abs() > (errors * self._error()).clamp(min=least)).any())

    def agrees(self) -> bool:
        """Whether k may be 1 at all times, and is known at one."""
        limit = MIN_DEVIATION + AGREEING_ERRORS * self._error()
        return bool(self.known.any()) and bool((self._off().abs() < limit).all())

    def factor(self) -> float | None:
        """The k that all times agree on, if it is not 1; None where there is no such factor."""
        off, error = self._off(), self._error()
        if not len(off):
            return None
        weights = error**-2
        mean = float((weights * off).sum() / weights.sum())
        significant = abs(mean) > max(
            MIN_DEVIATION, SIGNIFICANT_ERRORS * float(weights.sum() ** -0.5)
        )
        # no time speaks for 1, nor for a factor on the other side of it
        limit = MIN_DEVIATION - AGREEING_ERRORS * error
        sign = 1 if mean > 0 else -1
        return 1 + mean if significant and bool((sign * off > limit).all()) else None

    def loss(self, factor: float) -> Tensor:
        """What is left unexplained of each pair with so many times the prediction, float64 [n]."""
        square, product, rest = self.loss_terms
        return rest - 2 * factor * product + factor**2 * square

    def _off(self) -> Tensor:
        return self.values[self.known] - 1

    def _error(self) -> Tensor:
        return self.errors[self.known].clamp(min=ERROR_FLOOR)


def measure_moments(
    field: VelocityField,
    data: Tensor,
    noise: Tensor,
    labels: Tensor | None,
    *,
    times: Sequence[float],
) -> Moments:
    """The factor k of a field's prediction by time, on pairs of data and noise [n, *shape]."""
    c = (data - noise).double().flatten(1)  # [n, D]
    without = zero_prediction(field)
    values, errors, terms = [], [], []
    for time in times:
        t = torch.full((len(data),), time, dtype=torch.float64)
        x = time * data + (1 - time) * noise
        v0 = evaluate(without, x, t, labels).double().flatten(1)
        rest = c - v0
        a = evaluate(field, x, t, labels).double().flatten(1) - v0  # A, [n, D]
        z = _centred(x.double().flatten(1))
        # z has the mean 0, so that means of the others add to the error alone
        value, error = moment_ratio((_centred(rest) * z).sum(1), (_centred(a) * z).sum(1))
        values.append(value)
        errors.append(error)
        # ‖c − v₀ − k A‖² of each pair
        terms.append(torch.stack([a.square().sum(1), (a * rest).sum(1), rest.square().sum(1)]))
    scale = c.var(dim=0).sum().clamp(min=1e-30)
    return Moments(torch.stack(values), torch.stack(errors), torch.stack(terms).mean(0) / scale)


def measure_at_noise(velocity: Tensor, noise: Tensor) -> Moments:
    """The same at t = 0, from the velocity [n, *shape] alone: the target is a constant − noise."""
    z, v = _centred(noise.double().flatten(1)), _centred(velocity.double().flatten(1))
    value, error = moment_ratio(-z.square().sum(1), (v * z).sum(1))
    return Moments(value[None], error[None], torch.zeros(3, len(noise)))


def _centred(values: Tensor) -> Tensor:
    return values - values.mean(0)


def moment_ratio(numerator: Tensor, denominator: Tensor) -> tuple[Tensor, Tensor]:
    """The ratio of two sums over pairs [n], and its standard error."""
    ratio = numerator.sum() / denominator.sum()
    rest = numerator - ratio * denominator
    return ratio, (rest.square().sum().sqrt() / denominator.sum()).abs()


def zero_prediction(field: VelocityField) -> VelocityField:
    """The field whose model predicts 0; of a field that is no translation, the velocity 0."""
    if isinstance(field, ModelField):
        field = field.translated
    if isinstance(field, TranslatedField):
        return TranslatedField(_zeros, replace(field.convention, null_label=None))
    return _zeros


def _zeros(x: Tensor, t: Tensor, labels: Tensor | None = None) -> Tensor:
    return torch.zeros_like(x)
