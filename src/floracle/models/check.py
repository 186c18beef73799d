"""Is a field read as it should be? Sign, direction and scale of time, and what is predicted.

Two facts decide, each by trying the other ways to read the same field:

    with data       v(x_t, t) is the regression of data − noise on x_t: the right reading has the
                    smallest E‖v − (data − noise)‖²
    without data    at t = 0 nothing is known but the noise, so v(noise, 0) = E data − noise: the
                    right reading leaves v + noise the same for every noise; among those that do,
                    it predicts its own samples best

A reading is believed only where it wins clearly. For an untrained network, or where data is like
noise, the answer is that nothing can be said.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from floracle.core.fields import VelocityField
from floracle.core.point_set import PointSet
from floracle.core.seeds import generator, noise
from floracle.run.errors import InputError

from .convention_variants import DECLARED, ConventionVariant, Saying, convention_variants
from .field import ModelField

CheckResult = Literal[Saying, "cannot say"]
PAIRS = 64
TIMES = (0.1, 0.3, 0.5, 0.7, 0.9)
STEPS = 20
"""Euler steps to a field's own samples."""
SURE = 5.0
"""Standard errors by which a reading has to win."""
LEARNED = 0.9
"""A field has to leave less than this of the spread of data − noise unexplained."""
CONSTANT = 0.2
"""The share of v + noise at t = 0 that may still depend on the noise: networks are imperfect."""
APART = 3.0
"""The factor by which readings have to differ in that share."""
ALIKE = 0.05
"""Samples that deviate less, beside noise of 1, are all the same, which nobody's data is."""
CALIBRATED = 0.25
"""How far the multiple of a field that fits best may be off 1."""


@dataclass(frozen=True)
class ConventionVerdict:
    """How a field seems to have to be read, and why."""

    answer: CheckResult
    reason: str
    losses: dict[str, float]
    """What each reading leaves unexplained, by its words; 1 is no better than a constant."""
    advice: str = ""
    convention: str = ""
    """All of the convention to declare, where it should be another."""

    @property
    def text(self) -> str:
        """The answer, why, and what to do."""
        return f"{self.reason}. {self.advice}" if self.advice else self.reason

    @property
    def as_declared(self) -> bool:
        """Whether the field passed."""
        return self.answer == DECLARED


class PointPairs(NamedTuple):
    """Data and noise [n, *shape], and labels int64 [n] or None."""

    data: Tensor
    noise: Tensor
    labels: Tensor | None


@torch.no_grad()
def check_convention(
    field: VelocityField,
    data: PointSet | Tensor | None = None,
    *,
    labels: Tensor | None = None,
    shape: tuple[int, ...] | None = None,
    pairs: int = PAIRS,
    seed: int = 0,
) -> ConventionVerdict:
    """Whether a field is read as it should be: as declared, or how else it seems to be meant.

    `data` is a source or a tensor [n, *shape], at best of the training set; `labels` int64 [n]
    go with it. Without data the `shape` of a sample is needed where the field does not know it,
    and of `labels` the first is taken for all.
    """
    if data is not None:
        return by_data(field, drawn(field, data, labels, pairs, seed))
    known = shape or (field.shape if isinstance(field, ModelField) else None)
    if known is None:
        raise InputError("without data a check needs shape=, that of one sample, like (4, 32, 32)")
    given = None if labels is None else labels[:1].expand(pairs)
    return by_noise(field, noise(range(seed, seed + pairs), known), given)


def drawn(
    field: VelocityField, data: PointSet | Tensor, labels: Tensor | None, pairs: int, seed: int
) -> PointPairs:
    """Pairs of rows of the data, at random, and noise; with labels where the field needs them."""
    rows = torch.randint(len(data), (pairs,), generator=generator(seed))
    if isinstance(data, Tensor):
        points = data[rows].float()
    else:
        points = data.take(rows)
        if labels is None and isinstance(field, ModelField) and field.translated.null is None:
            labels = data.labels if field.classes is not None else None
    given = None if labels is None else labels[rows]
    return PointPairs(points, noise(range(seed, seed + pairs), points.shape[1:]), given)


def by_data(
    field: VelocityField, pairs: PointPairs, times: Sequence[float] = TIMES
) -> ConventionVerdict:
    """The reading that regresses data − noise best."""
    tried = convention_variants(field)
    _check_declared(field, pairs.data, pairs.labels)
    losses = [loss_of(reading.field, pairs, times) for reading in tried]
    best = min(range(len(tried)), key=lambda index: losses[index].mean().item())
    rivals = [
        tried[index]
        for index in range(len(tried))
        if tried[index].says != tried[best].says and not clearly_less(losses[best], losses[index])
    ]
    shares = {r.words: loss.mean().item() for r, loss in zip(tried, losses, strict=True)}
    if not shares[tried[best].words] < LEARNED:
        return _unsure(
            shares,
            "no reading of it predicts data − noise; is it trained, on this data in this scale?",
        )
    if rivals:
        return _unsure(shares, f"{tried[best].words} and {rivals[0].words} predict alike")
    least, *others = sorted(shares.values())
    why = f"it leaves {least:.2g} of data − noise unexplained, the next reading {others[0]:.2g}"
    return _sure(tried[best], shares, why)


def loss_of(field: VelocityField, pairs: PointPairs, times: Sequence[float] = TIMES) -> Tensor:
    """What of data − noise a field leaves unexplained, float64 [n], over times; 1 is a constant's.

    Infinite where a reading has no velocity.
    """
    target = (pairs.data - pairs.noise).double().flatten(1)
    spread = target.var(dim=0).sum().clamp(min=1e-30)
    total = torch.zeros(len(target), dtype=torch.float64)
    for time in times:
        velocity = _velocity(field, pairs, time).flatten(1)
        total += (velocity - target).square().sum(1) / spread
    found = total / len(times)
    return torch.where(found.isfinite(), found, math.inf)


def clearly_less(loss: Tensor, than: Tensor) -> bool:
    """Whether one loss [n] is smaller than another on the same pairs, beyond chance."""
    more = than - loss
    if not more.isfinite().all():
        return True
    error = more.std() / len(more) ** 0.5
    return bool(more.mean() > SURE * error) and bool(more.mean() > 1e-6)


def by_noise(field: VelocityField, start: Tensor, labels: Tensor | None) -> ConventionVerdict:
    """The reading that knows nothing but the noise at t = 0, and predicts its own samples."""
    tried = convention_variants(field)
    _check_declared(field, start, labels)
    shares = [noise_share(reading.field, start, labels) for reading in tried]
    found = {r.words: share for r, share in zip(tried, shares, strict=True)}
    least = min(shares)
    if not least < CONSTANT:
        return _unsure(found, "no reading of it knows noise for noise at t = 0; give data to tell")
    limit = max(APART * least, CONSTANT / APART)
    left = [r for r, share in zip(tried, shares, strict=True) if share <= limit]
    homes = [at_home(r, left, start, labels) for r in left]
    kept = [r for r, loss in zip(left, homes, strict=True) if loss < math.inf]
    if not kept:
        words = f"{left[0].words}: it would not predict the samples that it leads to"
        return _unsure(found, f"{words}; give data to tell")
    if len({r.says for r in kept}) > 1:
        words = f"{kept[0].words} and {kept[1].words}"
        return _unsure(found, f"{words} cannot be told apart without data; give data to tell")
    best = left[min(range(len(left)), key=lambda index: homes[index])]
    why = f"v + noise at t = 0 keeps {found[best.words]:.2g} of the noise"
    return _sure(best, found, why)


def noise_share(field: VelocityField, start: Tensor, labels: Tensor | None) -> float:
    """How much of v(noise, 0) + noise depends on the noise, as a share of the noise."""
    velocity = _asked(field, start, torch.zeros(len(start), dtype=torch.float64), labels)
    left = (velocity + start).double().flatten(1)
    share = left.var(dim=0).sum() / start.double().flatten(1).var(dim=0).sum()
    return share.item() if bool(share.isfinite()) else math.inf


def at_home(
    reading: ConventionVariant,
    rivals: list[ConventionVariant],
    start: Tensor,
    labels: Tensor | None,
) -> float:
    """The loss of a reading on the samples it leads to, of which it has to be the regression.

    Infinite where it is not, or where a rival is no worse at it.
    """
    samples = own_samples(reading.field, start, labels)
    if not samples.isfinite().all() or samples.std(dim=0).square().mean() < ALIKE**2:
        return math.inf
    pairs = PointPairs(samples, start.roll(1, dims=0), labels)
    own = loss_of(reading.field, pairs)
    others = [rival for rival in rivals if rival.says != reading.says]
    wins = calibrated(reading.field, pairs) and all(
        clearly_less(own, loss_of(other.field, pairs)) for other in others
    )
    return own.mean().item() if wins else math.inf


def calibrated(field: VelocityField, pairs: PointPairs) -> bool:
    """Whether data − noise, fitted by a multiple of the field, asks for the field itself."""
    target = (pairs.data - pairs.noise).double().flatten(1)
    for time in TIMES:
        velocity = _velocity(field, pairs, time).flatten(1)
        velocity = velocity - velocity.mean(0)
        slope = (velocity * target).sum() / velocity.square().sum()
        if not abs(slope.item() - 1) < CALIBRATED:
            return False
    return True


def own_samples(field: VelocityField, start: Tensor, labels: Tensor | None) -> Tensor:
    """Where a field leads from noise [n, *shape], by a few Euler steps."""
    x = start
    for step in range(STEPS):
        t = torch.full((len(x),), step / STEPS, dtype=torch.float64)
        x = x + _asked(field, x, t, labels) / STEPS
    return x


def _velocity(field: VelocityField, pairs: PointPairs, time: float) -> Tensor:
    """The velocity of pairs on the forward path, float64."""
    t = torch.full((len(pairs.data),), time, dtype=torch.float64)
    x = time * pairs.data + (1 - time) * pairs.noise
    return _asked(field, x, t, pairs.labels).double()


def _check_declared(field: VelocityField, x: Tensor, labels: Tensor | None) -> None:
    """Let a field say itself what it cannot be asked; other readings may fail silently."""
    half = torch.full((1,), 0.5, dtype=torch.float64)
    field(x[:1], half, None if labels is None else labels[:1])


def _asked(field: VelocityField, x: Tensor, t: Tensor, labels: Tensor | None) -> Tensor:
    """The velocity, NaN where this reading has none at all."""
    try:
        return field(x, t, labels)
    except InputError:
        raise
    except (ValueError, IndexError, RuntimeError):  # such as a time beyond a network's table
        return torch.full_like(x, math.nan)


def _sure(reading: ConventionVariant, shares: dict[str, float], why: str) -> ConventionVerdict:
    convention = reading.convention if reading.advice else ""
    reason = f"{reading.words}: {why}"
    return ConventionVerdict(reading.says, reason, shares, reading.advice, convention)


def _unsure(shares: dict[str, float], why: str) -> ConventionVerdict:
    return ConventionVerdict("cannot say", f"cannot say: {why}", shares)
