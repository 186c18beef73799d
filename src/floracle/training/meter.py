"""The stage meter: losses by time in both stages, from any training loop.

    meter = floracle.StageMeter(stages)
    meter.add(t, losses, labels)        # in the loop; t = 0 is noise, losses per dimension
    curves = meter.curves()

Losses are averaged in bins of t, half of them before the end of navigation and half after it.
Times need not be uniform: each bin has the mean of what fell into it, and the stages are averages
of bins by their width. Nothing waits for a GPU before the curves are asked for.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from floracle.analysis.curves import Curve, Estimate
from floracle.analysis.groups import Stages
from floracle.core.source import NO_LABEL
from floracle.run.errors import Mistake

BINS = 10
"""Bins of each stage."""


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
    """Loss − gap: the oracle loss of a network that is trained on conditional targets."""

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
    """Collects losses by time until they are asked for; the one object here that remembers."""

    def __init__(self, stages: Stages | float, *, bins: int = BINS) -> None:
        self.split = end_of(stages)
        if not 0 < self.split < 1 or bins < 1:
            raise Mistake(f"a split lies inside (0, 1) with bins beside it, got {self.split:g}")
        self.edges = stage_edges(self.split, bins)
        self.gap = stages if isinstance(stages, Stages) else None
        self._inner = self.edges[1:-1]
        self._sums: Tensor | None = None

    def add(self, t: Tensor, losses: Tensor, labels: Tensor | None = None) -> None:
        """Count losses [b] at times t [b]; pairs labelled −1 had theirs dropped and stay apart."""
        losses = losses.detach().double()
        if t.shape != losses.shape or losses.ndim != 1:
            raise Mistake(
                f"one loss a sample is needed, got times {list(t.shape)} and losses"
                f" {list(losses.shape)}; take the mean over everything but the batch"
            )
        if self._sums is None:
            self._sums = losses.new_zeros(2, 3, len(self.edges) - 1)
            self._inner = self.edges[1:-1].to(losses.device)
        times = t.detach().double().to(losses.device)
        places = torch.bucketize(times, self._inner, right=True)
        if labels is None:
            dropped = torch.zeros_like(places)
        else:
            dropped = (labels.to(losses.device) == NO_LABEL).long()
        bins = len(self.edges) - 1
        rows = torch.stack([torch.ones_like(losses), losses, losses.square()])
        for k, values in enumerate(rows):
            where = (dropped * 3 + k) * bins + places
            self._sums.view(-1).index_add_(0, where, values)

    def sums(self) -> Tensor:
        """Counts, sums and sums of squares, of labelled pairs and others: float64 [2, 3, bins]."""
        if self._sums is None:
            return torch.zeros(2, 3, len(self.edges) - 1, dtype=torch.float64)
        return self._sums.cpu()

    def restore(self, sums: Tensor) -> None:
        """Go on from what `sums` gave, on the device that losses will be on."""
        self._sums = sums.clone()
        self._inner = self.edges[1:-1].to(sums.device)

    def clear(self) -> None:
        """Forget everything."""
        self._sums = None

    def curves(self, *, dropped: bool = False) -> MeterCurves:
        """What was collected of labelled pairs, or of those whose label was dropped."""
        return curves_of(self.sums()[int(dropped)], self.edges, self.split, self.gap)


def curves_of(
    sums: Tensor, edges: Tensor, split: float, stages: Stages | None = None
) -> MeterCurves:
    """Curves from counts, sums and sums of squares, float64 [3, bins]."""
    counts, total, squares = sums
    mean = total / counts
    spread = (squares / counts - mean.square()).clamp(min=0)
    # two losses at least are needed to know how far a mean may be off
    error = torch.where(counts > 1, (spread / (counts - 1)).sqrt(), torch.nan)
    loss, half = Curve(mean, error), len(counts) // 2
    widths = edges.diff()
    return MeterCurves(
        edges,
        split,
        loss,
        counts,
        _averaged(loss, widths, slice(0, half)),
        _averaged(loss, widths, slice(half, None)),
        None if stages is None else _less_gap(loss, edges, stages),
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
    raise Mistake("these stages reach neither an end nor a collapse; give the split as a time")


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


def _less_gap(loss: Curve, edges: Tensor, stages: Stages) -> Curve:
    """The loss less the mean gap in each bin, per dimension; both errors together."""
    gap, parts = stages.curves["gap"], 33
    inside = torch.linspace(0, 1, parts, dtype=torch.float64)
    times = edges[:-1, None] + edges.diff()[:, None] * inside
    mean = _between(times, stages.times, gap.mean / stages.dims).mean(1)
    error = _between(times, stages.times, gap.error / stages.dims).mean(1)
    return Curve(loss.mean - mean, (loss.error.square() + error.square()).sqrt())


def _between(at: Tensor, times: Tensor, values: Tensor) -> Tensor:
    """A curve between its times, linear; at its ends beyond them."""
    at = at.clamp(float(times[0]), float(times[-1]))
    after = torch.searchsorted(times, at.contiguous()).clamp(1, len(times) - 1)
    start, stop = times[after - 1], times[after]
    part = (at - start) / (stop - start)
    return values[after - 1] + part * (values[after] - values[after - 1])
