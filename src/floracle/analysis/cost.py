"""What a stages run will take: bytes to read, operations, memory, seconds, before it is run.

Speeds are measured here and now, in some hundredths of a second each, of the code that a run
spends its time in: a float32 product, a pass that takes moments, weights followed through time,
noise, memory that was not used before, and points that are read from where they are stored. What
is multiplied with them are counts of operations and of passes over values.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from floracle.core.point_set import Block
from floracle.core.seeds import generator, noise
from floracle.core.spectrum import GRAM_BYTES, PASS_BYTES, Moments
from floracle.data.store import Store
from floracle.oracle.pairs.pair_posteriors import ProductRows, pair_posteriors

from .memory_needs import LEADERS, QUERIES, MemoryNeed, StagesRun, needs
from .stages.held_out import held_out_pairs
from .trajectories import trajectory_analysis as deep

PROGRAM = 380 * 2**20
"""Bytes of the program itself: torch, and what pages are drawn with."""
ALLOCATOR, KEPT = 20, 2**25
"""Float64 vectors of D numbers that the allocator keeps for the next phase, unless they are longer
than these bytes: then they go back at once."""
START, DRAWING = 3.0, 2.5
"""Seconds until the program has started, and of a page; neither depends on the data."""
CLASS, CLASS_PAIR, CLASS_DRAWN = 12e-3, 15e-6, 4e-3
"""Seconds of the many small calls that a class takes until it is saved, of each of its pairs, and
of its rows in tables and figures."""
EIGENVALUES = 12.0
"""Operations on n³ of an eigendecomposition, as slow as they are beside a product's."""
NORMS = 0.6
"""What norms take beside moments."""
WIDE = 2.0
"""How much longer float64 takes than float32."""
MERGED, CACHED = 10.0, 2**22
"""Vectors of D numbers that merging the moments of two blocks takes; up to so many bytes each …"""
IN_CACHE = 6.0
"""… they are in cache, and written so many times as fast as to memory that was not used before."""
BLOCKS = 1.3
"""How much longer weights of a run take than those of one block: blocks are made ready, and sums
merged."""
PAIR_VALUES, CLASS_VALUES = 8.0, 10.0
"""Fresh values (`Speeds.fresh`) for each coordinate of a pair; and for each class that is told
apart, at each time of a pair and for every `ATOMS` atoms."""
ATOMS = 4096
"""Atoms of a block at most."""
GAUSSIAN_PRODUCTS, GAUSSIAN_VALUES = 4.0, 16.0
"""Where atoms are Gaussians: products of pairs with all of them at each time, and fresh values for
each coordinate of an atom and of a pair."""
WEIGHT_VALUES, MEAN_VALUES, GATHERED = 5.0, 2.5, 0.1
"""Fresh values for each weight of a held-out pair, for each coordinate of its mean at each time,
and for each coordinate of an atom at each time: the share of those that are picked out."""
QUERY_VALUES, LOGIT_VALUES = 90.0, 4.0
"""Fresh values for each coordinate of a query, and for each of its logits."""
LEADER_VALUES, ALL_LEADERS = 3.7, 9.0
"""The same for each coordinate of a leader put right, and where all atoms are such."""
QUERY_CALLS = 0.01
"""Seconds of the many small calls that a batch of queries takes."""
PATCH_VALUES = 5.0
"""Fresh values for each atom, pixel and query of a patch-local oracle."""
LONG_ENOUGH = 0.06
"""Seconds that are spent on measuring each speed."""


class Speeds(NamedTuple):
    """What this machine does in a second."""

    product: float
    """Operations of a float32 product."""
    moments: float
    """Values of points of which moments are taken."""
    weights: float
    """Weights that are followed through time."""
    noise: float
    """Values of noise that are drawn."""
    fresh: float
    """Float64 values that are written to memory that was not used before."""
    reading: float
    """Values of points that are read from where they are stored; infinite where they are held."""


@dataclass(frozen=True)
class Cost:
    """What a stages run would take."""

    seconds: float
    """Of all but opening the data."""
    memory: int
    """Bytes at the peak."""
    operations: float
    """Of products and eigenvalues."""
    read: int
    """Bytes of points that are read from their files."""
    classes: int
    """Groups that are measured, the whole set among them."""
    phases: dict[str, float]
    """Seconds by phase."""


def estimate_cost(run: StagesRun) -> Cost:
    """The time and memory of a stages run."""
    work, every = _Work(run, speeds_of(run.store)), list(needs(run))
    phases = {name: float(seconds) for name, seconds in work.phases().items()}
    kept = ALLOCATOR * 8 * run.dims if 8 * run.dims <= KEPT else 0
    read = float((work.passes * run.points).sum()) * run.dims * run.store.dtype.itemsize
    return Cost(
        seconds=sum(phases.values()),
        memory=PROGRAM + run.held + kept + _peak(every),
        operations=float((work.products + work.spectra).sum()),
        read=0 if run.store.resident else int(read),
        classes=len(run.labels),
        phases=phases,
    )


def _peak(every: list[MemoryNeed]) -> int:
    """Bytes at the peak: what is known of classes is there while others are worked on."""
    return max(need.size + need.stays for need in every)


@dataclass(frozen=True)
class _Work:
    """What there is to do for each label; float64 [C]."""

    run: StagesRun
    speeds: Speeds

    def phases(self) -> dict[str, Tensor | float]:
        """Seconds of each phase."""
        run, count = self.run, len(self.run.labels)
        found: dict[str, Tensor | float] = {
            "start-up": START,
            "spectra": self._spectra_seconds().sum(),
            "pairs": self._pair_seconds().sum() + count * (CLASS + CLASS_PAIR * run.pairs),
        }
        if run.held_out is not None:
            found["held-out pairs"] = self._held_out_seconds().sum()
        found["examples"] = self._example_seconds()
        if run.deep:
            found["deep"] = self._deep_seconds()
        return found | {"drawing": DRAWING + CLASS_DRAWN * count}

    @property
    def values(self) -> Tensor:
        """Coordinates of all atoms."""
        return self.run.points * self.run.dims

    @property
    def products(self) -> Tensor:
        """Operations of the products of pairs with all atoms."""
        return 2.0 * 2 * self.run.pairs * self.values

    @property
    def spectra(self) -> Tensor:
        """Operations of covariances, or of inner products, and of eigenvalues."""
        small = self.run.points.clamp(max=self.run.dims)
        products = 2 * self.values * small
        if self.run.summed:
            products[-1] = 0.0
        return self.run.measured * (products + EIGENVALUES * small**3)

    @property
    def held(self) -> Tensor:
        """Whether the oracle, or the data, holds the points of a class while it is worked on."""
        fits = 4 * self.values <= self.run.oracle
        return fits | self.run.store.resident

    @property
    def passes(self) -> Tensor:
        """How often the points of a class are read from where they are stored."""
        return self._spectrum_passes + self._pair_passes

    @property
    def _spectrum_passes(self) -> Tensor:
        blocks = (self.run.points / max(1, GRAM_BYTES // (4 * self.run.dims))).ceil()
        gram = self.run.points <= self.run.dims
        return self.run.measured * (1 + torch.where(gram, (blocks + 1) / 2, 1))

    @property
    def _pair_passes(self) -> Tensor:
        batches = (self.run.pairs / self.run.together).ceil()
        return (0 if self.run.known else 2) + torch.where(self.held, 1, batches)

    @property
    def _moments(self) -> Tensor:
        """Seconds of one pass for moments: of blocks, and of merging them."""
        run, row = self.run, 8 * self.run.dims
        blocks = (run.points / max(1, PASS_BYTES // row)).ceil()
        faster = IN_CACHE if row <= CACHED else 1.0
        merging = MERGED * blocks * run.dims / (self.speeds.fresh * faster)
        return self.values / self.speeds.moments + merging

    def _spectra_seconds(self) -> Tensor:
        read = self._spectrum_passes * self.values / self.speeds.reading
        weighted = self._moments + self.values / self.speeds.fresh
        return self.spectra / self.speeds.product + self.run.measured * weighted + read

    def _pair_seconds(self) -> Tensor:
        """The class made ready, pairs, and their weights at all times."""
        run, speeds = self.run, self.speeds
        if run.store.stds is not None:
            return self._gaussian_seconds()
        read = self._pair_passes * self.values / speeds.reading
        ready = 0 if run.known else self._moments + NORMS * self.values / speeds.moments
        drawn = run.pairs * run.dims * (1 / speeds.noise + PAIR_VALUES / speeds.fresh)
        followed = BLOCKS * 2 * run.pairs * run.times * run.points / speeds.weights
        apart = 2 * run.pairs * run.times * run.kinds_by_label * (run.points / ATOMS).ceil()
        told = CLASS_VALUES * apart / speeds.fresh
        return read + ready + drawn + self.products / speeds.product + followed + told

    def _gaussian_seconds(self) -> Tensor:
        """Of atoms that are Gaussians: at every time and for both signs, products in float64."""
        times, speeds = 2 * self.run.times, self.speeds
        products = WIDE * GAUSSIAN_PRODUCTS * 2 * self.run.pairs * self.values / speeds.product
        written = GAUSSIAN_VALUES * (self.values + self.run.pairs * self.run.dims) / speeds.fresh
        return times * (products + written + self.values / speeds.reading)

    def _held_out_seconds(self) -> Tensor:
        """Products in float64, and at every time weights and a mean over all atoms with weight."""
        run, speeds = self.run, self.speeds
        count = held_out_pairs(run.pairs, run.dims)
        products = WIDE * 2 * 2 * count * self.values / speeds.product
        weights = WEIGHT_VALUES * count * run.times * run.points
        means = run.times * (MEAN_VALUES * count * run.dims + GATHERED * self.values)
        written = (weights + means + self.values) / speeds.fresh
        means = 2 * count * run.times / 2 * self.values / speeds.product  # half in navigation
        read = torch.where(self.held, 0, 1 + run.times) * self.values / speeds.reading
        return products + written + means + read + CLASS_PAIR * count

    def _example_seconds(self) -> Tensor:
        """Of a few pairs of typical classes, and the spectrum of one of them once more."""
        label = int(self.run.points.argsort()[len(self.run.points) // 2])
        return self._spectra_seconds()[label] + self._query_seconds(label, QUERIES, batches=4)

    def _query_seconds(self, label: int, count: int, *, batches: int) -> Tensor:
        run, speeds = self.run, self.speeds
        leaders = run.points[label].clamp(max=LEADERS)
        every = run.points[label] <= LEADERS
        own = QUERY_VALUES + leaders * torch.where(every, ALL_LEADERS, LEADER_VALUES)
        read = 0 if self.held[label] else batches + count * leaders / run.points[label]
        written = count * (run.dims * own + LOGIT_VALUES * run.points[label])
        return (
            2 * 2 * count * self.values[label] / speeds.product
            + written / speeds.fresh
            + read * self.values[label] / speeds.reading
            + QUERY_CALLS * batches
        )

    def _deep_seconds(self) -> Tensor:
        """Queries of the whole set, or of a class, along trajectories; and simpler fields."""
        run = self.run
        label = int(run.points.argmax())
        batches = 2 * deep.TIMES + deep.STEPS
        queries = 2 * deep.TIMES * deep.PAIRS + deep.STEPS * deep.SEEDS
        return self._query_seconds(label, queries, batches=batches) + self._field_seconds(label)

    def _field_seconds(self, label: int) -> Tensor:
        """Gaussians and patch-local oracles, at the pairs and times where they are compared."""
        run, asked, seconds = self.run, deep.PAIRS * deep.TIMES, torch.zeros(()).double()
        if run.dims <= deep.MAX_GAUSSIAN_DIMS:
            small = run.points.clamp(max=run.dims)
            fits = 2 * self.values * small + 4 * EIGENVALUES * small**3
            asking = 8 * asked * run.dims * small
            seconds += WIDE * (fits + asking).sum() / self.speeds.product
        shape = run.store.shape
        work = asked * run.points[label] * run.dims / shape[0] * len(deep.PATCH_SIDES)
        if len(shape) == 3 and work <= deep.MAX_PATCH_OPERATIONS:
            seconds += work * shape[0] * PATCH_VALUES / self.speeds.fresh
        return seconds


def speeds_of(store: Store) -> Speeds:
    """How fast this machine is now."""
    return Speeds(
        _product_speed(),
        _moment_speed(),
        _weight_speed(),
        _noise_speed(),
        _fresh_speed(),
        _reading_speed(store),
    )


def _product_speed(side: int = 768) -> float:
    a = torch.ones(side, side)
    product = torch.empty_like(a)
    return 2 * side**3 / _fastest(lambda: torch.mm(a, a, out=product))


def _moment_speed() -> float:
    rows = PASS_BYTES // (8 * 1024)
    weights = torch.full((rows,), 1 / rows, dtype=torch.float64)
    block = Block(torch.arange(rows), weights, torch.ones(rows, 1024))
    return block.points.numel() / _fastest(lambda: Moments.of_block(block))


def _weight_speed(pairs: int = 64, atoms: int = 2048, times: int = 50, dims: int = 16) -> float:
    """Of pairs of a Gaussian cloud, from noise to long past the end of navigation."""
    points = torch.randn(atoms, dims, generator=generator(0))
    fresh = torch.randn(pairs, dims, generator=generator(1))
    norms, own = points.square().sum(1) / 2, points[:pairs]
    half = (norms + norms[:pairs, None] - own @ points.T).clamp(min=0)
    pull = fresh @ points.T - torch.linalg.vecdot(fresh, own)[:, None]
    rows = ProductRows.of(pull, half, norms - norms[:pairs, None], dtype=pull.dtype)
    ratio = torch.expm1(torch.linspace(0, 4, times, dtype=torch.float64)).sqrt()
    near, none = half.amin(1), torch.full((pairs,), -1)
    followed = _fastest(lambda: pair_posteriors(rows, near, none, ratio, mirrored=True, classes=0))
    return 2 * pairs * times * atoms / followed


def _noise_speed(count: int = 8, dims: int = 2**15) -> float:
    return count * dims / _fastest(lambda: noise(range(count), (dims,)))


def _fresh_speed(count: int = 2**23) -> float:
    return count / _fastest(lambda: torch.empty(count, dtype=torch.float64).fill_(1.0))


def _reading_speed(store: Store, values: int = 2**20) -> float:
    """From a few rows one after the other."""
    if store.resident:
        return float("inf")
    dims = torch.Size(store.shape).numel()
    rows = torch.arange(max(1, min(len(store), values // dims)))
    return len(rows) * dims / _fastest(lambda: store.take(rows), least=1)


def _fastest(run: Callable[[], object], *, least: int = 3) -> float:
    """The shortest of several runs, in seconds; on a busy machine most of them are disturbed."""
    seconds: list[float] = []
    while len(seconds) < least or (sum(seconds) < LONG_ENOUGH and len(seconds) < 50):
        started = time.perf_counter()
        run()
        seconds.append(time.perf_counter() - started)
    return max(min(seconds), 1e-9)
