"""The one pass over all rows when a store opens: are they finite, their digests, their bounds.

Each row is reduced to 128 bits of BLAKE2b over its stored bytes, −0.0 read as 0.0; wider types are
rounded to float32 first, for so are points. The blocks of this pass depend on the size of a
point alone, so no result depends on the memory at hand.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import reduce
from math import prod

import numpy as np
import torch
from torch import Tensor

from floracle.run.errors import InputError

from .channel_statistics import CACHED_VALUES, ChannelStatistics
from .precision import WIDE, ConversionLoss, measure_errors
from .rows.buffers import read_ahead
from .rows.rows import COMPACT, Rows, compact

BLOCK_VALUES = 2**22  # 16 MiB of float32: one block is hashed while the next one is read
DIGEST_BYTES = 16  # a collision by chance needs some 2^64 rows

Keep = Callable[[int, Tensor], None]
"""Takes the number of a row, and stored values of rows from there on."""


@dataclass(frozen=True)
class RowCheck:
    """The result of one pass over the stored rows."""

    digests: np.ndarray  # bytes [N, 16]: equal rows have equal digests
    statistics: ChannelStatistics
    loss: ConversionLoss | None = None
    """What was lost of values wider than float32; None where none are."""


def check_rows(rows: Rows, name: str, *, start: int = 0, keep: Keep | None = None) -> RowCheck:
    """Read the rows from `start` on once; rows that are not finite are an error.

    Blocks are read, given to `keep` and hashed in a thread ahead of this one.
    """
    digests = np.empty((len(rows) - start, DIGEST_BYTES), np.uint8)
    statistics, errors, not_finite = [], [], []
    for first, block, block_digests, block_errors in read_ahead(_hash_blocks(rows, start, keep)):
        block_statistics = ChannelStatistics.of_block(block)
        # extremes carry every NaN and infinity; single rows are looked for only if there is one
        if not (block_statistics.low.isfinite() & block_statistics.high.isfinite()).all():
            not_finite.append(first + (~block.isfinite()).flatten(1).any(1).nonzero().flatten())
            continue
        digests[first - start : first - start + len(block)] = block_digests
        statistics.append(block_statistics)
        errors += [] if block_errors is None else [block_errors]
    if not_finite:
        raise InputError(_describe_not_finite(name, torch.cat(not_finite).tolist(), rows.dtype))
    merged = reduce(ChannelStatistics.merge, statistics)
    if not errors:
        return RowCheck(digests, merged)
    loss = ConversionLoss(rows.dtype, merged, reduce(ChannelStatistics.merge, errors))
    return RowCheck(digests, merged, loss)


def _hash_blocks(
    rows: Rows, start: int, keep: Keep | None
) -> Iterator[tuple[int, Tensor, np.ndarray, ChannelStatistics | None]]:
    """The number of a first row, rows from there on, their digests, and what they lost."""
    step = block_rows(rows)
    for first in range(start, len(rows), step):
        stored = rows[first : min(first + step, len(rows))]
        block = compact(stored)
        errors = measure_errors(stored, block) if stored.dtype in WIDE else None
        if keep is not None:
            keep(first, block)
        yield first, block, row_digests(block), errors


def block_rows(rows: Rows) -> int:
    """How many rows to read at a time; by the size of a point alone."""
    return max(1, BLOCK_VALUES // prod(rows.shape[1:]))


def row_digests(block: Tensor) -> np.ndarray:
    """The digests [n, 16] of compact rows [n, ...]."""
    digests: list[bytes] = []
    for piece in block.split(max(1, CACHED_VALUES // max(1, block[:1].numel()))):
        if piece.dtype.is_floating_point:
            piece = piece + 0.0  # −0.0 + 0.0 is 0.0: equal values have equal bytes
        # flat first: a single column of another matrix counts as contiguous, and has no such view
        rows = piece.contiguous().reshape(-1).view(torch.uint8).reshape(len(piece), -1)
        digests += map(_hash_row, rows.numpy())
    return np.frombuffer(b"".join(digests), np.uint8).reshape(-1, DIGEST_BYTES)


def _hash_row(row: np.ndarray) -> bytes:
    return hashlib.blake2b(row.data, digest_size=DIGEST_BYTES).digest()


def find_first_equal(rows: Rows, digests: np.ndarray) -> Tensor:
    """For every row the first that equals it, int64 [N]; equal digests are compared in full."""
    # 1. Sort the digests as pairs of words, and see where a new one begins.
    words = digests.view(np.uint64)  # [N, 2]
    order = np.lexsort((words[:, 1], words[:, 0]))
    new = np.ones(len(order), bool)
    new[1:] = (words[order[1:]] != words[order[:-1]]).any(1)
    first = np.empty(len(order), np.int64)
    first[order] = order[new][new.cumsum() - 1]  # lexsort is stable: a group begins with its first
    # 2. Compare every copy with its original; a row whose digest lies is its own first.
    copies, step = np.flatnonzero(first != np.arange(len(first))), block_rows(rows)
    for start in range(0, len(copies), step):
        batch = copies[start : start + step]
        copied, original = (
            compact(rows[torch.from_numpy(index)]) for index in (batch, first[batch])
        )
        unlike = (copied != original).flatten(1).any(1).numpy()
        first[batch[unlike]] = batch[unlike]
    return torch.from_numpy(first)


def _describe_not_finite(name: str, rows: list[int], dtype: torch.dtype) -> str:
    numbers = ", ".join(map(str, rows[:5])) + (", ..." if len(rows) > 5 else "")
    reason = "NaN or infinite"
    if dtype not in COMPACT:
        reason = "NaN, infinite or too large for float32"
    return (
        f"{name}: {len(rows)} row(s) hold values that are {reason}: {numbers}; mend or remove them"
    )
