"""Where every row goes: classes one after the other, shards filled with whole classes."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from math import prod

import torch
from torch import Tensor

from floracle.data.rows.rows import COMPACT
from floracle.data.store import Store
from floracle.run.errors import InputError

from .manifest import Span

TYPES = {"fp16": torch.float16, "bf16": torch.bfloat16, "fp32": torch.float32}
LABEL = 8
"""Bytes of a label."""


@dataclass(frozen=True)
class ShardPlan:
    """What is packed, in what order, into which shards."""

    store: Store
    dtype: torch.dtype
    order: Tensor
    """The row of the data for each packed row, int64 [rows]; no mirrors."""
    spans: tuple[Span, ...]
    shards: tuple[tuple[int, int], ...]
    """First and last + 1 row of each."""

    @property
    def rows(self) -> int:
        """Without mirrors."""
        return len(self.order)

    @property
    def size(self) -> int:
        """Bytes of all shards, but for their headers."""
        return self.rows * row_bytes(self.store, self.dtype)


def plan_shards(store: Store, dtype: str, shard_bytes: int) -> ShardPlan:
    """The order of rows and the cuts between shards, by the labels and sizes alone."""
    if store.stds is not None:
        raise InputError(
            f"{store.name} was opened with moments='gaussian', but a packed store holds points;"
            " pack with moments='mean' or 'sample'"
        )
    kind = packed_type(store.dtype, dtype)
    labels = store.labels[: len(store) // (1 + store.flips)]
    order = torch.where(labels < 0, torch.iinfo(torch.int64).max, labels).argsort(stable=True)
    spans = tuple(_spans(labels[order]))
    return ShardPlan(
        store, kind, order, spans, _cuts(spans, shard_bytes // row_bytes(store, kind))
    )


def packed_type(stored: torch.dtype, asked: str) -> torch.dtype:
    """What values become; "stored" keeps them, and what is wider than float32 becomes that."""
    if asked == "stored":
        return stored if stored in COMPACT else torch.float32
    if asked not in TYPES:
        raise InputError(f"dtype {asked!r} is unknown; choose stored, {', '.join(TYPES)}")
    return TYPES[asked]


def row_bytes(store: Store, dtype: torch.dtype) -> int:
    """A point, its mirror and its label."""
    return prod(store.shape) * dtype.itemsize * (1 + store.flips) + LABEL


def _spans(labels: Tensor) -> Iterator[Span]:
    found, counts = labels.unique_consecutive(return_counts=True)
    first = 0
    for label, count in zip(found.tolist(), counts.tolist(), strict=True):
        yield Span(label, first, first + count)
        first += count


def _cuts(spans: tuple[Span, ...], most: int) -> tuple[tuple[int, int], ...]:
    """Shards of at most `most` rows; only a class with more of them is cut."""
    most, cuts = max(most, 1), [0]
    for span in spans:
        if span.first > cuts[-1] and span.end - cuts[-1] > most:
            cuts.append(span.first)
        while span.end - cuts[-1] > most:
            cuts.append(cuts[-1] + most)
    cuts.append(spans[-1].end)
    return tuple(pairwise(cuts))
