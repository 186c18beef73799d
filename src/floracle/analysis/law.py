"""The information law, and the times at which to measure so that it can be checked.

For every t the information x_t carries about which sample it came from is an area (I-MMSE):

    I(t) = ½ ∫ tr Cov(data | x_t) d(r²) = ∫₀ᵗ α/(σ²A) · gap dt,        r = α/σ,

and over all times it is H(w), log N for N equal atoms. Three quarters of the times are equally
spaced in predicted information up to 4 log N, where nearly all of the area lies; the rest reach on
to t = .9999, ever wider in log r, for neighbours much closer than the spectrum lets expect.
"""

from __future__ import annotations

import math
from dataclasses import replace

import torch
from scipy.integrate import simpson
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from .curves import Estimate, standard_error
from .prediction import Predicted

SPREAD = 4.0
"""Even times reach as far as this many times log N of predicted information."""
BEYOND = 4
"""One in so many times lies beyond."""
FARTHEST = 0.99
LAST = 0.9999


def times_for(predicted: list[Predicted], count: int) -> Tensor:
    """Times float64 [count] from 0 to .9999 that suit all of these classes."""
    collapses, stops = _reached(predicted, 1.0), _reached(predicted, SPREAD)
    usual, stop = predicted[int(collapses.argmin())], float(stops.max())
    reach = usual.information(torch.tensor([min(stop, FARTHEST)], dtype=torch.float64))
    beyond = count // BEYOND
    inner = usual.times_of(torch.linspace(0, 1, count - beyond, dtype=torch.float64) * reach)
    first, last = _log_ratio(usual, inner[-1:]), _log_ratio(usual, torch.tensor([LAST]).double())
    along = torch.linspace(0, 1, beyond + 1, dtype=torch.float64)[1:]
    return torch.cat([inner, usual.times_at((first + (last - first) * along.square()).exp())])


def _reached(predicted: list[Predicted], share: float) -> Tensor:
    """The times [C] at which every class is predicted to carry so many times log N."""
    asked = torch.tensor([share * math.log(one.points) for one in predicted], dtype=torch.float64)
    if any(one.within for one in predicted):
        return torch.cat(
            [one.times_of(nats[None]) for one, nats in zip(predicted, asked, strict=True)]
        )
    spectra = pad_sequence([one.spectrum for one in predicted], batch_first=True)
    return replace(predicted[0], spectrum=spectra).times_of(asked)


def area_under(times: Tensor, variance: Tensor, predicted: Predicted) -> Estimate:
    """½ ∫ tr Cov d(r²), from estimates of the variance [p, T] pair by pair; in nats."""
    values = variance @ _weights(times, predicted)
    return Estimate(float(values.mean()), float(standard_error(values)))


def _weights(times: Tensor, predicted: Predicted) -> Tensor:
    """Quadrature weights [T]: Simpson in predicted information, then in the root of log r."""
    even = len(times) - len(times) // BEYOND
    weights = torch.zeros_like(times)
    information = predicted.information(times[:even])
    weights[:even] = _simpson(information) / predicted.variance(times[:even])
    logs = _log_ratio(predicted, times[even - 1 :])
    root = ((logs - logs[0]) / (logs[-1] - logs[0])).clamp(min=0).sqrt()
    slope = 2 * (logs[-1] - logs[0]) * root * (2 * logs).exp()
    weights[even - 1 :] += _simpson(root) * slope
    return weights


def _simpson(nodes: Tensor) -> Tensor:
    return torch.from_numpy(simpson(torch.eye(len(nodes)).numpy(), x=nodes.numpy(), axis=0))


def _log_ratio(predicted: Predicted, t: Tensor) -> Tensor:
    c = predicted.path.coefficients(t)
    return (c.alpha / c.sigma).log()
