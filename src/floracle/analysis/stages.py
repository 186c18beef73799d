"""The two stages of a data set: where navigation ends and refinement begins.

Pairs (data, noise) are drawn on the forward path and the posterior of each is followed through all
times. Averages over pairs give the curves; the landmarks are where they cross:

    centre     E H = ½ H(w)          half of what there is to know is known
    collapse   E γ_own = ½           the pair's own sample holds half of the weight
    end        E max γ = .99         one sample holds nearly all of it

The information law checks the posterior against itself: ½ ∫ tr Cov(data | x_t) d(r²) = H(w) − H(t),
an identity of I-MMSE (Guo, Shamai & Verdú 2005) that fails where mass is lost.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from floracle.core.paths import Path
from floracle.core.seeds import generator, noise
from floracle.core.source import NO_LABEL, Source, classes
from floracle.core.spectrum import spectra
from floracle.oracle.oracle import Oracle
from floracle.oracle.pairs import Pairs
from floracle.run.errors import Mistake
from floracle.run.results import Results, provenance

from .curves import (
    Curve,
    Estimate,
    Landmark,
    controlled,
    landmark,
    resampled,
    standard_error,
)
from .held_out import held_out_curves
from .prediction import Predicted, predict

END = 0.99
POOLED = -2
"""The label under which the average over classes is kept."""
LAST = 0.9999
SPREAD = 4.0
"""Times reach as far as this many times log N of predicted information."""
FLAGGED = 4.0
"""How many standard errors the information law may be off before it is called broken."""


@dataclass(frozen=True)
class Plan:
    """What is measured: chosen once, the same for every class."""

    labels: tuple[int, ...]
    times: Tensor
    """float64 [T], equally spaced in predicted information, a few beyond."""
    pairs: int
    seed: int
    spectra: dict[int, Tensor]
    sizes: dict[int, float]
    """H(w) of every class in nats."""


@dataclass(frozen=True)
class Group:
    """The stages of one class, of the whole set (label −1), or pooled over classes (−2)."""

    label: int
    points: int
    """Atoms; for the pooled group their number over all classes."""
    pairs: int
    share: float
    """Its share of the whole set's mass."""
    knowable: float
    """H(w), nats: what there is to know about which sample it is."""
    curves: dict[str, Curve]
    centre: Landmark
    collapse: Landmark
    end: Landmark
    predicted_centre: float
    predicted_collapse: float
    predicted_information: Tensor
    """I_G [T]: an upper bound on the information."""
    area: Estimate
    """The integral of the information law, nats; to be compared with `knowable` − `unknown`."""
    unknown: float
    """The entropy that is left at the last time, nats."""
    law_holds: bool
    rivals: tuple[tuple[int, int], ...] = ()
    """Rows of pairs that one sample does not win, each with its nearest rival."""
    resamples: dict[str, Tensor] | None = None

    @property
    def law_deviation(self) -> float:
        """How many standard errors the measured area is off."""
        return (self.area.value - self.knowable + self.unknown) / max(self.area.error, 1e-12)


@dataclass(frozen=True)
class Stages:
    """The stages of a data set: every class, the whole set, and the classes pooled."""

    times: Tensor
    groups: tuple[Group, ...]
    dims: int
    names: tuple[str, ...]
    """Class names by label; empty where there are none."""
    settings: dict[str, Any]
    provenance: dict[str, Any]

    def group(self, label: int) -> Group:
        """One class; −1 is the whole set, −2 the classes pooled."""
        for group in self.groups:
            if group.label == label:
                return group
        raise KeyError(f"label {label} was not measured")

    @property
    def main(self) -> Group:
        """What the headline is about: the classes pooled, or the whole set without classes."""
        labels = [group.label for group in self.groups]
        return self.group(POOLED if POOLED in labels else labels[0])

    @property
    def landmarks(self) -> Group:
        """The main group: its `centre`, `collapse`, `end` and their predictions."""
        return self.main

    @property
    def curves(self) -> dict[str, Curve]:
        """The main group's curves."""
        return self.main.curves

    @property
    def area(self) -> Estimate:
        """The main group's measured information, nats."""
        return self.main.area

    def name(self, label: int) -> str:
        """What to call a group."""
        if label == POOLED:
            return "classes pooled"
        if label == NO_LABEL:
            return "whole set"
        return self.names[label] if label < len(self.names) else str(label)

    def to_results(self) -> Results:
        """As values and arrays."""
        from .saved import stages_to_results

        return stages_to_results(self)


def stages(
    oracle: Oracle,
    *,
    times: int = 50,
    pairs: int = 512,
    classes: Sequence[int] | None = None,
    seed: int = 0,
    held_out: Source | None = None,
) -> Stages:
    """Measure the two stages of the oracle's data.

    `classes` are the labels to measure, −1 meaning the whole set; by default every class and the
    whole set. `pairs` are drawn per class. Held-out points join the curves as `held_out_*`.
    """
    plan = planned(oracle, times=times, pairs=pairs, labels=classes, seed=seed)
    groups = [measured(oracle, plan, label, held_out=held_out) for label in plan.labels]
    return assembled(oracle, plan, groups)


def planned(
    oracle: Oracle,
    *,
    times: int = 50,
    pairs: int = 512,
    labels: Sequence[int] | None = None,
    seed: int = 0,
) -> Plan:
    """Choose classes and times; costs the covariance spectra."""
    if times < 8:
        raise Mistake(f"a stage curve needs at least 8 times, got {times}")
    if pairs < 2:
        raise Mistake(f"errors need at least 2 pairs, got {pairs}")
    chosen = _chosen(oracle.data, labels)
    sizes = {label: _entropy(oracle.data.atoms(label).weights) for label in chosen}
    chosen = tuple(label for label in chosen if sizes[label] > 0)
    if not chosen:
        raise Mistake("there are no stages to measure: every class has a single distinct point")
    found = spectra(oracle.data, chosen)
    grid = _times([_predicted(oracle.path, found[c], sizes[c]) for c in chosen], times)
    return Plan(chosen, grid, pairs, seed, found, sizes)


def measured(oracle: Oracle, plan: Plan, label: int, *, held_out: Source | None = None) -> Group:
    """The stages of one class."""
    atoms = oracle.data.atoms(label)
    shape = oracle.data.shape
    rows = atoms.rows[
        torch.multinomial(
            atoms.weights, plan.pairs, replacement=True, generator=generator(_first(plan, label))
        )
    ]
    first = _first(plan, label) + 1
    drawn = noise(range(first, first + plan.pairs), shape)
    found = oracle.pairs(rows, drawn, plan.times, label=label, mirrored=True)
    variance = controlled(found.variance, found.lean)
    values = {
        "gap": found.amplification.square() * variance,
        "top": found.top,
        "own": found.own,
        "entropy": found.entropy,
        "information": plan.sizes[label] - found.entropy,
        "concentration": found.concentration,
    }
    curves = {name: Curve.of(values[name]) for name in values}
    if held_out is not None:
        curves |= held_out_curves(
            oracle, held_out, plan.times, label, pairs=plan.pairs, seed=first
        )
    resamples = {
        name: resampled(values[name], _first(plan, label))
        for name in ("information", "own", "top")
    }
    predicted = _predicted(oracle.path, plan.spectra[label], plan.sizes[label])
    area = _area(plan.times, variance, predicted)
    return Group(
        label=label,
        points=len(atoms.rows),
        pairs=plan.pairs,
        share=_share(oracle.data, label),
        knowable=plan.sizes[label],
        curves=curves,
        predicted_centre=predicted.centre,
        predicted_collapse=predicted.collapse,
        predicted_information=predicted.information(plan.times),
        area=area,
        unknown=float(curves["entropy"].mean[-1]),
        law_holds=_holds(area, plan.sizes[label], float(curves["entropy"].mean[-1])),
        rivals=_rivals(found, rows),
        resamples=resamples,
        **_landmarks(plan.times, curves, resamples, plan.sizes[label]),
    )


def assembled(oracle: Oracle, plan: Plan, groups: Iterable[Group]) -> Stages:
    """All classes together, with their average."""
    groups = list(groups)
    by_class = [group for group in groups if group.label >= 0]
    if len(by_class) > 1:
        groups.insert(0, _pooled(oracle.path, plan, by_class))
    names = getattr(oracle.data, "classes", ()) or ()
    return Stages(
        times=plan.times,
        groups=tuple(groups),
        dims=int(torch.Size(oracle.data.shape).numel()),
        names=tuple(names),
        settings={
            "times": len(plan.times),
            "pairs": plan.pairs,
            "classes": list(plan.labels),
            "seed": plan.seed,
            "path": oracle.path.name,
        },
        provenance=provenance(data=oracle.data.fingerprint),
    )


def _pooled(path: Path, plan: Plan, groups: list[Group]) -> Group:
    """The average over classes, each with its share of the mass."""
    shares = torch.tensor([group.share for group in groups], dtype=torch.float64)
    shares = shares / shares.sum()

    def average(values: list[float]) -> float:
        return float(shares @ torch.tensor(values, dtype=torch.float64))

    curves = {
        name: Curve(
            shares @ torch.stack([group.curves[name].mean for group in groups]),
            (
                shares.square() @ torch.stack([g.curves[name].error for g in groups]).square()
            ).sqrt(),
        )
        for name in groups[0].curves
    }
    resamples = {
        name: torch.einsum("c,cbt->bt", shares, torch.stack([_resamples(g)[name] for g in groups]))
        for name in ("information", "own", "top")
    }
    knowable = average([group.knowable for group in groups])
    error = float((shares.square() @ _column([g.area.error for g in groups]).square()).sqrt())
    area = Estimate(average([group.area.value for group in groups]), error)
    unknown = average([group.unknown for group in groups])
    predicted = [_predicted(path, plan.spectra[g.label], g.knowable) for g in groups]
    bound = shares @ torch.stack([group.predicted_information for group in groups])
    return Group(
        label=POOLED,
        points=sum(group.points for group in groups),
        pairs=sum(group.pairs for group in groups),
        share=1.0,
        knowable=knowable,
        curves=curves,
        predicted_centre=_pooled_time(predicted, shares, knowable / 2),
        predicted_collapse=_pooled_time(predicted, shares, knowable),
        predicted_information=bound,
        area=area,
        unknown=unknown,
        law_holds=_holds(area, knowable, unknown),
        rivals=tuple(pair for group in groups for pair in group.rivals)[:20],
        resamples=resamples,
        **_landmarks(plan.times, curves, resamples, knowable),
    )


def _pooled_time(predicted: list[Predicted], shares: Tensor, information: float) -> float:
    """Where the average of I_G over classes reaches so many nats; by bisection in t."""
    low, high = 0.0, 1.0
    for _ in range(60):
        middle = torch.tensor([(low + high) / 2], dtype=torch.float64)
        bound = shares @ torch.cat([one.information(middle) for one in predicted])
        low, high = (float(middle), high) if bound < information else (low, float(middle))
    return (low + high) / 2


def _landmarks(
    times: Tensor, curves: dict[str, Curve], resamples: dict[str, Tensor], knowable: float
) -> dict[str, Landmark]:
    levels = {
        "centre": ("information", knowable / 2),
        "collapse": ("own", 0.5),
        "end": ("top", END),
    }
    return {
        name: landmark(times, curves[of].mean, resamples[of], level)
        for name, (of, level) in levels.items()
    }


def _area(times: Tensor, variance: Tensor, predicted: Predicted) -> Estimate:
    """½ ∫ tr Cov d(r²) per pair, as the integral of tr Cov / tr Cov_G over predicted information."""
    ratio = variance / predicted.variance(times)
    values = torch.trapezoid(ratio, predicted.information(times), dim=1)
    return Estimate(float(values.mean()), float(standard_error(values)))


def _holds(area: Estimate, knowable: float, unknown: float) -> bool:
    off = abs(area.value - knowable + unknown)
    return off <= FLAGGED * area.error + 0.005 * knowable


def _times(predicted: list[Predicted], count: int) -> Tensor:
    """Times equally spaced in predicted information, an eighth of them spread beyond."""
    beyond = count // 8
    slowest = max(SPREAD * math.log(one.points) for one in predicted)
    stop = max(one.time_of(SPREAD * math.log(one.points)) for one in predicted)
    stop = min(stop, 0.99)
    usual = min(predicted, key=lambda one: one.time_of(math.log(one.points)))
    reach = min(slowest, float(usual.information(torch.tensor([stop], dtype=torch.float64))[0]))
    even = torch.linspace(0, reach, count - beyond, dtype=torch.float64)
    inner = usual.times_of(even)
    first, last = inner[-1] / (1 - inner[-1]), LAST / (1 - LAST)
    ratios = torch.logspace(math.log10(first), math.log10(last), beyond + 1, dtype=torch.float64)
    return torch.cat([inner, (ratios / (1 + ratios))[1:]])


def _predicted(path: Path, values: Tensor, size: float) -> Predicted:
    return predict(math.exp(size), spectrum=values, path=path)


def _rivals(pairs: Pairs, rows: Tensor, most: int = 20) -> tuple[tuple[int, int], ...]:
    lost = (pairs.top[:, -1] < END).nonzero()[:, 0].tolist()
    found = {(int(rows[i]), int(pairs.rivals[i])) for i in lost}
    return tuple(sorted(found))[:most]


def _resamples(group: Group) -> dict[str, Tensor]:
    assert group.resamples is not None
    return group.resamples


def _column(values: list[float]) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


def _entropy(weights: Tensor) -> float:
    return float(-(weights * weights.log()).sum()) if len(weights) > 1 else 0.0


def _share(data: Source, label: int) -> float:
    return float((data.labels == label).double().mean()) if label >= 0 else 1.0


def _first(plan: Plan, label: int) -> int:
    """The first of the seeds that a class draws with, scattered over [0, 2³² − 2²¹)."""
    return (plan.seed * 0x9E3779B1 + (label + 2) * 0x85EBCA6B) % (2**32 - 2**21)


def _chosen(data: Source, labels: Sequence[int] | None) -> tuple[int, ...]:
    known = classes(data)
    if labels is None:
        return (*known, NO_LABEL) if len(known) > 1 else (NO_LABEL,)
    for label in labels:
        if label != NO_LABEL and label not in known:
            raise Mistake(f"there is no class {label}; labels are {known or 'all −1'}")
    return tuple(dict.fromkeys(labels))
