"""The one look at everything when a store opens: is it finite, what repeats, what are its bounds.

Each row is reduced to 128 bits of BLAKE2b over its stored bytes, −0.0 read as 0.0; wider types are
rounded to float32 first, for so are points. The blocks of this pass depend on the size of a
point alone, so nothing found here depends on the memory at hand.
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

from .channel_statistics import PIECE, ChannelStatistics
from .layouts.content import COMPACT, Rows
from .rows.file_rows import ahead

VALUES = 2**22
BYTES = 16

Keep = Callable[[int, Tensor], None]
"""Takes the number of a row, and stored values of rows from there on."""


@dataclass(frozen=True)
class Scan:
    """What one pass over the stored rows found."""

    digests: np.ndarray
    """Bytes [N, 16]: equal rows have equal digests."""
    spread: ChannelStatistics
    """Of every channel."""


def compact(stored: Tensor) -> Tensor:
    """Stored values in a type no wider than float32."""
    return stored if stored.dtype in COMPACT else stored.float()


def check_rows(rows: Rows, name: str, *, start: int = 0, keep: Keep | None = None) -> Scan:
    """Read the rows from `start` on once; rows that are not finite are a mistake.

    Blocks are read, given to `keep` and hashed in a thread ahead of this one.
    """
    digests = np.empty((len(rows) - start, BYTES), np.uint8)
    spreads, bad = [], []
    for first, block, block_digests in ahead(_blocks(rows, start, keep)):
        spread = ChannelStatistics.of_block(block)
        if not (spread.low.isfinite() & spread.high.isfinite()).all():
            bad.append(first + (~block.isfinite()).flatten(1).any(1).nonzero().flatten())
            continue
        digests[first - start : first - start + len(block)] = block_digests
        spreads.append(spread)
    if bad:
        raise InputError(_not_finite(name, torch.cat(bad).tolist(), rows.dtype))
    return Scan(digests, reduce(ChannelStatistics.merge, spreads))


def row_digests(block: Tensor) -> np.ndarray:
    """The digests [n, 16] of compact rows [n, ...]."""
    pieces = block.split(max(1, PIECE // max(1, block[:1].numel())))
    digests = (_digest(row) for piece in pieces for row in _hashed(piece))
    return np.frombuffer(b"".join(digests), np.uint8).reshape(-1, BYTES)


def _hashed(rows: Tensor) -> np.ndarray:
    """The bytes [n, ...] that tell rows apart."""
    if rows.dtype.is_floating_point:
        rows = rows + 0.0  # −0.0 + 0.0 is 0.0
    return rows.flatten(1).contiguous().view(torch.uint8).numpy()


def first_equal(rows: Rows, digests: np.ndarray) -> Tensor:
    """For every row the first that equals it, int64 [N]; equal digests are compared in full."""
    words = digests.view(np.uint64)
    order = np.lexsort((words[:, 1], words[:, 0]))
    new = np.ones(len(order), bool)
    new[1:] = (words[order[1:]] != words[order[:-1]]).any(1)
    first = np.empty(len(order), np.int64)
    first[order] = order[new][new.cumsum() - 1]  # lexsort is stable: a group begins with its first
    _confirm(rows, first)
    return torch.from_numpy(first)


def _confirm(rows: Rows, first: np.ndarray) -> None:
    copies = np.flatnonzero(first != np.arange(len(first)))
    step = block_rows(rows)
    for start in range(0, len(copies), step):
        some = copies[start : start + step]
        ours, theirs = (compact(rows[torch.from_numpy(index)]) for index in (some, first[some]))
        unlike = (ours != theirs).flatten(1).any(1).numpy()
        first[some[unlike]] = some[unlike]


def _blocks(rows: Rows, start: int, keep: Keep | None) -> Iterator[tuple[int, Tensor, np.ndarray]]:
    """The number of a first row, rows from there on, and their digests."""
    step = block_rows(rows)
    for first in range(start, len(rows), step):
        block = compact(rows[first : min(first + step, len(rows))])
        if keep is not None:
            keep(first, block)
        yield first, block, row_digests(block)


def block_rows(rows: Rows) -> int:
    """How many rows to read at a time; by the size of a point alone."""
    return max(1, VALUES // prod(rows.shape[1:]))


def _digest(row: np.ndarray) -> bytes:
    return hashlib.blake2b(row.data, digest_size=BYTES).digest()


def _not_finite(name: str, rows: list[int], dtype: torch.dtype) -> str:
    few = ", ".join(map(str, rows[:5])) + (", ..." if len(rows) > 5 else "")
    wide = dtype not in COMPACT
    reason = "NaN, infinite or too large for float32" if wide else "NaN or infinite"
    return f"{name}: {len(rows)} row(s) hold values that are {reason}: {few}; mend or remove them"
