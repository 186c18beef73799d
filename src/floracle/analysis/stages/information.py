"""The information law, and the times at which to measure so that it can be checked.

For every t the information x_t carries about which sample it came from is an area (I-MMSE):

    I(t) = ½ ∫ tr Cov(data | x_t) d(r²) = ∫₀ᵗ α/(σ²A) · gap dt,        r = α/σ,

and over all times it is H(w), log N for N equal atoms. Three quarters of the times are equally
spaced in predicted information up to 4 log N, where nearly all of the area lies; the rest reach on
to t = .9999, ever wider in log r, for neighbours much closer than the spectrum lets expect. Where
all points lie so close together that their collapse is near t = .9999, all times reach farther.
"""

from __future__ import annotations

import math
from dataclasses import replace

import torch
from scipy.integrate import simpson
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from floracle.analysis.curves import Estimate, standard_error
from floracle.analysis.prediction.closed_form import PredictedStages
from floracle.run.errors import InputError

SPREAD = 4.0
"""Even times reach as far as this many times log N of predicted information."""
BEYOND = 4
"""One in so many times lies beyond."""
FARTHEST = 0.99
"""Even times end there at the latest …"""
LAST = 0.9998999834060669
"""… and all times end there, .9999 as float32 has it, …"""
EVEN, WHOLE = math.log(10), math.log(1e4)
"""… unless the first collapse is predicted later than FARTHEST. Then even times end at ten times
its r at the latest and all times at 10⁴ times its r, where LAST lies for points of unit variance.
"""
LATEST = 1 - 1e-14
"""Later times are too coarse in float64: steps of 1e-16."""


def times_for(predicted: list[PredictedStages], count: int) -> Tensor:
    """Times float64 [count] from 0 to .9999 that suit all of these classes.

    Classes of a single point suit any times.
    """
    several = [one for one in predicted if one.points > 1]
    if not several:
        return torch.linspace(0, LAST, count, dtype=torch.float64)
    collapses, stops = _reached(several, 1.0), _reached(several, SPREAD)
    usual, stop = several[int(collapses.argmin())], float(stops.max())
    farthest, end = _limits(usual, float(collapses.min()))
    reach = usual.information(torch.tensor([min(stop, farthest)], dtype=torch.float64))
    beyond = count // BEYOND
    inner = usual.times_of(torch.linspace(0, 1, count - beyond, dtype=torch.float64) * reach)
    first, last = _log_ratio(usual, torch.cat([inner[-1:], inner.new_tensor([end])])).split(1)
    along = torch.linspace(0, 1, beyond + 1, dtype=torch.float64)[1:]
    times = torch.cat([inner, usual.times_at((first + (last - first) * along.square()).exp())])
    if not (times.diff() > 0).all():
        raise _unresolved(float(collapses.min()))
    return times


def _limits(usual: PredictedStages, collapse: float) -> tuple[float, float]:
    """The latest even time and the last of all times, given the first predicted collapse."""
    never = usual.within > 0 and collapse >= LATEST  # Gaussians may overlap for good
    if collapse <= FARTHEST or never:
        return FARTHEST, LAST
    if collapse >= LATEST:
        raise _unresolved(collapse)
    at_collapse = _log_ratio(usual, torch.tensor([collapse], dtype=torch.float64))
    later = torch.cat([at_collapse + EVEN, at_collapse + WHOLE]).exp()
    even, whole = usual.times_at(later).clamp(max=LATEST).tolist()
    return even, whole


def _unresolved(collapse: float) -> InputError:
    """Why float64 has too few times around a collapse, and the way out."""
    apart = "close together" if collapse > 0.5 else "far apart"
    side = "after t = 1 − 1e−13" if collapse > 0.5 else f"before t = {collapse:.1g}"
    return InputError(
        f"the points lie so {apart} that they are told apart {side}, where float64 has too few"
        " times; scale the data, as with normalize='standard'"
    )


def _reached(predicted: list[PredictedStages], share: float) -> Tensor:
    """The times [C] at which every class is predicted to carry so many times log N."""
    asked = torch.tensor([share * math.log(one.points) for one in predicted], dtype=torch.float64)
    if any(one.within for one in predicted):
        return torch.cat(
            [one.times_of(nats[None]) for one, nats in zip(predicted, asked, strict=True)]
        )
    spectra = pad_sequence([one.spectrum for one in predicted], batch_first=True)
    return replace(predicted[0], spectrum=spectra).times_of(asked)


def area_under(times: Tensor, variance: Tensor, predicted: PredictedStages) -> Estimate:
    """½ ∫ tr Cov d(r²), from estimates of the variance [p, T] pair by pair; in nats.

    A single point has no variance, and no area.
    """
    if not predicted.spectrum.any():
        return Estimate(0.0, 0.0)
    values = variance @ _weights(times, predicted)
    return Estimate(float(values.mean()), float(standard_error(values)))


def _weights(times: Tensor, predicted: PredictedStages) -> Tensor:
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


def _log_ratio(predicted: PredictedStages, t: Tensor) -> Tensor:
    c = predicted.path.coefficients(t)
    return c.signal_to_noise.log()
