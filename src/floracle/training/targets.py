"""The targets that a network is trained on at x_t: the velocity of its own pair, or the oracle's.

On the linear path, with c = data − noise and x̂ the posterior mean of the data given x_t,

    conditional   c
    oracle        u* = c + (x̂ − data) / (1 − t) = E[c | x_t]
    bank          the same with x̂ over a few points of the class, the pair's own among them

All have the same mean given x_t, so they have the same minimiser, and a switch from one to
another *by t alone* changes nothing but the noise of the gradient. (A switch by the pair's own
weight would: it looks at the data.) So only pairs with t ≤ switch take a query of their class. A
pair with a dropped label keeps the oracle target of its class: E[u_c | x] = u. Where some rows of
the data have labels and others have none, those without keep the conditional target: there is no
class they were fairly drawn from, and the whole set, of which they are a part, would be biased.
Data without any labels is one class.

The bank (stable targets, Xu et al. 2023) is unbiased at any size because the pair's own point is
in it and the others are drawn alike whichever of them is the own one: given the bank B and x_t,
the own point is distributed over B as the weights say, so the target is E[c | x_t, B], whose mean
is E[c | x_t]. Small banks leave more noise. Banks without the own point would be biased.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from floracle.core.point_set import NO_LABEL, PointSet, WeightedRows
from floracle.oracle import float32_means
from floracle.oracle.float32_means import STREAMED_BLOCK_BYTES, class_means
from floracle.oracle.oracle import Oracle
from floracle.run.errors import InputError

from .config import TrainingSettings
from .data_order import generator_for, seed_for


class TargetPairs(NamedTuple):
    """Pairs on the forward path; samples are [b, *shape] on the network's device."""

    rows: Tensor
    """Rows of the data, int64 [b] on the CPU."""
    labels: Tensor
    """Their classes before any were dropped, int64 [b] on the CPU."""
    t: Tensor
    """Times in [0, 1), float64 [b] on the CPU."""
    data: Tensor
    noise: Tensor
    x: Tensor
    step: int


class Targets(NamedTuple):
    """The targets [b, *shape] of pairs, and how many of them took a query of their class."""

    velocity: Tensor
    touched: int


Means = Callable[[int, TargetPairs], Tensor]
"""Posterior means x̂ [p, D] of a class given pairs of it."""


class Target(Protocol):
    """What pairs are trained towards."""

    def __call__(self, pairs: TargetPairs) -> Targets:
        """The targets of pairs."""
        ...


def conditional_target(pairs: TargetPairs) -> Targets:
    """The velocity c = data − noise of every pair."""
    return Targets(pairs.data - pairs.noise, 0)


@dataclass(frozen=True)
class OracleTarget:
    """The oracle velocity up to the time `switch`, the conditional one after it."""

    oracle: Oracle
    switch: float

    @torch.no_grad()
    def __call__(self, pairs: TargetPairs) -> Targets:
        """Targets; each class that is present early is queried once."""

        def means(label: int, chosen: TargetPairs) -> Tensor:
            t = chosen.t.to(chosen.x.device)
            return class_means(self.oracle.class_points(label), chosen.x.flatten(1), t)

        return _apply_means(pairs, learns_from_class(self.oracle.data, pairs, self.switch), means)


@dataclass(frozen=True)
class BankTarget:
    """The velocity averaged over `size` points of the class up to the time `switch`."""

    source: PointSet
    size: int
    switch: float
    seed: int

    @torch.no_grad()
    def __call__(self, pairs: TargetPairs) -> Targets:
        """Targets; every step draws another bank for each class."""

        def means(label: int, chosen: TargetPairs) -> Tensor:
            return bank_means(self.source, label, chosen, size=self.size, seed=self.seed)

        return _apply_means(pairs, learns_from_class(self.source, pairs, self.switch), means)


def learns_from_class(source: PointSet, pairs: TargetPairs, switch: float) -> Tensor:
    """Which pairs learn from their class, bool [b]: t ≤ switch, and a class to learn from."""
    unlabelled = pairs.labels == NO_LABEL
    if unlabelled.any() and (source.labels != NO_LABEL).any():
        return (pairs.t <= switch) & ~unlabelled
    return pairs.t <= switch


def _apply_means(pairs: TargetPairs, chosen: Tensor, means: Means) -> Targets:
    """The conditional target c, and u* = c + (x̂ − data) / (1 − t) of the chosen pairs."""
    velocity, touched = pairs.data - pairs.noise, 0
    for label, indices in group_by_class(pairs.labels, chosen):
        on_device = indices.to(velocity.device)
        of_class = TargetPairs(
            pairs.rows[indices],
            pairs.labels[indices],
            pairs.t[indices],
            pairs.data[on_device],
            pairs.noise[on_device],
            pairs.x[on_device],
            pairs.step,
        )
        correction = means(label, of_class).reshape(of_class.x.shape) - of_class.data  # x̂ − data
        gain = (1 / (1 - of_class.t)).to(velocity.device, velocity.dtype)  # [p]
        correction *= gain.reshape(-1, *[1] * (correction.ndim - 1))
        velocity[on_device] += correction.to(velocity.dtype)  # every index occurs once
        touched += len(indices)
    return Targets(velocity, touched)


def group_by_class(labels: Tensor, chosen: Tensor) -> Iterator[tuple[int, Tensor]]:
    """The classes among the chosen pairs, and the indices of their pairs."""
    indices = chosen.nonzero()[:, 0]
    sorted_labels, order = labels[indices].sort(stable=True)
    unique, counts = sorted_labels.unique_consecutive(return_counts=True)
    yield from zip(unique.tolist(), indices[order].split(counts.tolist()), strict=True)


def bank_means(
    source: PointSet, label: int, pairs: TargetPairs, *, size: int, seed: int
) -> Tensor:
    """The posterior mean over `size` points of a class given pairs of it, [p, D].

    The points are drawn afresh for every step; a pair whose own point is not among them has it in
    the place of the last.
    """
    points = source.atoms(label)
    bank_seed = seed_for(seed, "bank", pairs.step + (label + 1) * 0x9E3779B1)
    generator = generator_for(bank_seed, "bank")
    order = torch.randperm(len(points.rows), generator=generator)[:size]
    bank = source.take(points.rows[order]).flatten(1).to(pairs.x.device)
    own, x = pairs.data.flatten(1), pairs.x.flatten(1)
    log_weights, own_indices = (
        points.weights.log().to(x),
        own_points(source, label, points, pairs.rows),
    )
    in_bank = (own_indices[:, None] == order[None]).any(1)
    return float32_means.bank_means(
        bank,
        log_weights[order.to(x.device)],
        x,
        pairs.t.to(x),
        own=own,
        own_log_weights=log_weights[own_indices.to(x.device)],
        own_in_bank=in_bank.to(x.device),
    )


def own_points(source: PointSet, label: int, points: WeightedRows, rows: Tensor) -> Tensor:
    """The index of each row among the points of its class, int64 [p] in 0 ... n − 1.

    Equal rows are one point, which stands at the first of them.
    """
    first = getattr(getattr(source, "class_index", None), "first", None)
    if first is not None:  # the first row that equals each, over all classes
        ordered, order = first[points.rows].sort()
        return order[torch.searchsorted(ordered, first[rows])]
    indices = torch.searchsorted(points.rows, rows).clamp(max=len(points.rows) - 1)
    for k in (points.rows[indices] != rows).nonzero()[:, 0].tolist():
        indices[k] = _find_equal_point(source, label, source.take(rows[k : k + 1]))
    return indices


def _find_equal_point(source: PointSet, label: int, point: Tensor) -> int:
    """The index of the point of a class that equals a point [1, *shape]."""
    flat, start = point.flatten(1), 0
    for block in source.blocks(label, rows=max(1, STREAMED_BLOCK_BYTES // (4 * flat.shape[1]))):
        same = (block.points == flat).all(1)
        if same.any():
            return start + int(same.to(torch.int8).argmax())
        start += len(block.points)
    raise InputError(f"a row of class {label} equals none of the distinct points of its class")


def target_for(
    settings: TrainingSettings, source: PointSet, oracle: Oracle | None, switch: float
) -> Target:
    """The target of the settings."""
    if settings.target == "conditional":
        return conditional_target
    if settings.target == "bank":
        return BankTarget(source, settings.bank, switch, settings.seed)
    if oracle is None:
        raise InputError("the oracle target needs an oracle of the data")
    return OracleTarget(oracle, switch)
