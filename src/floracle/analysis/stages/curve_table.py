"""The curves and the landmarks of a class, one row each.

Every curve is a mean over pairs (data, noise) of the forward path, by time. A new curve is a row
of `CURVES`: it is then measured, pooled over classes, saved and loaded under its name, and listed
in docs/conventions.md (a test compares the two). A landmark is the time at which a curve first
reaches a level: a row of `LANDMARKS`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from torch import Tensor

from floracle.analysis.curves import END_WEIGHT
from floracle.oracle.pairs.forward_pairs import PairCurves


class PairMeasurement(NamedTuple):
    """What the curves of a class are computed from."""

    pairs: PairCurves
    """The posterior of every pair at every time, [p, T] each."""
    variance: Tensor
    """Σ γ_j ½‖x_j − x_o‖² with its control variate subtracted, [p, T]."""
    max_information: float
    """H(w), nats."""
    max_class_information: float
    """H(class), nats; 0 where classes are not told apart."""


class CurveRow(NamedTuple):
    """One curve of a class."""

    name: str
    """Its key in `Stages.curves`, in saved arrays and in CSV columns."""
    title: str
    """A heading for columns and axes."""
    unit: str
    meaning: str
    """As docs/conventions.md has it."""
    pair_values: Callable[[PairMeasurement], Tensor | None]
    """Its value for every pair, [p, T]; None where it does not exist."""
    held_out: bool = False
    """Whether it is also measured on held-out pairs, as held_out_NAME."""


def _gap(measured: PairMeasurement) -> Tensor:
    """A² tr Cov(data | x_t), with the variance inside Gaussian training points."""
    pairs = measured.pairs
    within = 0.0 if pairs.within_variance is None else pairs.within_variance
    return pairs.amplification.square() * (measured.variance + within)


def _class_information(measured: PairMeasurement) -> Tensor | None:
    entropy = measured.pairs.class_entropy
    return None if entropy is None else measured.max_class_information - entropy


CURVES = (
    CurveRow(
        *("gap", "irreducible loss", "squared norm"),
        "the irreducible loss: E‖u* − (data − noise)‖² = A² E tr Cov(data given x_t), with"
        " A = α′ − α σ′/σ. No model can remove it",
        _gap,
        held_out=True,
    ),
    CurveRow(
        *("max_weight", "mean largest weight", ""),
        "E max γ, the largest posterior weight",
        lambda measured: measured.pairs.max_weight,
        held_out=True,
    ),
    CurveRow(
        *("self_weight", "mean self weight", ""),
        "the posterior weight of the true source point of the pair; its mean is E Σγ²",
        lambda measured: measured.pairs.self_weight,
    ),
    CurveRow(
        *("entropy", "posterior entropy", "nats"),
        "H, the entropy of γ",
        lambda measured: measured.pairs.entropy,
        held_out=True,
    ),
    CurveRow(
        *("information", "information", "nats"),
        "I = H(w) − H, what x_t tells about which training point it comes from",
        lambda measured: measured.max_information - measured.pairs.entropy,
    ),
    CurveRow(
        *("participation", "participation", ""),
        "E Σγ²; its inverse is the effective number of training points",
        lambda measured: measured.pairs.participation,
    ),
    CurveRow(
        *("class_information", "class information", "nats"),
        "of the whole set: H(class) − E H(class given x_t)",
        _class_information,
    ),
)
HELD_OUT_CURVES = tuple(row.name for row in CURVES if row.held_out)


class LandmarkRow(NamedTuple):
    """A time that divides the stages: where a curve first reaches a level."""

    name: str
    curve: str
    level: Callable[[float, float], float]
    """Of H(w) and H(class), nats."""


LANDMARKS = (
    LandmarkRow("centre", "information", lambda points, _: points / 2),
    LandmarkRow("collapse", "self_weight", lambda *_: 0.5),
    LandmarkRow("end", "max_weight", lambda *_: END_WEIGHT),
    LandmarkRow("speciation", "class_information", lambda _, classes: classes / 2),
)
"""The last one (Biroli et al. 2024) is of the whole set alone, where classes are told apart."""
