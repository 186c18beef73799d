"""What each phase of a stages run takes of the memory, from shapes alone: before it is begun.

Batches shrink to the memory at hand, but not below one pair, one query, one matrix, or what the
results themselves take. A phase whose smallest batch does not fit is refused here, with what to
give instead.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from math import ceil
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from floracle.core.point_set import NO_LABEL, prepared
from floracle.core.spectrum import BLOCKS, GRAM_BYTES, MATRICES
from floracle.data.store import Store
from floracle.oracle.gaussian_data import COPIES as GAUSSIAN_COPIES
from floracle.oracle.pairs.forward_pairs import (
    MAX_BLOCK_ROWS,
    MIN_BLOCK_ROWS,
    PRODUCT_BYTES,
    PRODUCTS_AT_ONCE,
    bytes_of_pair,
)
from floracle.oracle.pairs.held_out_pairs import BLOCK_BYTES, BLOCK_ROWS, POINT_BYTES
from floracle.oracle.scan import BLOCKS_PER_MERGE, COPIES_WHILE_CHECKED, COPIES_WHILE_SCANNED
from floracle.run.budget import FREE_MEMORY_SHARE, memory_budget
from floracle.run.errors import InputError

from .stages.held_out import held_out_pairs
from .stages.measure import NOISE
from .trajectories import trajectory_analysis as deep

ORACLE_SHARE = 0.75
"""The oracle's part of what the data leaves: it may exceed it by a quarter (`Oracle.room`)."""
SLACK = 2**28
"""Bytes of blocks that stay in cache, of leaders put right, and of the rest of the program: they
do not grow with the data, and are not part of --memory."""
RESULT = 320
"""Bytes of a pair at one time: seven curves, their controls, resamples and copies, float64."""
CLASS_BYTES, CLASS_CURVES = 60_000, 28
"""Bytes of a class in results, tables and page, and how many numbers it has at each time; half of
them before it is drawn."""
ROW_BYTES_READ, DIMENSION_BYTES = 200, 250
"""Bytes of a row and of a dimension while data is opened: digests, duplicates, a block."""
QUERIES, EXAMPLES = 64, 4
"""Noisy samples of examples, which are of so many pairs; and pairs of a deeper look."""
ANSWER, EXAMPLE = 12, 72
"""Bytes of an example for each dimension while the oracle answers: the noisy sample and x̂; and on
the way to pictures of both."""
LEADERS, LEADER = 32, 48
"""Atoms of a query that are put right in float64 at most, and bytes of a coordinate of one."""
UNHEARD_OF = 2**42
"""Bytes that no machine has, so that nobody is told to give them."""


class MemoryNeed(NamedTuple):
    """What a phase takes beside the points of the data, and what to give where it is too much."""

    phase: str
    size: int
    """Bytes."""
    least: int
    """Bytes that it takes however little memory there is."""
    advice: str = ""
    stays: int = 0
    """Bytes that earlier phases have left: what is known of the classes."""


@dataclass(frozen=True)
class StagesRun:
    """A stages run, as far as memory and time depend on it."""

    store: Store
    labels: tuple[int, ...]
    """−1 is the whole set."""
    pairs: int
    times: int
    held_out: Store | None = None
    deep: bool = False
    memory: int | str | None = None

    @cached_property
    def dims(self) -> int:
        """The dimension D of a point."""
        return torch.Size(self.store.shape).numel()

    @cached_property
    def points(self) -> Tensor:
        """The atoms of each label, float64 [C]."""
        return class_sizes(self.store, self.labels)

    @cached_property
    def known(self) -> bool:
        """Whether the data knows norms and moments of its classes beforehand."""
        return prepared(self.store, self.labels[0]) is not None

    @cached_property
    def measured(self) -> Tensor:
        """Whose spectrum is still to be found, bool [C]; a single point has none."""
        spectra = [prepared(self.store, label) for label in {self.labels[0], self.labels[-1]}]
        known = all(one is not None and one.spectrum is not None for one in spectra)
        return (self.points > 1) & (not known)

    @cached_property
    def kinds(self) -> int:
        """Classes that are told apart in the whole set; 0 where it is not measured."""
        count = len(self.store.labels.unique()) if NO_LABEL in self.labels else 0
        return count if count > 1 else 0

    @property
    def kinds_by_label(self) -> Tensor:
        """The same by label, float64 [C]: of the whole set alone."""
        whole = [self.kinds if label == NO_LABEL else 0 for label in self.labels]
        return torch.tensor(whole, dtype=torch.float64)

    @property
    def summed(self) -> bool:
        """Whether the covariance of the whole set is the sum of those of its classes."""
        classes = len(self.labels) - 1
        every = NO_LABEL in self.labels and classes == len(self.store.labels.unique()) > 1
        return every and bool((self.points > self.dims).all())

    @cached_property
    def held(self) -> int:
        """Bytes that the data, and what was held out of it, hold of their points."""
        return sum(held_bytes(store) for store in (self.store, self.held_out) if store)

    @cached_property
    def budget(self) -> int:
        """Bytes of the memory that are left beside the data."""
        held = int(FREE_MEMORY_SHARE * self.held) if self.memory is None else self.held
        return max(0, memory_budget(self.memory) - held)

    @cached_property
    def oracle(self) -> int:
        """Bytes of the oracle's memory."""
        asked = oracle_memory(self.store, self.memory)
        return memory_budget(asked)

    @cached_property
    def room(self) -> Tensor:
        """Bytes that the oracle works with beside the points of each label, float64 [C]."""
        size = 4.0 * self.points * self.dims
        return (self.oracle - size * (size <= self.oracle)).clamp(min=self.oracle // 4)

    @cached_property
    def pair_bytes(self) -> Tensor:
        """Bytes of a pair of each label while it is followed, float64 [C]."""
        if self.store.stds is not None:
            return torch.full_like(self.points, 8 * GAUSSIAN_COPIES * self.dims)
        plain, told = (bytes_of_pair(self.dims, self.times, kinds) for kinds in (0, 1))
        return plain + (told - plain) * self.kinds_by_label

    @cached_property
    def together(self) -> Tensor:
        """How many pairs of each label are followed at a time, float64 [C]."""
        return (self.room / self.pair_bytes).floor().clamp(min=1, max=self.pairs)

    @cached_property
    def copied(self) -> Tensor:
        """Bytes that the oracle holds of each label beside the data, float64 [C].

        Points of a class that lie one after the other, near the origin, need no copy.
        """
        size = 4.0 * self.points * self.dims
        rows = self.store.labels
        in_order = len(rows.unique_consecutive()) == len(rows.unique())
        spread = self.store.channels
        far = bool(spread.mean.square().sum() > 4 * spread.std.square().sum())
        seen = self.store.resident and in_order and not self.store.duplicates and not far
        return size * (size <= self.oracle) * (not seen)


def held_bytes(store: Store) -> int:
    """Bytes that a store holds of its points: as float32, and as they are stored."""
    points = 4 * len(store) * torch.Size(store.shape).numel() if store.resident else 0
    stds = store.stds.nbytes if isinstance(store.stds, Tensor) else 0
    apart = isinstance(store.stored, Tensor) and store.stored is not store.points
    return points + stds + (store.size if apart else 0)


def oracle_memory(store: Store, memory: int | str | None) -> int | None:
    """The memory of the oracle of a store, so that both stay within what was asked for."""
    if memory is None:
        return None
    return max(1, int(ORACLE_SHARE * (memory_budget(memory) - held_bytes(store))))


def class_sizes(store: Store, labels: tuple[int, ...]) -> Tensor:
    """The atoms of several classes, float64 [C]; from one look at all rows, however many."""
    first, rows = store.class_index.first.numpy(), store.labels.numpy()
    if store.duplicates:
        both = np.unique(np.stack([rows, first], 1), axis=0)[:, 0]
        whole = int((first == np.arange(len(first))).sum())
    else:
        both, whole = rows, len(rows)
    known, counts = np.unique(both, return_counts=True)
    place = np.searchsorted(known, labels).clip(max=len(known) - 1)
    found = np.where(known[place] == labels, counts[place], 0)
    for label in np.array(labels)[(found == 0) & (np.array(labels) != NO_LABEL)][:1].tolist():
        store.atoms(label)  # which says that there is no such class
    found[np.array(labels) == NO_LABEL] = whole
    return torch.from_numpy(found).double()


def check_memory(run: StagesRun) -> None:
    """Refuse a run of which a phase cannot fit the memory, before anything is computed."""
    most = max(needs(run), key=lambda need: need.least)
    if most.least > max(run.budget, SLACK):
        raise InputError(_refusal(run, most))


def _refusal(run: StagesRun, need: MemoryNeed) -> str:
    """What needs how much, and what to give."""
    points = 4 * len(run.store) * run.dims  # more memory may make the data hold its points
    enough = need.least if need.least < 2 * points else need.least + points
    enough = max(enough, need.least + run.held)
    memory = f"--memory {ceil(1.02 * enough / 2**20)}M" if enough < UNHEARD_OF else ""
    instead = " or ".join(filter(None, [need.advice, memory])) or "less data"
    return (
        f"{need.phase} takes {_size(need.least)} beside the data, but the memory leaves"
        f" {_size(run.budget)}; give {instead}"
    )


def _size(count: float) -> str:
    """Bytes in words."""
    units = ["MiB", "GiB", "TiB"]
    count /= 2**20
    while count >= 1000 and len(units) > 1:
        count, units = count / 1024, units[1:]
    return f"{count:,.3g} {units[0]}" if count < 1000 else f"{count:,.0f} {units[0]}"


def needs(run: StagesRun) -> Iterator[MemoryNeed]:
    """What the phases take, in their order."""
    rows, dims = len(run.store), run.dims
    opening = ROW_BYTES_READ * rows + DIMENSION_BYTES * dims
    yield MemoryNeed("opening the data", opening, 0)  # which is over by the time this is asked
    yield _spectra(run)
    known = _classes(run)
    yield known
    later = [_results(run), _pairs(run), _examples(run)]
    later += [] if run.held_out is None else [_held_out(run)]
    later += [_deep(run)] if run.deep else []
    yield from (need._replace(stays=known.size // 2) for need in later)


def _results(run: StagesRun) -> MemoryNeed:
    size = RESULT * run.pairs * run.times + 32 * run.pairs
    words = f"what is measured of {run.pairs:,} pairs at {run.times:,} times"
    return MemoryNeed(words, size, size, "fewer --pairs or --times")


def _classes(run: StagesRun) -> MemoryNeed:
    size = len(run.labels) * (CLASS_BYTES + 8 * CLASS_CURVES * run.times)
    words = f"what is measured of {len(run.labels):,} classes"
    return MemoryNeed(words, size, size, "--classes whole")


def _spectra(run: StagesRun) -> MemoryNeed:
    """The largest matrix and its blocks of points, and all spectra side by side."""
    small = run.points.clamp(max=run.dims)
    kept = 8 * (small.sum() + 6 * len(small) * small.max())
    taken = small[run.measured]
    matrix = (MATRICES if run.summed else 16) * taken.square()
    dims, gram = run.dims, GRAM_BYTES // (4 * run.dims)
    usual = torch.where(taken < dims, taken.clamp(max=max(1, gram)), taken.clamp(max=dims / 2))
    fitting = ((run.oracle - MATRICES * taken.square()) / (BLOCKS * 4 * dims)).clamp(min=1)
    rows = torch.minimum(usual, fitting)
    copies = torch.where(rows < taken, BLOCKS, 3)
    size = (matrix + copies * 4 * dims * rows).max() if len(taken) else taken.sum()
    least = (matrix + copies * 4 * dims).max() if len(taken) else taken.sum()
    return MemoryNeed(
        f"a covariance spectrum of {int(small.max()):,} eigenvalues",
        int(size + kept),
        int(least + kept),
        "--classes each" if run.kinds and len(small) > 1 else "",
    )


def _pairs(run: StagesRun) -> MemoryNeed:
    """Pairs of the label that takes most, beside the classes that are kept until then."""
    dims, n = run.dims, run.points
    each, fitting = run.pair_bytes, run.together
    atoms = (PRODUCTS_AT_ONCE / fitting).clamp(MIN_BLOCK_ROWS, MAX_BLOCK_ROWS).minimum(
        n
    ) - MIN_BLOCK_ROWS
    drawn = min(run.pairs, max(1, run.oracle // 4 // (NOISE * dims))) * 4 * dims
    work = fitting * (each + PRODUCT_BYTES * atoms.clamp(min=0)) + drawn
    beside = 24 * n + 32 * dims
    kept = run.copied.sum().clamp(max=run.oracle)
    size = torch.maximum(work + run.copied, torch.minimum(work + kept, work + run.oracle / 4))
    least = each + 4 * dims + beside
    told = f", with {run.kinds:,} classes told apart," if run.kinds else ""
    words = f"a pair of {dims:,} dimensions at {run.times:,} times{told}"
    advice = "--classes each or fewer --times" if run.kinds else "fewer --times"
    return MemoryNeed(words, int((size + beside).max()), int(least.max()), advice)


def _held_out(run: StagesRun) -> MemoryNeed:
    """Held-out pairs of the largest class."""
    assert run.held_out is not None
    dims, n = run.dims, float(run.points.max())
    count = held_out_pairs(run.pairs, dims)
    each = POINT_BYTES * n + 8 * 8 * dims
    room = float(run.room.min())
    rows = min(n, BLOCK_ROWS, max(1, BLOCK_BYTES // (8 * dims)))
    block = rows * dims * (8 if run.store.resident else 16)
    drawn = min(count, max(1, run.oracle // 8 // (8 * dims))) * 8 * dims
    size = min(count, max(1, room // each)) * each
    words = f"a held-out pair beside {int(n):,} points of {dims:,} dimensions"
    return MemoryNeed(words, int(size + block + drawn), int(each + block))


def _examples(run: StagesRun) -> MemoryNeed:
    """A few noisy samples, what the oracle makes of them, and the leaders it puts right.

    They are of classes where there are any, and those of one class are answered together.
    """
    classes = [points for label, points in zip(run.labels, run.points, strict=True) if label >= 0]
    dims, n = run.dims, float(max(classes or run.points))
    each = _query(run, n)
    pairs = EXAMPLES * 8 * dims
    room = float(run.room.min())
    shown = min(QUERIES, max(1, (run.oracle - pairs) // 2 // (EXAMPLE * dims)))
    together = min(shown, QUERIES // min(EXAMPLES, max(1, len(classes))))
    answered = min(together, max(1, room // each)) * each + ANSWER * shown * dims
    leaders = LEADER * dims * min(n, LEADERS)
    size = max(answered + leaders, shown * EXAMPLE * dims)
    least = max(each + ANSWER * dims + leaders, EXAMPLE * dims)
    return MemoryNeed(
        f"an example of {dims:,} dimensions",
        int(pairs + size + run.copied.max()),
        int(pairs + least),
    )


def _query(run: StagesRun, n: float) -> float:
    """Bytes of a query of n atoms; see `query_bytes`."""
    rows = max(1, min(32, 2**27 // (4 * run.dims)), min(2**24 // (4 * run.dims), 4096))
    return (
        8
        * run.dims
        * max(
            min(BLOCKS_PER_MERGE, ceil(n / rows)) + 1 + COPIES_WHILE_SCANNED, COPIES_WHILE_CHECKED
        )
    )


def _deep(run: StagesRun) -> MemoryNeed:
    """Trajectories, which are kept to their end, and Gaussians of the data and of its classes."""
    dims, n = run.dims, float(run.points.max())
    kept = 8 * 3 * deep.SEEDS * deep.STEPS * dims
    fields = 0.0
    if dims <= deep.MAX_GAUSSIAN_DIMS:
        small = torch.cat([run.points.clamp(max=dims), torch.tensor([min(n, dims)]).double()])
        fields = 8 * (dims * small.sum() + (small * (2 * dims + 2 * small)).max())
    queries = QUERIES * (EXAMPLE * dims + _query(run, n))
    size = int(kept + fields + queries)
    words = f"--deep with {int(n):,} points of {dims:,} dimensions"
    return MemoryNeed(words, size, int(kept + fields + EXAMPLE * dims), "no --deep")
