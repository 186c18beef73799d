"""What a stages run will take: bytes to read, operations, memory, seconds, before it is run.

Three speeds are measured here and now, in some hundredths of a second: of a float32 product, of
turning stored values into float32, and of following weights through time.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch

from floracle.core.source import NO_LABEL, classes, prepared
from floracle.data.store import Store
from floracle.oracle.posterior import weights_of
from floracle.run.budget import memory_budget

from .stages import NOISE

PAIRS, TIMES = 512, 50
"""What a stages run measures by default."""
PRODUCT = 768
"""The size of the product that tells how fast this machine is."""
VALUES = 2**21
"""How many values are converted for the same purpose."""
FOLLOWED = 0.35
"""Of all times, the share at which (nearly) every atom is still followed."""
EIGENVALUES = 8.0
"""Operations on n³ of an eigendecomposition, as slow as they are beside a product's."""
EACH = 0.008
"""Seconds of bookkeeping a class."""
LONG_ENOUGH = 0.1
"""Seconds that are spent on measuring each speed."""
BASE = 3 * 2**27
"""Bytes of the program itself."""


@dataclass(frozen=True)
class Cost:
    """What a stages run would take."""

    seconds: float
    memory: int
    """Bytes at the peak, within the budget."""
    operations: float
    """Of products and eigenvalues."""
    read: int
    """Bytes of points that are read from their files."""
    classes: int
    """Groups that are measured, the whole set among them."""


@dataclass(frozen=True)
class _Work:
    """What one class asks for."""

    points: int
    products: float
    weights: float
    spectra: float
    passes: int


def cost(
    store: Store,
    *,
    pairs: int = PAIRS,
    times: int = TIMES,
    labels: Sequence[int] | None = None,
    memory: int | str | None = None,
) -> Cost:
    """The time and memory of a stages run over these classes (all of them, and the whole set)."""
    known = classes(store)
    if labels is None:
        labels = [*known, NO_LABEL] if len(known) > 1 else [NO_LABEL]
    dims, budget = torch.Size(store.shape).numel(), memory_budget(memory)
    work = [_work(store, label, dims, pairs, times, budget) for label in labels]
    read = sum(one.passes * one.points for one in work) * dims * store.dtype.itemsize
    operations = sum(one.products + one.spectra for one in work)
    values = 0 if store.resident else sum(one.passes * one.points for one in work) * dims
    seconds = operations / _product_speed() + EACH * len(labels)
    seconds += sum(one.weights for one in work) / _weight_speed() + values / _conversion_speed()
    largest = max(one.points for one in work)
    held = 4 * len(store) * dims if store.resident else min(4 * largest * dims, budget // 2)
    curves = 2 * pairs * times * 8 * 10 + min(NOISE * pairs * dims, budget // 4)
    small = max((min(one.points, dims) for one in work if one.spectra), default=0)
    peak = BASE + held + curves + 24 * small**2
    return Cost(seconds, int(peak), operations, 0 if store.resident else read, len(labels))


def _work(store: Store, label: int, dims: int, pairs: int, times: int, budget: int) -> _Work:
    points, beforehand = len(store.atoms(label).rows), prepared(store, label)
    small = min(points, dims)
    taken = beforehand is None or beforehand.spectrum is None
    spectra = 2.0 * points * dims * small + EIGENVALUES * small**3 if taken else 0.0
    return _Work(
        points,
        2.0 * 2 * pairs * points * dims,
        2.0 * pairs * times * points * FOLLOWED,
        spectra,
        passes=1 + 2 * (beforehand is None) + 2 * taken,
    )


def _product_speed() -> float:
    """Operations a second of a float32 product on this machine."""
    a = torch.ones(PRODUCT, PRODUCT)
    product = torch.empty_like(a)
    return 2 * PRODUCT**3 / _fastest(lambda: torch.mm(a, a, out=product))


def _conversion_speed() -> float:
    """Values a second turned from float16 into float32."""
    stored, points = torch.ones(VALUES, dtype=torch.float16), torch.empty(VALUES)
    return VALUES / _fastest(lambda: points.copy_(stored))


def _weight_speed() -> float:
    """Weights a second that are followed at one time."""
    pull, half = torch.rand(64, 2048), torch.rand(64, 2048)

    def follow() -> None:
        logits = torch.mul(pull, 3.0).addcmul_(half, half, value=-9.0)
        alive, peak = logits > -1, logits.amax(1)
        weights = weights_of(logits.sub_(peak[:, None]))
        sums = [torch.linalg.vecdot(weights, of) for of in (pull, half, logits, weights)]
        torch.stack([weights.sum(1), alive.sum(1), *sums])

    return pull.numel() / _fastest(follow)


def _fastest(run: Callable[[], object]) -> float:
    """The shortest of several runs, in seconds; on a busy machine most of them are disturbed."""
    seconds: list[float] = []
    while len(seconds) < 4 or (sum(seconds) < LONG_ENOUGH and len(seconds) < 50):
        started = time.perf_counter()
        run()
        seconds.append(time.perf_counter() - started)
    return max(min(seconds), 1e-9)
