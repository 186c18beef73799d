"""What a network is trained to say at x_t: the velocity of its own pair, or the oracle's.

On the linear path, with c = data − noise and x̂ the posterior mean of the data given x_t,

    conditional   c
    oracle        u* = c + (x̂ − data) / (1 − t) = E[c | x_t]
    bank          the same with x̂ over a few points of the class, the pair's own among them

All have the same mean given x_t, so they have the same minimiser, and a switch from one to
another *by t alone* changes nothing but the noise of the gradient. (A switch by the pair's own
weight would: it looks at the data.) So only pairs with t ≤ switch touch their class. A dropped
label keeps the oracle of its class: E[u_c | x] = u. Where some rows of the data have labels and
others have none, those without keep the conditional target: there is no class they were fairly
drawn from, and the whole set, of which they are a part, would be biased. Data without any labels
is one class.

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
from floracle.oracle.class_points import ClassPoints
from floracle.oracle.float32_means import STREAMED_BLOCK_BYTES, class_means
from floracle.oracle.oracle import Oracle
from floracle.run.errors import InputError

from .config import TrainingSettings
from .data_order import drawing, seed_for


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


class PosteriorMeans(NamedTuple):
    """The targets [b, *shape] of pairs, and how many of them touched their class."""

    velocity: Tensor
    touched: int


class Target(Protocol):
    """What pairs are trained towards."""

    def __call__(self, pairs: TargetPairs) -> PosteriorMeans:
        """The targets of pairs."""
        ...


def conditional(pairs: TargetPairs) -> PosteriorMeans:
    """The velocity of every pair's own line."""
    return PosteriorMeans(pairs.data - pairs.noise, 0)


@dataclass(frozen=True)
class OracleTarget:
    """The oracle's velocity up to the time `switch`, the conditional one after it."""

    oracle: Oracle
    switch: float

    @torch.no_grad()
    def __call__(self, pairs: TargetPairs) -> PosteriorMeans:
        """Targets; each class that is present early is asked once."""
        mean = _means(self.oracle.class_points)
        return _corrected(pairs, early(self.oracle.data, pairs, self.switch), mean)


@dataclass(frozen=True)
class BankTarget:
    """The velocity averaged over `size` points of the class up to the time `switch`."""

    source: PointSet
    size: int
    switch: float
    seed: int

    @torch.no_grad()
    def __call__(self, pairs: TargetPairs) -> PosteriorMeans:
        """Targets; every step draws another reference batch for each class."""

        def mean(label: int, some: TargetPairs) -> Tensor:
            return bank_means(self.source, label, some, size=self.size, seed=self.seed)

        return _corrected(pairs, early(self.source, pairs, self.switch), mean)


def early(source: PointSet, pairs: TargetPairs, switch: float) -> Tensor:
    """Which pairs learn from their class, bool [b]: t ≤ switch, and a class to learn from."""
    nobody = pairs.labels == NO_LABEL
    if nobody.any() and (source.labels != NO_LABEL).any():
        return (pairs.t <= switch) & ~nobody
    return pairs.t <= switch


def _means(members: Callable[[int], ClassPoints]) -> Callable[[int, TargetPairs], Tensor]:
    def mean(label: int, some: TargetPairs) -> Tensor:
        return class_means(members(label), some.x.flatten(1), some.t.to(some.x.device))

    return mean


def _corrected(
    pairs: TargetPairs, chosen: Tensor, mean: Callable[[int, TargetPairs], Tensor]
) -> PosteriorMeans:
    """The conditional target, and of those chosen what the mean of a class makes of it."""
    velocity, touched = pairs.data - pairs.noise, 0
    for label, places in by_class(pairs.labels, chosen):
        there = places.to(velocity.device)
        some = _of(pairs, places, there)
        pull = mean(label, some).reshape(some.x.shape) - some.data
        lever = (1 / (1 - some.t)).to(velocity.device, velocity.dtype)
        pull *= lever.reshape(-1, *[1] * (pull.ndim - 1))
        velocity[there] += pull.to(velocity.dtype)  # every place once
        touched += len(places)
    return PosteriorMeans(velocity, touched)


def by_class(labels: Tensor, chosen: Tensor) -> Iterator[tuple[int, Tensor]]:
    """The classes among the chosen pairs, and where their pairs are."""
    places = chosen.nonzero()[:, 0]
    sorted_labels, order = labels[places].sort(stable=True)
    found, counts = sorted_labels.unique_consecutive(return_counts=True)
    yield from zip(found.tolist(), places[order].split(counts.tolist()), strict=True)


def _of(pairs: TargetPairs, places: Tensor, there: Tensor) -> TargetPairs:
    """Some of the pairs."""
    return TargetPairs(
        pairs.rows[places],
        pairs.labels[places],
        pairs.t[places],
        pairs.data[there],
        pairs.noise[there],
        pairs.x[there],
        pairs.step,
    )


def bank_means(
    source: PointSet, label: int, pairs: TargetPairs, *, size: int, seed: int
) -> Tensor:
    """The mean of `size` points of a class given pairs of it, [p, D] as their samples are.

    The points are drawn afresh for every step; a pair whose own is not among them has it in the
    place of the last.
    """
    atoms = source.atoms(label)
    number = pairs.step + (label + 1) * 0x9E3779B1
    mixed = seed_for(seed, "bank", number)
    order = torch.randperm(len(atoms.rows), generator=drawing(mixed, "bank"))[:size]
    points = source.take(atoms.rows[order]).flatten(1).to(pairs.x.device)
    own, x = pairs.data.flatten(1), pairs.x.flatten(1)
    t = pairs.t.to(x)
    masses = atoms.weights.log().to(x)
    place = own_atoms(source, label, atoms, pairs.rows)
    among = (place[:, None] == order[None]).any(1)
    return float32_means.bank_means(
        points,
        masses[order.to(x.device)],
        x,
        t,
        own=own,
        own_log_weights=masses[place.to(x.device)],
        own_in_bank=among.to(x.device),
    )


def own_atoms(source: PointSet, label: int, atoms: WeightedRows, rows: Tensor) -> Tensor:
    """The atom of a class that each of its rows is, merged or not, int64 [p] in 0 ... n − 1."""
    first = getattr(getattr(source, "class_index", None), "first", None)
    if first is not None:  # the first row that equals each, over all classes
        ordered, order = first[atoms.rows].sort()
        return order[torch.searchsorted(ordered, first[rows])]
    place = torch.searchsorted(atoms.rows, rows).clamp(max=len(atoms.rows) - 1)
    for merged in (atoms.rows[place] != rows).nonzero()[:, 0].tolist():
        place[merged] = _equal_atom(source, label, source.take(rows[merged : merged + 1]))
    return place


def _equal_atom(source: PointSet, label: int, point: Tensor) -> int:
    """The place of the atom of a class that has the value of a point [1, *shape]."""
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
    """The target that settings ask for."""
    if settings.target == "conditional":
        return conditional
    if settings.target == "bank":
        return BankTarget(source, settings.bank, switch, settings.seed)
    if oracle is None:
        raise InputError("the oracle target needs an oracle of the data")
    return OracleTarget(oracle, switch)
