"""One ordered pass: everything measured over data is a mergeable summary.

A summary knows how to begin (`empty`), how to read one block (`of_block`) and how to join what two
disjoint sets of blocks gave (`merge`). Blocks, classes, processes and resuming are the same loop.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import reduce
from typing import Protocol, Self, TypeVar


class Summary(Protocol):
    """A result over data that can be joined with another over other data."""

    def merge(self, other: Self) -> Self:
        """What one pass over both would have given."""
        ...


B = TypeVar("B")
S = TypeVar("S", bound=Summary)


def fold(blocks: Iterable[B], of_block: Callable[[B], S], empty: S) -> S:
    """Summarise blocks in their order."""
    return reduce(lambda total, block: total.merge(of_block(block)), blocks, empty)
