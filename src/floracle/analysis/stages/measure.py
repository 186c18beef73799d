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
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import reduce
from itertools import groupby

import torch
from torch import Tensor

from floracle.analysis.curves import Curve, bootstrap_means, control_variate
from floracle.analysis.prediction.closed_form import PredictedStages, predict
from floracle.analysis.prediction.expected import PredictedClasses, predict_classes
from floracle.core.paths import ProbabilityPath
from floracle.core.point_set import NO_LABEL, PointSet, classes
from floracle.core.seeds import generator, noise
from floracle.core.spectrum import spectra
from floracle.oracle.gaussian_data import GaussianOracle
from floracle.oracle.oracle import Oracle
from floracle.oracle.pairs.forward_pairs import PairCurves
from floracle.run.budget import memory_budget
from floracle.run.errors import InputError
from floracle.run.exchange import broadcast_from_first
from floracle.run.results import provenance

from .held_out import held_out_curves
from .information import area_under, times_for
from .pooled import RESAMPLED, Pool, pool_classes
from .prefetch import PairBatch, prefetch_classes, readable
from .result import END, ClassStages, Stages, landmarks

AnyOracle = Oracle | GaussianOracle
FEWEST = 12
"""Times of a curve at least. With fewer, landmarks lie off by more than their intervals."""
NOISE = 24
"""Bytes that a pair takes for every dimension: its noise, and what is made of it."""


@dataclass(frozen=True)
class StagesPlan:
    """What is measured: chosen once, the same for every class."""

    labels: tuple[int, ...]
    times: Tensor
    """float64 [T], equally spaced in predicted information, a few beyond."""
    pairs: int
    seed: int
    spectra: dict[int, Tensor]
    sizes: dict[int, float]
    """H(w) of every class in nats; 0 of a single point."""
    within: dict[int, float] = field(default_factory=dict)
    """The mean variance of atoms that are Gaussians themselves, by class."""

    def predicted(self, path: ProbabilityPath, label: int) -> PredictedStages:
        """The stages to expect of a class."""
        values, points = self.spectra[label], math.exp(self.sizes[label])
        return predict(points, spectrum=values, path=path, within=self.within.get(label, 0.0))


def stages(
    oracle: AnyOracle,
    *,
    times: int = 50,
    pairs: int = 512,
    classes: Sequence[int] | None = None,
    seed: int = 0,
    held_out: PointSet | None = None,
) -> Stages:
    """Measure the two stages of the oracle's data.

    `classes` are the labels to measure, −1 meaning the whole set; by default every class and the
    whole set. `pairs` are drawn per class. Held-out points join the curves as `held_out_*`.
    """
    plan = plan_stages(oracle, times=times, pairs=pairs, labels=classes, seed=seed)
    pool, groups = Pool({}), []
    for group in measure_classes(oracle, plan, plan.labels, held_out=held_out):
        pool = pool.merge(Pool.of(group))
        groups.append(replace(group, resamples=None))
    return assemble_stages(oracle, plan, groups, pool)


def plan_stages(
    oracle: AnyOracle,
    *,
    times: int = 50,
    pairs: int = 512,
    labels: Sequence[int] | None = None,
    seed: int = 0,
) -> StagesPlan:
    """Choose classes and times; costs the covariance spectra."""
    if times < FEWEST:
        raise InputError(f"a stage curve needs at least {FEWEST} times, got {times}")
    if pairs < 2:
        raise InputError(f"errors need at least 2 pairs, got {pairs}")
    chosen = _chosen(oracle.data, labels)
    sizes = {label: _entropy(oracle.data.atoms(label).weights) for label in chosen}
    within = _within(oracle, chosen)
    plan = StagesPlan(
        chosen, torch.empty(0), pairs, seed, _spectra(oracle.data, sizes), sizes, within
    )
    expected = [plan.predicted(oracle.path, label) for label in chosen]
    return replace(plan, times=times_for(expected, times))


def measure_class(
    oracle: AnyOracle, plan: StagesPlan, label: int, *, held_out: PointSet | None = None
) -> ClassStages:
    """The stages of one class."""
    (group,) = measure_classes(oracle, plan, (label,), held_out=held_out)
    return group


def measure_classes(
    oracle: AnyOracle, plan: StagesPlan, labels: Sequence[int], *, held_out: PointSet | None = None
) -> Iterator[ClassStages]:
    """The stages of several classes, in their order."""
    shares = _shares(oracle.data, labels)
    predicted = predict_classes([plan.predicted(oracle.path, label) for label in labels])
    known = dict(zip(labels, predicted, strict=True))
    several = len(labels) > 1 and held_out is None
    for drawn, found in _pairs(oracle, plan, labels, several=several):
        label = drawn.label
        of_classes = 0.0 if found.class_entropy is None else class_information(oracle.data)
        group = _group(plan, drawn, found, known[label], share=shares[label], classes=of_classes)
        if held_out is not None:
            group.curves.update(_held_out(oracle, plan, label, held_out))
        yield group


def _pairs(
    oracle: AnyOracle, plan: StagesPlan, labels: Sequence[int], *, several: bool
) -> Iterator[tuple[PairBatch, PairCurves]]:
    """The pairs of classes; those of `several` overlap where they can."""

    def overlapping(label: int) -> bool:
        return several and readable(oracle, label, plan.pairs)

    for overlap, some in groupby(labels, overlapping):
        drawn = (_drawn(oracle, plan, label) for label in some)
        if overlap and isinstance(oracle, Oracle):
            yield from prefetch_classes(oracle, drawn, plan.times)
        else:
            yield from ((one, _followed(oracle, plan, one)) for one in drawn)


def _drawn(oracle: AnyOracle, plan: StagesPlan, label: int) -> PairBatch:
    rows, weights = oracle.data.atoms(label)
    seed = _first(plan, label)
    chosen = torch.multinomial(weights, plan.pairs, replacement=True, generator=generator(seed))
    return PairBatch(label, rows[chosen], len(rows), seed)


def _group(
    plan: StagesPlan,
    drawn: PairBatch,
    found: PairCurves,
    known: PredictedClasses,
    *,
    share: float,
    classes: float,
) -> ClassStages:
    """The stages of a class from its pairs; `classes` is what there is to know about classes."""
    knowable, predicted, times = plan.sizes[drawn.label], known.predicted, plan.times
    bound = predicted.information(times)
    variance = apply_control(found, bound, knowable)
    within = 0.0 if found.within_variance is None else found.within_variance
    values = {
        "gap": found.amplification.square() * (variance + within),
        "max_weight": found.max_weight,
        "self_weight": found.self_weight,
        "entropy": found.entropy,
        "information": knowable - found.entropy,
        "participation": found.participation,
    }
    if found.class_entropy is not None:
        values["class_information"] = classes - found.class_entropy
    curves = Curve.of_each(values)
    names = [name for name in (*RESAMPLED, "class_information") if name in values]
    again = bootstrap_means(torch.cat([values[name] for name in names], 1), drawn.seed)
    resamples = dict(zip(names, again.split(len(plan.times), 1), strict=True))
    area = area_under(times, found.variance, predicted)
    unknown = float(curves["entropy"].mean[-1])
    return ClassStages(
        label=drawn.label,
        points=drawn.atoms,
        pairs=plan.pairs,
        share=share,
        max_information=knowable,
        curves=curves,
        predicted_centre=known.centre,
        predicted_collapse=known.collapse,
        predicted_information=bound,
        area=area,
        remaining_information=unknown,
        rivals=_rivals(found, drawn.rows),
        max_class_information=classes,
        resamples=resamples,
        **landmarks(
            times,
            curves,
            resamples,
            along=bound,
            pairs=plan.pairs,
            knowable=knowable,
            classes=classes,
        ),
    )


def apply_control(found: PairCurves, bound: Tensor, knowable: float) -> Tensor:
    """The variance of pairs [p, T] with its control, up to the predicted centre.

    Until then many samples vote. Later a single pair may carry a variance or its control, which no
    other pair can tell of.
    """
    early = bound <= knowable / 2
    variance = found.variance.clone()
    variance[:, early] = control_variate(variance[:, early], found.control_variate[:, early])
    return variance


def _followed(oracle: AnyOracle, plan: StagesPlan, drawn: PairBatch) -> PairCurves:
    """The posterior of these pairs at all times, each with both signs of its noise."""
    size, parts = together(oracle, plan.pairs), []
    for start in range(0, plan.pairs, size):
        first, label = drawn.seed + 1 + start, drawn.label
        rows = drawn.rows[start : start + size]
        outer = noise(range(first, first + len(rows)), oracle.data.shape)
        if isinstance(oracle, Oracle):
            found = oracle.pairs(rows, outer, plan.times, label=label, mirrored=True)
        else:
            seeds = range(first + plan.pairs, first + plan.pairs + len(rows))
            inner = noise(seeds, oracle.data.shape)
            found = oracle.pairs(rows, outer, plan.times, inner=inner, label=label, mirrored=True)
        parts.append(found)
    return reduce(PairCurves.joined, parts)


def together(oracle: AnyOracle, pairs: int) -> int:
    """How many pairs are drawn at a time: their noise takes a quarter of the memory at most."""
    dims = torch.Size(oracle.data.shape).numel()
    size = max(1, min(pairs, memory_budget(oracle.memory) // 4 // (NOISE * dims)))
    group = oracle.group if isinstance(oracle, Oracle) else None
    return broadcast_from_first(group, [size])[0] if group else size


def _held_out(
    oracle: AnyOracle, plan: StagesPlan, label: int, held_out: PointSet
) -> dict[str, Curve]:
    if not isinstance(oracle, Oracle):
        raise InputError(
            "held-out data is compared with points; open the data with moments='mean'"
        )
    seed = _first(plan, label) + 1
    return held_out_curves(oracle, held_out, plan.times, label, pairs=plan.pairs, seed=seed)


def assemble_stages(
    oracle: AnyOracle, plan: StagesPlan, groups: Iterable[ClassStages], pool: Pool
) -> Stages:
    """All classes together, with their average."""
    groups = list(groups)
    by_class = [group for group in groups if group.label >= 0]
    if len(by_class) > 1:
        predicted = [plan.predicted(oracle.path, group.label) for group in by_class]
        groups.insert(0, pool_classes(plan.times, by_class, predicted, pool))
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


def _shares(data: PointSet, labels: Sequence[int]) -> dict[int, float]:
    """What `mass` says of several classes, from one look at all labels."""
    rows = torch.bincount(data.labels + 1, getattr(data, "weights", None)).double()
    shares = rows / rows.sum()
    return {label: float(shares[label + 1]) if label >= 0 else 1.0 for label in labels}


def _within(oracle: AnyOracle, labels: Sequence[int]) -> dict[int, float]:
    """The mean variance of Gaussian atoms by class; nothing where atoms are points."""
    if isinstance(oracle, Oracle):
        return {}
    return {label: oracle.variance(label) for label in labels}


def _rivals(pairs: PairCurves, rows: Tensor, most: int = 20) -> tuple[tuple[int, int], ...]:
    lost = (pairs.max_weight[:, -1] < END).nonzero()[:, 0].tolist()
    found = {(int(rows[i]), int(pairs.rivals[i])) for i in lost}
    return tuple(sorted(found))[:most]


def class_information(data: PointSet) -> float:
    """H(class) in nats: what there is to know about which class a sample is of."""
    atoms = data.atoms()
    _, index = data.labels[atoms.rows].unique(return_inverse=True)
    shares = torch.zeros(int(index.max()) + 1, dtype=torch.float64)
    return float(torch.special.entr(shares.index_add_(0, index, atoms.weights)).sum())


def _spectra(data: PointSet, sizes: dict[int, float]) -> dict[int, Tensor]:
    """The spectra of classes; that of a single point is zero, and it is not read for that."""
    several = [label for label, nats in sizes.items() if nats > 0]
    values = spectra(data, several) if several else {}
    for label in several:
        if not values[label].any():
            points = "the points" if label == NO_LABEL else f"the points of class {label}"
            raise InputError(
                f"{points} differ by so little that their squares are 0 in float32; scale the"
                " data, as with normalize='standard'"
            )
    return dict.fromkeys(sizes, torch.zeros(1, dtype=torch.float64)) | values


def _entropy(weights: Tensor) -> float:
    """H(w) in nats; 0 also where float64 cannot tell e^H, the number of points, from 1."""
    if len(weights) < 2:
        return 0.0
    nats = float(-(weights * weights.log()).sum())
    return nats if math.exp(nats) > 1 else 0.0


def _first(plan: StagesPlan, label: int) -> int:
    """The first of the seeds that a class draws with, scattered over [0, 2³² − 2²¹)."""
    return (plan.seed * 0x9E3779B1 + (label + 2) * 0x85EBCA6B) % (2**32 - 2**21)


def _chosen(data: PointSet, labels: Sequence[int] | None) -> tuple[int, ...]:
    known = classes(data)
    if labels is None:
        return (*known, NO_LABEL) if len(known) > 1 else (NO_LABEL,)
    for label in labels:
        if label != NO_LABEL and label not in known:
            raise InputError(f"there is no class {label}; labels are {known or 'all −1'}")
    return tuple(dict.fromkeys(labels))
