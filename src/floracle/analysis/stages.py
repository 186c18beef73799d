"""The two stages of a data set: where navigation ends and refinement begins.

Pairs (data, noise) are drawn on the forward path and the posterior of each is followed through all
times. Averages over pairs give the curves; the landmarks are where they cross:

    centre     E H = ½ H(w)          half of what there is to know is known
    collapse   E γ_own = ½           the pair's own sample holds half of the weight
    end        E max γ = .99         one sample holds nearly all of it

The information law (law.py) checks the posterior against itself: an identity that fails where mass
is lost (Guo, Shamai & Verdú 2005).
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from floracle.core.paths import Path
from floracle.core.seeds import generator, noise
from floracle.core.source import NO_LABEL, Source, classes
from floracle.core.spectrum import spectra
from floracle.oracle.oracle import Oracle
from floracle.oracle.pairs import Pairs
from floracle.run.errors import Mistake
from floracle.run.results import provenance

from .curves import Curve, controlled, resampled
from .groups import END, Group, Stages, landmarks, law_holds
from .held_out import held_out_curves
from .law import area_under, times_for
from .pooled import pooled
from .prediction import Predicted, predict


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
    grid = times_for([_predicted(oracle.path, found[c], sizes[c]) for c in chosen], times)
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
    area = area_under(plan.times, variance, predicted)
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
        law_holds=law_holds(area, plan.sizes[label], float(curves["entropy"].mean[-1])),
        rivals=_rivals(found, rows),
        resamples=resamples,
        **landmarks(plan.times, curves, resamples, plan.sizes[label]),
    )


def assembled(oracle: Oracle, plan: Plan, groups: Iterable[Group]) -> Stages:
    """All classes together, with their average."""
    groups = list(groups)
    by_class = [group for group in groups if group.label >= 0]
    if len(by_class) > 1:
        predicted = [_predicted(oracle.path, plan.spectra[g.label], g.knowable) for g in by_class]
        groups.insert(0, pooled(plan.times, by_class, predicted))
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


def _predicted(path: Path, values: Tensor, size: float) -> Predicted:
    return predict(math.exp(size), spectrum=values, path=path)


def _rivals(pairs: Pairs, rows: Tensor, most: int = 20) -> tuple[tuple[int, int], ...]:
    lost = (pairs.top[:, -1] < END).nonzero()[:, 0].tolist()
    found = {(int(rows[i]), int(pairs.rivals[i])) for i in lost}
    return tuple(sorted(found))[:most]


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
