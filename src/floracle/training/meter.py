"""The stage meter: losses by time in both stages, from any training loop.

    meter = floracle.StageMeter(stages)
    meter.add(t, losses, labels)        # in the loop; t = 0 is noise, losses per dimension
    curves = meter.curves()

Losses are averaged in bins of t, half of them before the end of navigation and half after it.
Times need not be uniform: each bin has the mean of what fell into it, the gap is taken off every
loss at its own time, and the stages are averages of bins by their width. Nothing waits for a GPU
before the curves are asked for.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from floracle.analysis.curves import Curve, Estimate
from floracle.analysis.stages.result import Stages
from floracle.core.fields import Convention
from floracle.core.point_set import NO_LABEL
from floracle.run.errors import InputError

BINS = 10
"""Bins of each stage."""
PLACES = 4096
"""Times between which the gap is a straight line."""
ENOUGH = 30
"""Losses of a bin from which on the spread of losses tells the error of their mean; and, late,
losses whose sample is taken for another, which carry the gap."""
ROUNDING = 1e-6
"""The part of the gap at noise below which losses are those of float32's rounding."""
BELOW = 4.0
"""Errors by which a loss may lie below the gap before it is called impossible."""


@dataclass(frozen=True)
class MeterCurves:
    """Losses by bins of t; float64 [bins], NaN where nothing fell."""

    edges: Tensor
    """[bins + 1], from noise to data."""
    split: float
    """The end of navigation."""
    loss: Curve
    counts: Tensor
    navigation: Estimate
    """The mean loss over times before the split."""
    refinement: Estimate
    oracle: Curve | None = None
    """Loss − gap: the oracle loss of a network that is trained on conditional targets; NaN in bins
    with fewer than 30 losses."""
    warnings: tuple[str, ...] = ()
    """What shows that losses are not those that the gap belongs to."""

    @property
    def middles(self) -> Tensor:
        """The middle of each bin."""
        return (self.edges[1:] + self.edges[:-1]) / 2

    def plain(self) -> dict[str, Any]:
        """As values for JSON; what nothing fell into is null."""
        found = {
            "edges": numbers(self.edges),
            "loss": numbers(self.loss.mean),
            "error": numbers(self.loss.error),
            "counts": self.counts.long().tolist(),
            "navigation": numbers(torch.tensor(self.navigation)),
            "refinement": numbers(torch.tensor(self.refinement)),
        }
        if self.oracle is not None:
            found |= {"oracle": numbers(self.oracle.mean)}
        return found


class StageMeter:
    """Collects losses by time until they are asked for; the one object here that remembers.

    Times are ours, t = 0 at noise, or those of a `convention`. Losses are ‖v − (data − noise)‖²
    per dimension on the path that the stages were measured on, times `weight` of the times as they
    are given, if there is one. `label_drop` is the share of labels that the network itself drops
    of those given to `add`. The gap is that of the classes for pairs with labels, of the whole
    set for others; `curves` says in `warnings` where losses cannot be what is said here.
    """

    def __init__(
        self,
        stages: Stages | float,
        *,
        bins: int = BINS,
        convention: Convention | None = None,
        weight: Callable[[Tensor], Tensor] | None = None,
        label_drop: float = 0.0,
    ) -> None:
        self.split = end_of(stages)
        if not 0 < self.split < 1 or bins < 1:
            raise InputError(f"a split lies inside (0, 1) with bins beside it, got {self.split:g}")
        if not 0 <= label_drop < 1:
            raise InputError(f"label_drop is a share below 1, got {label_drop:g}")
        self.edges = stage_edges(self.split, bins)
        self.convention, self.weight = convention or Convention(), weight
        self._gaps = _gaps(stages, label_drop) if isinstance(stages, Stages) else None
        self._inner = self.edges[1:-1]
        self._sums: Tensor | None = None

    def add(self, t: Tensor, losses: Tensor, labels: Tensor | None = None) -> None:
        """Count losses [b] at times t [b]; pairs labelled −1 had theirs dropped and stay apart."""
        losses = losses.detach().double()
        if t.shape != losses.shape or losses.ndim != 1:
            raise InputError(
                f"one loss a sample is needed, got times {list(t.shape)} and losses"
                f" {list(losses.shape)}; take the mean over everything but the batch"
            )
        if self._sums is None:
            self.restore(self.sums().to(losses.device))
        assert self._sums is not None
        given = t.detach().double().to(losses.device)
        times = self.convention.to_t(given)
        places = torch.bucketize(times, self._inner, right=True)
        dropped = torch.zeros_like(places)
        if labels is not None:
            dropped = (labels.to(losses.device) == NO_LABEL).long()
        rows = [torch.ones_like(losses), losses, losses.square()]
        if self._gaps is not None:
            whole = dropped if labels is not None else torch.ones_like(dropped)
            gap, error, rare, spread = _between(self._gaps, times, whole).T
            weight = 1.0 if self.weight is None else self.weight(given).detach().double()
            less = losses - weight * gap
            rows += [less, less.square(), weight * error, rare, weight**2 * spread]
        bins = len(self.edges) - 1
        for k, values in enumerate(rows):
            where = (dropped * len(rows) + k) * bins + places
            self._sums.view(-1).index_add_(0, where, values)

    def sums(self) -> Tensor:
        """Counts, sums, sums of squares, of labelled pairs and others: float64 [2, 3, bins].

        With stages there are eight: the same two sums of losses less the gap, its error, how many
        losses are expected to carry it, and what variance such losses have.
        """
        if self._sums is None:
            rows = 3 if self._gaps is None else 8
            return torch.zeros(2, rows, len(self.edges) - 1, dtype=torch.float64)
        return self._sums.cpu()

    def restore(self, sums: Tensor) -> None:
        """Go on from what `sums` gave, on the device that losses will be on."""
        self._sums = sums.clone()
        self._inner = self.edges[1:-1].to(sums.device)
        if self._gaps is not None:
            self._gaps = self._gaps.to(sums.device)

    def clear(self) -> None:
        """Forget everything."""
        self._sums = None

    def curves(self, *, dropped: bool = False) -> MeterCurves:
        """What was collected of labelled pairs, or of those whose label was dropped."""
        return curves_of(self.sums()[int(dropped)], self.edges, self.split)


def curves_of(sums: Tensor, edges: Tensor, split: float) -> MeterCurves:
    """Curves from the sums of a meter, float64 [3, bins], or [8, bins] of one with stages."""
    counts, widths = sums[0], edges.diff()
    loss, half = _curve(counts, sums[1], sums[2]), len(counts) // 2
    oracle, warnings = None, ()
    if len(sums) > 3:
        less = _curve(counts, sums[3], sums[4])
        rare = (sums[7] / counts.square()).sqrt()  # of mean losses that few samples carry
        error = torch.where(sums[6] < ENOUGH, torch.maximum(less.error, rare), less.error)
        error = (error.square() + (sums[5] / counts).square()).sqrt()
        few = counts < ENOUGH
        oracle = Curve(less.mean.masked_fill(few, torch.nan), error.masked_fill(few, torch.nan))
        warnings = tuple(_warnings(oracle, counts, edges))
    return MeterCurves(
        edges,
        split,
        loss,
        counts,
        _averaged(loss, widths, slice(0, half)),
        _averaged(loss, widths, slice(half, None)),
        oracle,
        warnings,
    )


def _curve(counts: Tensor, total: Tensor, squares: Tensor) -> Curve:
    """Means of bins; two values at least are needed to know how far one may be off."""
    mean = total / counts
    spread = (squares / counts - mean.square()).clamp(min=0)
    return Curve(mean, torch.where(counts > 1, (spread / (counts - 1)).sqrt(), torch.nan))


def _warnings(oracle: Curve, counts: Tensor, edges: Tensor) -> Iterator[str]:
    """What no network's losses can be."""
    if bool((counts >= ENOUGH).any()) and not bool(oracle.mean.isfinite().any()):
        yield (
            "the gap of the whole set was not measured, which pairs without a label have; measure"
            " stages with the label −1 too"
        )
    errors = (oracle.mean / oracle.error).nan_to_num(nan=0.0)
    worst = int(errors.argmin())
    if errors[worst] < -BELOW:
        yield (
            f"losses at t = {edges[worst]:.3g} to {edges[worst + 1]:.3g} lie below the gap by"
            f" {-oracle.mean[worst]:.3g} ± {oracle.error[worst]:.2g}, as no network's can: look at"
            " the convention of times, the weight, the path, the coupling of noise and data, and"
            " whether losses are means over dimensions"
        )


def stage_edges(split: float, bins: int) -> Tensor:
    """Edges of equal bins on either side of the split, float64 [2 · bins + 1]."""
    early = torch.linspace(0, split, bins + 1, dtype=torch.float64)
    return torch.cat([early, torch.linspace(split, 1, bins + 1, dtype=torch.float64)[1:]])


def end_of(stages: Stages | float) -> float:
    """The end of navigation: as given, as measured, or the collapse where it has no end."""
    if not isinstance(stages, Stages):
        return float(stages)
    for mark in (stages.landmarks.end, stages.landmarks.collapse):
        if mark.value is not None:
            return mark.value
    raise InputError("these stages reach neither an end nor a collapse; give the split as a time")


def numbers(values: Tensor) -> list[float | None]:
    """Numbers of six digits for JSON: what is not finite becomes null."""
    return [float(f"{v:.6g}") if math.isfinite(v) else None for v in values.tolist()]


def _averaged(loss: Curve, widths: Tensor, these: slice) -> Estimate:
    """The mean over bins by their width, those that nothing fell into left out.

    Its error is unknown, NaN, where that of any other bin is: one loss tells none.
    """
    known = loss.mean[these].isfinite()
    errors = torch.where(known, loss.error[these], 0)
    shares = widths[these] * known
    shares = shares / shares.sum()
    mean = (shares * loss.mean[these].nan_to_num()).sum()
    error = (shares * errors).square().sum().sqrt()
    return Estimate(float(mean), float(error))


def _gaps(stages: Stages, label_drop: float) -> Tensor:
    """What is known of labelled pairs and of others at even times, per dimension: [2, 4, n].

    That is the gap, its error, and of losses that are M where the sample is taken for another and
    else 0: how many of them are M, gap / M, and their variance, gap · M. M is that of a distance
    as between two samples. What was not measured is NaN.
    """
    times = torch.linspace(0, 1, PLACES + 1, dtype=torch.float64)
    measured = {group.label for group in stages.groups}
    own = stages.gap_at(times)
    whole = Curve(*torch.full((2, len(times)), torch.nan, dtype=torch.float64))
    if NO_LABEL in measured:
        whole = stages.gap_at(times, label=NO_LABEL)
    mixed = own
    if label_drop:
        shares = torch.tensor([1 - label_drop, label_drop], dtype=torch.float64)
        mixed = Curve(
            shares[0] * own.mean + shares[1] * whole.mean,
            shares[0] * own.error + shares[1] * whole.error,
        )
    lift = stages.lift(times.clamp(max=float(stages.times[-1])))
    every = []
    for curve in (mixed, whole):
        gap, error = curve.mean / stages.dims, curve.error / stages.dims
        other = 2 * lift * (gap[0] / lift[0])
        error = error + ROUNDING * gap[0]
        every.append(torch.stack([gap, error, gap / other, gap * other]))
    return torch.stack(every)


def _between(gaps: Tensor, times: Tensor, whole: Tensor) -> Tensor:
    """What is known [b, 4] at times [b], of labelled pairs or of others; at the ends beyond."""
    places = times.clamp(0, 1) * PLACES
    before = places.long().clamp(max=PLACES - 1)
    share = places - before
    found = gaps[whole, :, before] * (1 - share)[:, None]
    return found + gaps[whole, :, before + 1] * share[:, None]
