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

BINS_PER_STAGE = 10
GAP_INTERVALS = 4096  # of equal length, in which the gap is a straight line
MIN_LOSSES = 30
"""Losses of a bin from which on their spread gives the error of their mean; and, late, expected
losses whose sample is taken for another, which carry the gap."""
ROUNDING = 1e-6  # the part of the gap at noise below which losses are float32's rounding
IMPOSSIBLE_ERRORS = 4.0  # by which a loss may lie below the gap before a warning


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

    def plain(self) -> dict[str, Any]:
        """As values for JSON; what nothing fell into is null."""
        values = {
            "edges": numbers(self.edges),
            "loss": numbers(self.loss.mean),
            "error": numbers(self.loss.error),
            "counts": self.counts.long().tolist(),
            "navigation": numbers(torch.tensor(self.navigation)),
            "refinement": numbers(torch.tensor(self.refinement)),
        }
        if self.oracle is not None:
            values |= {"oracle": numbers(self.oracle.mean)}
        return values


class StageMeter:
    """Collects losses by time; `curves` gives their means.

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
        bins: int = BINS_PER_STAGE,
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
        clock_times = t.detach().double().to(losses.device)
        times = self.convention.to_t(clock_times)
        bin_indices = torch.bucketize(times, self._inner, right=True)
        dropped = torch.zeros_like(bin_indices)
        if labels is not None:
            dropped = (labels.to(losses.device) == NO_LABEL).long()
        rows = [torch.ones_like(losses), losses, losses.square()]
        if self._gaps is not None:
            # without labels every pair is one of the whole set
            unlabelled = dropped if labels is not None else torch.ones_like(dropped)
            gap, error, rare, variance = _interpolate(self._gaps, times, unlabelled).T
            weight = 1.0 if self.weight is None else self.weight(clock_times).detach().double()
            less = losses - weight * gap  # of each loss at its own time
            rows += [less, less.square(), weight * error, rare, weight**2 * variance]
        bins = len(self.edges) - 1
        for k, values in enumerate(rows):
            flat = (dropped * len(rows) + k) * bins + bin_indices  # into [2, rows, bins]
            self._sums.view(-1).index_add_(0, flat, values)

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
        # Where fewer than MIN_LOSSES losses carry the gap, their spread may be too small:
        # the error is at least that of the expected variance.
        expected = (sums[7] / counts.square()).sqrt()
        error = torch.where(sums[6] < MIN_LOSSES, torch.maximum(less.error, expected), less.error)
        error = (error.square() + (sums[5] / counts).square()).sqrt()  # with the gap's own error
        few = counts < MIN_LOSSES
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
    if bool((counts >= MIN_LOSSES).any()) and not bool(oracle.mean.isfinite().any()):
        yield (
            "the gap of the whole set was not measured, which pairs without a label have; measure"
            " stages with the label −1 too"
        )
    errors = (oracle.mean / oracle.error).nan_to_num(nan=0.0)
    worst = int(errors.argmin())
    if errors[worst] < -IMPOSSIBLE_ERRORS:
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


def _averaged(loss: Curve, widths: Tensor, bins: slice) -> Estimate:
    """The mean over bins by their width, those that nothing fell into left out.

    Its error is unknown, NaN, where that of any other bin is: one loss tells none.
    """
    filled = loss.mean[bins].isfinite()
    errors = torch.where(filled, loss.error[bins], 0)
    shares = widths[bins] * filled
    shares = shares / shares.sum()
    mean = (shares * loss.mean[bins].nan_to_num()).sum()
    error = (shares * errors).square().sum().sqrt()
    return Estimate(float(mean), float(error))


def _gaps(stages: Stages, label_drop: float) -> Tensor:
    """The gap of labelled pairs and of others at equally spaced times, per dimension: [2, 4, n].

    Four rows: the gap; its error; and, for losses that are M where the sample is taken for another
    and else 0, the share of them that is M, gap / M, and their variance, gap · M. M is the loss at
    a distance as between two samples. What was not measured is NaN.
    """
    times = torch.linspace(0, 1, GAP_INTERVALS + 1, dtype=torch.float64)
    measured = {group.label for group in stages.groups}
    labelled = stages.gap_at(times)
    whole = Curve(*torch.full((2, len(times)), torch.nan, dtype=torch.float64))
    if NO_LABEL in measured:
        whole = stages.gap_at(times, label=NO_LABEL)
    if label_drop:
        shares = torch.tensor([1 - label_drop, label_drop], dtype=torch.float64)
        labelled = Curve(
            shares[0] * labelled.mean + shares[1] * whole.mean,
            shares[0] * labelled.error + shares[1] * whole.error,
        )
    lift = stages.squared_amplification(times.clamp(max=float(stages.times[-1])))
    rows = []
    for curve in (labelled, whole):
        gap, error = curve.mean / stages.dims, curve.error / stages.dims
        other = 2 * lift * (gap[0] / lift[0])  # M: twice the variance of the data, lifted to t
        error = error + ROUNDING * gap[0]
        rows.append(torch.stack([gap, error, gap / other, gap * other]))
    return torch.stack(rows)


def _interpolate(gaps: Tensor, times: Tensor, unlabelled: Tensor) -> Tensor:
    """The four rows of `_gaps` at times [b], [b, 4], of labelled pairs or of others."""
    positions = times.clamp(0, 1) * GAP_INTERVALS
    before = positions.long().clamp(max=GAP_INTERVALS - 1)
    share = positions - before
    low = gaps[unlabelled, :, before] * (1 - share)[:, None]
    return low + gaps[unlabelled, :, before + 1] * share[:, None]
