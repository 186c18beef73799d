"""The information law, and the times at which to measure so that it can be checked.

For every t the information x_t carries about which training point it came from is an area
(I-MMSE, Guo, Shamai & Verdú 2005):

    I(t) = ½ ∫ tr Cov(data | x_t) d(r²) = ∫₀ᵗ α/(σ²A) · gap dt,        r = α/σ,

and over all times it is H(w), log N for N equal points. Three quarters of the times are equally
spaced in predicted information up to 4 log N, where nearly all of the area lies; the rest reach on
to t = .9999, ever wider in log r, for neighbours much closer than the spectrum suggests. Where
all points lie so close together that their collapse is near t = .9999, all times reach farther.
"""

from __future__ import annotations

import math

import torch
from scipy.integrate import simpson
from torch import Tensor

from floracle.analysis.curves import Estimate, standard_error
from floracle.analysis.prediction.closed_form import PredictedStages, stack_spectra
from floracle.run.errors import InputError

EVEN_TIMES_INFORMATION = 4.0
"""Even times reach this many times log N of predicted information."""
EVEN_TIMES_PER_LATE_TIME = 4
"""One time in so many lies beyond the even ones."""
LAST_EVEN_TIME = 0.99
"""Even times end there at the latest …"""
LAST_TIME = 0.9998999834060669
"""… and all times end there, .9999 as float32 has it, …"""
EVEN_LOG_RATIO, LAST_LOG_RATIO = math.log(10), math.log(1e4)
"""… unless the first collapse is predicted later than LAST_EVEN_TIME. Then even times end at ten
times its r at the latest and all times at 10⁴ times its r, where LAST_TIME lies for points of unit
variance."""
LAST_RESOLVED_TIME = 1 - 1e-14
"""Later times are too coarse in float64: steps of 1e-16."""


def choose_times(predicted: list[PredictedStages], count: int) -> Tensor:
    """Times float64 [count] from 0 to .9999 that suit all of these classes.

    Classes of a single point suit any times.
    """
    predicted = [stages for stages in predicted if stages.points > 1]
    if not predicted:
        return torch.linspace(0, LAST_TIME, count, dtype=torch.float64)

    # 1. The first collapse of all classes, and the last time at which one is still undecided.
    collapses = _times_of_share(predicted, 1.0)
    collapse = float(collapses.min())
    stop = float(_times_of_share(predicted, EVEN_TIMES_INFORMATION).max())
    first_class = predicted[int(collapses.argmin())]
    last_even, last = _last_times(first_class, collapse)

    # 2. Even times: equally spaced in I_G of the class that collapses first.
    late = count // EVEN_TIMES_PER_LATE_TIME
    end = torch.tensor([min(stop, last_even)], dtype=torch.float64)
    shares = torch.linspace(0, 1, count - late, dtype=torch.float64)
    even = first_class.times_of(shares * first_class.information(end))

    # 3. Late times: log r grows quadratically from the last even time to the last of all.
    first, final = _log_ratio(first_class, torch.cat([even[-1:], even.new_tensor([last])])).split(
        1
    )
    steps = torch.linspace(0, 1, late + 1, dtype=torch.float64)[1:]
    ratio = (first + (final - first) * steps.square()).exp()
    times = torch.cat([even, first_class.times_of_ratio(ratio)])
    if not (times.diff() > 0).all():
        raise _too_few_times(collapse)
    return times


def _last_times(predicted: PredictedStages, collapse: float) -> tuple[float, float]:
    """The latest even time and the last of all times, given the first predicted collapse."""
    never = predicted.within_variance > 0 and collapse >= LAST_RESOLVED_TIME
    if collapse <= LAST_EVEN_TIME or never:  # Gaussians may overlap for good
        return LAST_EVEN_TIME, LAST_TIME
    if collapse >= LAST_RESOLVED_TIME:
        raise _too_few_times(collapse)
    at_collapse = _log_ratio(predicted, torch.tensor([collapse], dtype=torch.float64))
    ratios = torch.cat([at_collapse + EVEN_LOG_RATIO, at_collapse + LAST_LOG_RATIO]).exp()
    last_even, last = predicted.times_of_ratio(ratios).clamp(max=LAST_RESOLVED_TIME).tolist()
    return last_even, last


def _too_few_times(collapse: float) -> InputError:
    distance = "close together" if collapse > 0.5 else "far apart"
    side = "after t = 1 − 1e−13" if collapse > 0.5 else f"before t = {collapse:.1g}"
    return InputError(
        f"the points lie so {distance} that they are told apart {side}, where float64 has too few"
        " times; scale the data, as with normalize='standard'"
    )


def _times_of_share(predicted: list[PredictedStages], share: float) -> Tensor:
    """The times [C] at which I_G of every class reaches `share` · log N."""
    nats = [share * math.log(stages.points) for stages in predicted]
    levels = torch.tensor(nats, dtype=torch.float64)
    if any(stages.within_variance for stages in predicted):
        times = [
            stages.times_of(level[None]) for stages, level in zip(predicted, levels, strict=True)
        ]
        return torch.cat(times)
    return stack_spectra(predicted).times_of(levels)


def information_area(times: Tensor, variance: Tensor, predicted: PredictedStages) -> Estimate:
    """½ ∫ tr Cov d(r²) in nats, from estimates of the variance [p, T] pair by pair.

    A single point has no variance, and no area.
    """
    if not predicted.spectrum.any():
        return Estimate(0.0, 0.0)
    areas = variance @ _quadrature_weights(times, predicted)  # [p]
    return Estimate(float(areas.mean()), float(standard_error(areas)))


def _quadrature_weights(times: Tensor, predicted: PredictedStages) -> Tensor:
    """Weights [T] of the variance: Simpson in predicted information, then in the root of log r."""
    even = len(times) - len(times) // EVEN_TIMES_PER_LATE_TIME
    weights = torch.zeros_like(times)
    # ½ tr Cov d(r²) = (tr Cov / tr Cov_G) dI_G, since dI_G = ½ tr Cov_G d(r²)
    information = predicted.information(times[:even])
    weights[:even] = _simpson_weights(information) / predicted.variance(times[:even])
    # with u = √((log r − log r₀) / (log r₁ − log r₀)), in which late times are equally spaced:
    # ½ d(r²) = r² d log r = 2 (log r₁ − log r₀) u r² du
    log_ratio = _log_ratio(predicted, times[even - 1 :])
    span = log_ratio[-1] - log_ratio[0]
    u = ((log_ratio - log_ratio[0]) / span).clamp(min=0).sqrt()
    weights[even - 1 :] += _simpson_weights(u) * (2 * span * u * (2 * log_ratio).exp())
    return weights


def _simpson_weights(nodes: Tensor) -> Tensor:
    return torch.from_numpy(simpson(torch.eye(len(nodes)).numpy(), x=nodes.numpy(), axis=0))


def _log_ratio(predicted: PredictedStages, t: Tensor) -> Tensor:
    c = predicted.path.coefficients(t)
    return c.signal_to_noise.log()
