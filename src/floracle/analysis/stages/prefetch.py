"""Pairs of one class after the other: points are read while those before them are followed.

Reading and products are few large calls, following weights through time many small ones, so that
two threads seldom wait for each other. Points lie in packed stores, which both may read at once.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor

from floracle.core.point_set import NO_LABEL, prepared
from floracle.core.seeds import noise
from floracle.oracle.class_points import gather_class_points
from floracle.oracle.oracle import Oracle
from floracle.oracle.pairs.forward_pairs import (
    InnerProducts,
    PairCurves,
    PairPoints,
    curves_from_products,
    inner_products,
)
from floracle.run.budget import choose_device, memory_budget
from floracle.run.processes import ALONE

AHEAD = 2
"""Classes that are read before they are followed."""
KNOWN, PRODUCTS = 24, 16
"""Bytes that a pair takes for every dimension, and for every atom."""


class PairBatch(NamedTuple):
    """Pairs that were drawn of a class."""

    label: int
    rows: Tensor
    """Int64 [p]."""
    atoms: int
    """How many the class has."""
    seed: int
    """Pair i has the noise of seed + 1 + i."""


def readable(oracle: object, label: int, pairs: int) -> bool:
    """Whether classes can be read while others are followed: known beforehand, by one process.

    What waits to be followed must fit half of the memory.
    """
    if not isinstance(oracle, Oracle) or label == NO_LABEL:
        return False
    alone = (oracle.group or ALONE).alone and choose_device(oracle.device).type == "cpu"
    if not alone or prepared(oracle.data, label) is None:
        return False
    atoms, dims = len(oracle.data.atoms(label).rows), torch.Size(oracle.data.shape).numel()
    waiting = (AHEAD + 1) * pairs * (KNOWN * dims + PRODUCTS * atoms)
    return waiting <= memory_budget(oracle.memory) // 2


def prefetch_classes(
    oracle: Oracle, drawn: Iterable[PairBatch], times: Tensor
) -> Iterator[tuple[PairBatch, PairCurves]]:
    """What `Oracle.pairs` gives of mirrored pairs, for several classes in their order."""
    oracle.check_untempered("a pair")
    waiting: deque[tuple[PairBatch, PairPoints, Callable[[], list[InnerProducts]]]] = deque()

    def first() -> tuple[PairBatch, PairCurves]:
        pairs, known, blocks = waiting.popleft()
        return pairs, curves_from_products(known, blocks(), oracle.path, times, mirrored=True)

    with _reader() as read:
        for pairs in drawn:
            known = _known(oracle, pairs)
            waiting.append((pairs, known, read(known)))
            if len(waiting) > AHEAD:
                yield first()
        while waiting:
            yield first()


def _known(oracle: Oracle, pairs: PairBatch) -> PairPoints:
    members = gather_class_points(oracle.data, pairs.label, room=0, device=torch.device("cpu"))
    seeds = range(pairs.seed + 1, pairs.seed + 1 + len(pairs.rows))
    return PairPoints.of(members, pairs.rows, noise(seeds, oracle.data.shape))


def _products(known: PairPoints) -> list[InnerProducts]:
    return list(inner_products(known))


@contextmanager
def _reader() -> Iterator[Callable[[PairPoints], Callable[[], list[InnerProducts]]]]:
    """What starts to read a class, in a thread with half of the processors, and what to wait for.

    This thread has the others; of a single one the class is read when it is waited for.
    """
    every = torch.get_num_threads()
    if every < 2:
        yield lambda known: partial(_products, known)
        return
    with ThreadPoolExecutor(1) as thread:
        thread.submit(torch.set_num_threads, every // 2)
        torch.set_num_threads(every - every // 2)
        try:
            yield lambda known: thread.submit(_products, known).result
        finally:
            torch.set_num_threads(every)
