"""Is a field read as it should be? Its sign, the direction and scale of time, its prediction.

Two facts decide, each by trying the other ways to read the same field (convention_variants.py):

    with data       v(x_t, t) is the regression of data − noise on x_t, so the right variant has
                    the smallest E‖v − (data − noise)‖²
    without data    x at t = 0 is the noise alone, so v(noise, 0) = E data − noise: for the right
                    variant v + noise does not depend on the noise; among those for which it does
                    not, the right one predicts its own samples best

A variant is believed only where it wins clearly. For an untrained network, or where data is like
noise, the answer is "cannot say". Whether the prediction is off by a factor, or has another
noise scale, is told by moments (moment_check.py): the loss of such a field may be the least.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from floracle.core.fields import TranslatedField, VelocityField, evaluate, name_of
from floracle.core.point_set import NO_LABEL, PointSet
from floracle.core.seeds import generator, noise
from floracle.core.signatures import takes_no_labels
from floracle.run.errors import InputError

from .convention_variants import (
    DECLARED,
    NEAR_KINDS,
    ConventionVariant,
    VariantKind,
    convention_variants,
)
from .field import ModelField
from .moment_check import measure_at_noise, measure_moments
from .regression_loss import (
    TIMES,
    DataNoisePairs,
    evaluate_or_nan,
    significantly_less,
    unexplained,
    velocity_at,
)

CheckResult = Literal[VariantKind, "cannot say"]

# Tried on a network of other people (tests/models/test_check.py), which leaves .13 unexplained.
PAIRS = 64
CHEAP_PAIRS, CHEAP_TIMES = 8, (0.1, 0.5, 0.9)
"""Enough for a clear case: a loss over many dimensions scatters little."""
VALUES, CHEAP_VALUES = 4096, 1024  # numbers of all data of a check, where points are small
MAX_PAIRS = 512
SUSPICIOUS_ERRORS, SUSPICIOUS_DEVIATION = 2.0, 0.04  # of a factor, for another look
EULER_STEPS = 20  # to a field's own samples
MAX_LOSS_IF_TRAINED = 0.9  # of the variance of data − noise; an untrained network leaves 1
MAX_NOISE_SHARE = 0.2  # of v + noise at t = 0 that may depend on the noise: networks are imperfect
NOISE_SHARE_RATIO = 3.0  # by which two variants must differ in that share
MIN_SAMPLE_DEVIATION = 0.05  # beside noise of 1: samples closer than this are all the same
MAX_SLOPE_ERROR = 0.25  # how far the best multiple of a field may be off 1


@dataclass(frozen=True)
class ConventionVerdict:
    """How a field seems to have to be read, and why."""

    answer: CheckResult
    reason: str
    losses: dict[str, float]
    """What each variant leaves unexplained, by its words; 1 is no better than a constant."""
    advice: str = ""
    convention: str = ""
    """All of the convention to declare, where it should be another."""

    @property
    def text(self) -> str:
        """The answer, why, and what to do."""
        return f"{self.reason}. {self.advice}" if self.advice else self.reason

    @property
    def as_declared(self) -> bool:
        """Whether the field is read as it should be."""
        return self.answer == DECLARED


@torch.no_grad()
def check_convention(
    field: VelocityField,
    data: PointSet | Tensor | None = None,
    *,
    labels: Tensor | None = None,
    shape: tuple[int, ...] | None = None,
    pairs: int | None = None,
    seed: int = 0,
) -> ConventionVerdict:
    """Whether a field is read as it should be, or how else it seems to be meant.

    Parameters
    ----------
    field
        Any field. Of one that `load_model` or `as_field` made, other conventions are tried.
    data
        A point set or a tensor [n, *shape], at best of the training set.
    labels
        int64 [n], of the data; without data the first is taken for all. A network that needs
        labels gets those of a point set.
    shape
        The shape of a sample, needed without data where the field does not know it.
    pairs, seed
        How many pairs of data and noise are drawn, by default 64 and more of few dimensions, and
        from which seed on.

    Raises
    ------
    InputError
        If there is neither data nor a shape, or the field refuses the samples or labels.
    """
    if data is not None:
        count = enough_pairs(data, PAIRS, VALUES) if pairs is None else pairs
        return _check_by_data(field, _draw_pairs(field, data, labels, count, seed))
    if shape is None and isinstance(field, ModelField):
        shape = field.shape
    if shape is None:
        raise InputError(
            "a check without data needs the shape of one sample; pass shape=, e.g. (4, 32, 32)"
        )
    start = noise(range(seed, seed + (pairs or PAIRS)), shape)
    return _check_by_noise(field, start, None if labels is None else labels[:1].expand(len(start)))


def cheap_check(
    field: VelocityField,
    data: PointSet | Tensor,
    *,
    labels: Tensor | None = None,
    seed: int = 0,
) -> ConventionVerdict | None:
    """A cheap check of the declared convention: what speaks against it, or None.

    A few pairs settle it where the declared variant is right, at about 450 evaluations of one
    sample; that another one is better is confirmed by `check_convention`. A network that needs
    labels gets those of the data.
    """
    count = enough_pairs(data, CHEAP_PAIRS, CHEAP_VALUES)
    pairs = _draw_pairs(field, data, labels, count, seed)
    verdict = _check_by_data(field, pairs, CHEAP_TIMES)
    moments = measure_moments(field, *pairs, times=CHEAP_TIMES)
    suspicious = moments.deviates(SUSPICIOUS_ERRORS, SUSPICIOUS_DEVIATION)
    if verdict.as_declared and not suspicious and moments.known.any():
        return None
    if min(verdict.losses.values()) >= MAX_LOSS_IF_TRAINED:
        return verdict
    verdict = check_convention(field, data, labels=labels, seed=seed)
    return None if verdict.as_declared else verdict


def enough_pairs(data: PointSet | Tensor, least: int, values: int) -> int:
    """The number of pairs whose points have so many numbers in all; within limits."""
    dims = max(1, torch.Size(data.shape[1:] if isinstance(data, Tensor) else data.shape).numel())
    return min(MAX_PAIRS, max(least, values // dims))


def _draw_pairs(
    field: VelocityField, data: PointSet | Tensor, labels: Tensor | None, pairs: int, seed: int
) -> DataNoisePairs:
    """Random rows of the data and noise, with labels where the field needs them.

    The declared field refuses samples that it cannot take; other variants may fail silently.
    """
    if not len(data):
        raise InputError("a check needs points of the data, but there are none")
    rows = torch.randint(len(data), (pairs,), generator=generator(seed))
    points = data[rows].float() if isinstance(data, Tensor) else data.take(rows)
    start = noise(range(seed, seed + pairs), points.shape[1:])
    of_data = None if isinstance(data, Tensor) else data.labels
    if of_data is not None and bool((of_data == NO_LABEL).any()):
        of_data = None
    if labels is None and _needs_labels(field):
        labels = of_data
    try:
        drawn = DataNoisePairs(points, start, None if labels is None else labels[rows])
        _evaluate_declared(field, *drawn)
    except Exception as error:  # code that misses its labels fails in any way
        if labels is not None or of_data is None:
            raise
        drawn = DataNoisePairs(points, start, of_data[rows])
        try:
            _evaluate_declared(field, *drawn)
        except Exception:
            raise error from None  # it is not for want of labels
    return drawn


def _needs_labels(field: VelocityField) -> bool:
    """Whether a field cannot be evaluated without labels, as far as it says."""
    if isinstance(field, TranslatedField):
        return field.convention.null_label is None and not takes_no_labels(field.model)
    return isinstance(field, ModelField) and field.needs_labels


def _check_by_data(
    field: VelocityField, pairs: DataNoisePairs, times: Sequence[float] = TIMES
) -> ConventionVerdict:
    """The variant that regresses data − noise best."""
    variants = convention_variants(field)
    losses = [unexplained(variant.field, pairs, times) for variant in variants]  # [n] each
    means = [loss.mean().item() for loss in losses]
    by_words = dict(zip((variant.words for variant in variants), means, strict=True))
    # A near reading has to be clearly better than the declared one, which is the first.
    moments = measure_moments(field, *pairs, times=times)
    deviates = moments.deviates()

    def is_candidate(i: int) -> bool:
        if variants[i].kind not in NEAR_KINDS or significantly_less(losses[i], losses[0]):
            return True
        if not deviates or means[i] > means[0]:
            return False
        return measure_moments(variants[i].field, *pairs, times=times).agrees()

    candidates = list(filter(is_candidate, range(len(variants))))
    best = min(candidates, key=means.__getitem__)
    if variants[best].kind in NEAR_KINDS:  # which is told; of its kind the best is meant
        alike = [i for i, variant in enumerate(variants) if variant.kind == variants[best].kind]
        best = min(alike, key=means.__getitem__)
    factor = moments.factor()
    if factor is not None and factor > 0:  # a negative one is a sign
        loss = moments.loss(factor).mean().item()
        if loss < MAX_LOSS_IF_TRAINED and (best == 0 or loss < means[best]):
            return _off_by(factor, {**by_words, f"{factor:.3g} times the prediction": loss})
    if not means[best] < MAX_LOSS_IF_TRAINED:
        reason = (
            "no reading of it predicts data − noise; is it trained, on this data in this scale?"
        )
        return _undecided(by_words, reason)
    # A near reading is among the candidates only if it is better than the declared one.
    near = variants[best].kind in NEAR_KINDS
    rivals = [
        variants[i]
        for i in candidates
        if variants[i].kind not in (variants[best].kind, *NEAR_KINDS, *[DECLARED] * near)
        and not significantly_less(losses[best], losses[i])
    ]
    if rivals:
        return _undecided(
            by_words, f"{variants[best].words} and {rivals[0].words} predict equally well"
        )
    least, second, *_ = sorted(means[i] for i in candidates)
    reason = f"it leaves {least:.2g} of data − noise unexplained, the next reading {second:.2g}"
    return _decided(variants[best], by_words, reason)


def _check_by_noise(
    field: VelocityField, start: Tensor, labels: Tensor | None
) -> ConventionVerdict:
    """The variant whose v + noise at t = 0 is constant, and which predicts its own samples."""
    variants = [v for v in convention_variants(field) if v.kind not in NEAR_KINDS]
    _evaluate_declared(field, start, start, labels)

    # 1. How much of v + noise depends on the noise; the right variant is among the smallest.
    shares = [noise_share(variant.field, start, labels) for variant in variants]
    by_words = {v.words: share for v, share in zip(variants, shares, strict=True)}
    least = min(shares)
    if not least < MAX_NOISE_SHARE:
        reason = "no reading of it has v + noise constant at t = 0; pass data to decide"
        return _undecided(by_words, reason)
    limit = max(NOISE_SHARE_RATIO * least, MAX_NOISE_SHARE / NOISE_SHARE_RATIO)
    candidates = [v for v, share in zip(variants, shares, strict=True) if share <= limit]

    # 2. Each candidate's loss on the samples it leads to; one kind only may win there.
    losses = [own_sample_loss(variant, candidates, start, labels) for variant in candidates]
    winners = [v for v, loss in zip(candidates, losses, strict=True) if loss < math.inf]
    if {variant.kind for variant in winners} <= {DECLARED} and variants[0] in candidates:
        at_noise = torch.zeros(len(start), dtype=torch.float64)
        velocity = evaluate_or_nan(field, start, at_noise, labels)
        if (factor := measure_at_noise(velocity, start).factor()) is not None:
            return _off_by(factor, by_words)
    if not winners:
        reason = f"{candidates[0].words}: it would not predict the samples that it leads to"
        return _undecided(by_words, f"{reason}; pass data to decide")
    if len({variant.kind for variant in winners}) > 1:
        reason = f"{winners[0].words} and {winners[1].words} cannot be told apart without data"
        return _undecided(by_words, f"{reason}; pass data to decide")
    best = candidates[min(range(len(candidates)), key=losses.__getitem__)]
    reason = f"v + noise at t = 0 keeps {by_words[best.words]:.2g} of the noise"
    return _decided(best, by_words, reason)


def noise_share(field: VelocityField, start: Tensor, labels: Tensor | None) -> float:
    """How much of v(noise, 0) + noise depends on the noise, as a share of its variance."""
    velocity = evaluate_or_nan(field, start, torch.zeros(len(start), dtype=torch.float64), labels)
    remainder = (velocity + start).double().flatten(1)  # E data for the right variant, [n, D]
    share = remainder.var(dim=0).sum() / start.double().flatten(1).var(dim=0).sum()
    return share.item() if bool(share.isfinite()) else math.inf


def own_sample_loss(
    variant: ConventionVariant,
    candidates: list[ConventionVariant],
    start: Tensor,
    labels: Tensor | None,
) -> float:
    """The loss of a variant on the samples it leads to, of which it must be the regression.

    Infinite where it is not, or where a candidate of another kind is no worse at it.
    """
    samples = own_samples(variant.field, start, labels)
    constant = samples.std(dim=0).square().mean() < MIN_SAMPLE_DEVIATION**2
    if not samples.isfinite().all() or constant:
        return math.inf
    # Another noise than the one that each sample came from.
    pairs = DataNoisePairs(samples, start.roll(1, dims=0), labels)
    loss = unexplained(variant.field, pairs)
    rivals = [rival for rival in candidates if rival.kind != variant.kind]
    wins = has_unit_slope(variant.field, pairs) and all(
        significantly_less(loss, unexplained(rival.field, pairs)) for rival in rivals
    )
    return loss.mean().item() if wins else math.inf


def has_unit_slope(field: VelocityField, pairs: DataNoisePairs) -> bool:
    """Whether the multiple of the field that fits data − noise best is near 1, at every time."""
    target = (pairs.data - pairs.noise).double().flatten(1)
    for time in TIMES:
        velocity = velocity_at(field, pairs, time).flatten(1)
        velocity = velocity - velocity.mean(0)
        slope = (velocity * target).sum() / velocity.square().sum()
        if not abs(slope.item() - 1) < MAX_SLOPE_ERROR:
            return False
    return True


def own_samples(field: VelocityField, start: Tensor, labels: Tensor | None) -> Tensor:
    """Where a field leads from noise [n, *shape], by a few Euler steps."""
    x = start
    for step in range(EULER_STEPS):
        t = torch.full((len(x),), step / EULER_STEPS, dtype=torch.float64)
        x = x + evaluate_or_nan(field, x, t, labels) / EULER_STEPS
    return x


def _evaluate_declared(field: VelocityField, x: Tensor, _: Tensor, labels: Tensor | None) -> None:
    """Let the declared field refuse samples it cannot take, and an answer that is not finite."""
    half = torch.full((1,), 0.5, dtype=torch.float64)
    velocity = evaluate(field, x[:1], half, None if labels is None else labels[:1])
    if not velocity.isfinite().all():
        raise InputError(
            f"{name_of(field)} answers NaN or infinity at t = 0.5; check its weights, and the"
            f" scale of the data"
        )


def _off_by(factor: float, losses: dict[str, float]) -> ConventionVerdict:
    """The verdict on a field whose prediction times a factor is right."""
    reason = f"wrong factor: {factor:.3g} times its prediction is right"
    advice = f"Multiply its output by {factor:.3g}, in the function that returns the network."
    return ConventionVerdict("wrong factor", reason, losses, advice)


def _decided(
    variant: ConventionVariant, losses: dict[str, float], reason: str
) -> ConventionVerdict:
    convention = variant.convention if variant.advice else ""
    reason = f"{variant.words}: {reason}"
    return ConventionVerdict(variant.kind, reason, losses, variant.advice, convention)


def _undecided(losses: dict[str, float], reason: str) -> ConventionVerdict:
    return ConventionVerdict("cannot say", f"cannot say: {reason}", losses)
