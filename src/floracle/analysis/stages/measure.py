"""The two stages of a data set: where navigation ends and refinement begins.

Pairs (data, noise) are drawn on the forward path, and the posterior of each is computed at all
times. Averages over pairs give the curves; the landmarks are where they cross:

    centre     E H = ½ H(w)          half of the information is reached
    collapse   E γ_own = ½           the pair's own training point has half of the weight
    end        E max γ = .99         one training point has nearly all of it

The information law (information.py) checks the posterior against itself: an identity that fails
where mass is lost (Guo, Shamai & Verdú 2005).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from functools import reduce
from itertools import groupby

import torch
from torch import Tensor

from floracle.analysis.curves import END_WEIGHT, Curve, bootstrap_means, subtract_control
from floracle.analysis.prediction.closed_form import PredictedStages, predict_landmarks
from floracle.core.point_set import PointSet
from floracle.core.seeds import generator, noise
from floracle.data.held_out import join_and_warn
from floracle.oracle.oracle import Oracle
from floracle.oracle.pairs.forward_pairs import PairCurves
from floracle.run.budget import memory_budget
from floracle.run.errors import InputError
from floracle.run.exchange import broadcast_from_first
from floracle.run.results import provenance

from .class_stages import ClassStages, find_class_landmarks
from .curve_table import CURVES, HELD_OUT_CURVES, LANDMARKS, PairMeasurement
from .information import information_area
from .plan import AnyOracle, StagesPlan, plan_stages
from .pooled import MAX_RIVALS, Pool, pool_classes
from .prefetch import PairBatch, can_prefetch, prefetch_classes
from .result import Stages

PAIR_BYTES_PER_DIM = 24
"""Bytes that a pair takes for every dimension: its noise, and what is computed from it."""
MAX_HELD_OUT_PAIRS, MIN_HELD_OUT_PAIRS, HELD_OUT_NUMBERS = 64, 16, 2**22
"""Held-out pairs of a class. Each costs a product with the data at every time, so there are at
most 64, and down to 16 where points have so many dimensions that they exceed 2²² numbers."""
HELD_OUT_BYTES_PER_DIM = 8
"""Bytes of a held-out pair for every dimension while it is drawn: its point and its noise."""


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

    Parameters
    ----------
    oracle
        The exact field of the data.
    times
        Number of times between noise and data, at least 12.
    pairs
        Pairs (data, noise) drawn for each class; intervals need 256.
    classes
        Labels to measure, −1 for the whole set; by default every class and the whole set.
    seed
        Where the random draws start.
    held_out
        Data that was not trained on; its curves are `held_out_*`.

    Raises
    ------
    InputError
        If a class does not occur, or there are too few times or pairs.
    """
    if held_out is not None:
        held_out = join_and_warn(oracle.data, held_out)
    plan = plan_stages(oracle, times=times, pairs=pairs, labels=classes, seed=seed)
    groups, pool = measure_and_pool(oracle, plan, plan.labels, held_out=held_out)
    return assemble_stages(oracle, plan, groups, pool)


def measure_and_pool(
    oracle: AnyOracle, plan: StagesPlan, labels: Sequence[int], *, held_out: PointSet | None = None
) -> tuple[list[ClassStages], Pool]:
    """The stages of several classes without their resamples, and the sum of these."""
    groups, pool = [], Pool({})
    for group in measure_classes(oracle, plan, labels, held_out=held_out):
        pool = pool.merge(Pool.of(group))
        groups.append(replace(group, resamples=None))
    return groups, pool


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
    shares = _class_shares(oracle.data, labels)
    landmarks = predict_landmarks([plan.predicted(oracle.path, label) for label in labels])
    predicted_times = dict(zip(labels, landmarks, strict=True))
    prefetch = len(labels) > 1 and held_out is None
    for batch, pairs in _measured_pairs(oracle, plan, labels, prefetch=prefetch):
        label = batch.label
        class_nats = 0.0 if pairs.class_entropy is None else class_information(oracle.data)
        group = _summarize_class(
            plan,
            batch,
            pairs,
            plan.predicted(oracle.path, label),
            predicted_times=predicted_times[label],
            share=shares[label],
            max_class_information=class_nats,
        )
        if held_out is not None:
            group.curves.update(held_out_curves(oracle, plan, label, held_out))
        yield group


def _measured_pairs(
    oracle: AnyOracle, plan: StagesPlan, labels: Sequence[int], *, prefetch: bool
) -> Iterator[tuple[PairBatch, PairCurves]]:
    """The pairs of every class and their curves; `prefetch` lets reading overlap if possible."""

    def overlaps(label: int) -> bool:
        return prefetch and can_prefetch(oracle, label, plan.pairs)

    for overlap, run_of_labels in groupby(labels, overlaps):
        batches = (draw_pairs(oracle, plan, label) for label in run_of_labels)
        if overlap and isinstance(oracle, Oracle):
            yield from prefetch_classes(oracle, batches, plan.times)
        else:
            yield from ((batch, measure_pairs(oracle, plan, batch)) for batch in batches)


def draw_pairs(oracle: AnyOracle, plan: StagesPlan, label: int) -> PairBatch:
    """The pairs of a class, their data drawn in proportion to its weight."""
    rows, weights = oracle.data.atoms(label)
    seed = plan.first_seed(label)
    drawn = torch.multinomial(weights, plan.pairs, replacement=True, generator=generator(seed))
    return PairBatch(label, rows[drawn], len(rows), seed)


def measure_pairs(oracle: AnyOracle, plan: StagesPlan, batch: PairBatch) -> PairCurves:
    """The curves of these pairs at all times, each pair with both signs of its noise."""
    size, label = pairs_at_a_time(oracle, plan.pairs), batch.label
    curves = []
    for start in range(0, plan.pairs, size):
        seed, rows = batch.seed + 1 + start, batch.rows[start : start + size]
        outer = noise(range(seed, seed + len(rows)), oracle.data.shape)
        if isinstance(oracle, Oracle):
            block = oracle.pairs(rows, outer, plan.times, label=label, mirrored=True)
        else:  # a training point is a Gaussian: the pair's data is a sample of it, by `inner`
            seeds = range(seed + plan.pairs, seed + plan.pairs + len(rows))
            inner = noise(seeds, oracle.data.shape)
            block = oracle.pairs(rows, outer, plan.times, inner=inner, label=label, mirrored=True)
        curves.append(block)
    return reduce(PairCurves.joined, curves)


def pairs_at_a_time(oracle: AnyOracle, pairs: int) -> int:
    """How many pairs are drawn at a time: their noise takes a quarter of the memory at most."""
    dims = torch.Size(oracle.data.shape).numel()
    size = max(1, min(pairs, memory_budget(oracle.memory) // 4 // (PAIR_BYTES_PER_DIM * dims)))
    group = oracle.group if isinstance(oracle, Oracle) else None
    return broadcast_from_first(group, [size])[0] if group else size


def _summarize_class(
    plan: StagesPlan,
    batch: PairBatch,
    pairs: PairCurves,
    predicted: PredictedStages,
    *,
    predicted_times: tuple[float, float],
    share: float,
    max_class_information: float,
) -> ClassStages:
    """The curves and landmarks of a class from its pairs."""
    times, max_information = plan.times, plan.entropy_nats[batch.label]
    bound = predicted.information(times)
    variance = apply_control(pairs, bound, max_information)
    measurement = PairMeasurement(pairs, variance, max_information, max_class_information)
    values = {row.name: row.pair_values(measurement) for row in CURVES}
    values = {name: curve for name, curve in values.items() if curve is not None}  # [p, T] each
    curves = Curve.of_each(values)

    # One resampling of pairs for all curves with a landmark, so their landmarks share it.
    names = [row.curve for row in LANDMARKS if row.curve in values]
    means = bootstrap_means(torch.cat([values[name] for name in names], 1), batch.seed)
    resamples = dict(zip(names, means.split(len(times), 1), strict=True))

    # the area is taken of the variance without its control: the check is of the posterior itself
    area = information_area(times, pairs.variance, predicted)
    return ClassStages(
        label=batch.label,
        points=batch.atoms,
        pairs=plan.pairs,
        share=share,
        max_information=max_information,
        curves=curves,
        predicted_centre=predicted_times[0],
        predicted_collapse=predicted_times[1],
        predicted_information=bound,
        area=area,
        remaining_information=float(curves["entropy"].mean[-1]),
        rivals=_find_rivals(pairs, batch.rows),
        max_class_information=max_class_information,
        resamples=resamples,
        **find_class_landmarks(
            times,
            curves,
            resamples,
            along=bound,
            pairs=plan.pairs,
            max_information=max_information,
            max_class_information=max_class_information,
        ),
    )


def apply_control(pairs: PairCurves, bound: Tensor, max_information: float) -> Tensor:
    """The variance of pairs [p, T] with its control variate, up to the predicted centre.

    Until then many training points have weight. Later a single pair may carry a variance or its
    control, and the other pairs say nothing about its slope.
    """
    early = bound <= max_information / 2
    variance = pairs.variance.clone()
    variance[:, early] = subtract_control(variance[:, early], pairs.control_variate[:, early])
    return variance


def held_out_curves(
    oracle: AnyOracle, plan: StagesPlan, label: int, held_out: PointSet
) -> dict[str, Curve]:
    """The curves of held-out pairs of a class, by name.

    Their gap is the oracle's loss against (data − noise). It equals that of training pairs as long
    as the posterior generalises, and stays up where it has collapsed onto training points.
    """
    if not isinstance(oracle, Oracle):
        raise InputError(
            "held-out data is compared with points; open the data with moments='mean'"
        )
    if tuple(held_out.shape) != tuple(oracle.data.shape):
        raise InputError(
            f"held-out points have shape {held_out.shape}, those of the data {oracle.data.shape}"
        )
    rows, weights = held_out.atoms(label)
    if not len(rows):
        raise InputError(f"there are no held-out points of class {label}")
    dims, seed = torch.Size(held_out.shape).numel(), plan.first_seed(label) + 1
    count = held_out_pairs(plan.pairs, dims)
    drawn = rows[torch.multinomial(weights, count, replacement=True, generator=generator(seed))]
    size = max(1, memory_budget(oracle.memory) // 8 // (HELD_OUT_BYTES_PER_DIM * dims))
    blocks = [
        oracle.held_out_pairs(
            held_out.take(drawn[index]),
            noise((index + seed).tolist(), oracle.data.shape),
            plan.times,
            label=label,
        )
        for index in torch.arange(count).split(size)
    ]
    return {
        f"held_out_{name}": Curve.of(torch.cat([getattr(block, name) for block in blocks]))
        for name in HELD_OUT_CURVES
    }


def held_out_pairs(pairs: int, dims: int) -> int:
    """How many held-out pairs of a class are measured where `pairs` of the data are."""
    return min(pairs, MAX_HELD_OUT_PAIRS, max(MIN_HELD_OUT_PAIRS, HELD_OUT_NUMBERS // dims))


def assemble_stages(
    oracle: AnyOracle, plan: StagesPlan, groups: Iterable[ClassStages], pool: Pool
) -> Stages:
    """All classes together; the average over several classes comes first."""
    groups = list(groups)
    by_class = [group for group in groups if group.label >= 0]
    if len(by_class) > 1:
        predicted = [plan.predicted(oracle.path, group.label) for group in by_class]
        groups.insert(0, pool_classes(plan.times, by_class, predicted, pool))
    return Stages(
        times=plan.times,
        groups=tuple(groups),
        dims=int(torch.Size(oracle.data.shape).numel()),
        names=tuple(getattr(oracle.data, "classes", ()) or ()),
        settings={
            "times": len(plan.times),
            "pairs": plan.pairs,
            "classes": list(plan.labels),
            "seed": plan.seed,
            "path": oracle.path.name,
        },
        provenance=provenance(data=oracle.data.fingerprint),
    )


def class_information(data: PointSet) -> float:
    """H(class) in nats: the information that identifies the class of a training point."""
    atoms = data.atoms()
    _, index = data.labels[atoms.rows].unique(return_inverse=True)
    shares = torch.zeros(int(index.max()) + 1, dtype=torch.float64)
    return float(torch.special.entr(shares.index_add_(0, index, atoms.weights)).sum())


def _class_shares(data: PointSet, labels: Sequence[int]) -> dict[int, float]:
    """`mass` of several classes, from one pass over all labels."""
    rows = torch.bincount(data.labels + 1, getattr(data, "weights", None)).double()
    shares = rows / rows.sum()
    return {label: float(shares[label + 1]) if label >= 0 else 1.0 for label in labels}


def _find_rivals(pairs: PairCurves, rows: Tensor) -> tuple[tuple[int, int], ...]:
    """Rows of the pairs whose largest weight ends below `END_WEIGHT`, with their nearest rival.

    Training points that are Gaussians have no rival (−1), and are not named.
    """
    undecided = (pairs.max_weight[:, -1] < END_WEIGHT) & (pairs.rivals >= 0).cpu()
    undecided = undecided.nonzero()[:, 0].tolist()
    rivals = {(int(rows[i]), int(pairs.rivals[i])) for i in undecided}
    return tuple(sorted(rivals))[:MAX_RIVALS]
