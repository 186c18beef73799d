"""Memory and threads for readers of blocks: buffers used again, and blocks read ahead."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from contextvars import copy_context
from dataclasses import dataclass, field
from math import prod
from typing import TypeVar
from weakref import finalize

import torch
from torch import Tensor

T = TypeVar("T")
MAX_POOLED_BYTES = 2**25  # of one buffer: larger blocks are rare, and would hold on to much memory
MAX_POOLED_BUFFERS = 2  # one being filled, one being used


@dataclass(frozen=True, eq=False)
class BufferPool:
    """Memory that is used again once no tensor refers to it.

    Memory fresh from the system costs about as much as reading into it.
    """

    buffers: list[Tensor] = field(default_factory=list)

    def empty(self, shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
        """An empty tensor; its memory returns to the pool with the last view of it."""
        size = prod(shape) * dtype.itemsize
        if not 0 < size <= MAX_POOLED_BYTES:
            return torch.empty(shape, dtype=dtype)
        buffer = None
        with suppress(IndexError):  # another thread may have taken the last one
            buffer = self.buffers.pop()
        if buffer is None or len(buffer) < size:
            buffer = torch.empty(size, dtype=torch.uint8)
        # Every tensor made from this array keeps it alive, so its end is the end of all of them.
        array = buffer[:size].numpy()
        finalize(array, self._return, buffer).atexit = False
        return torch.from_numpy(array).view(dtype).view(shape)

    def _return(self, buffer: Tensor) -> None:
        if len(self.buffers) < MAX_POOLED_BUFFERS:
            self.buffers.append(buffer)


def read_ahead(items: Iterator[T], *, threads: int | None = None) -> Iterator[T]:
    """The same items, each made in a thread while the one before it is used.

    `threads` limits the threads that torch uses in there.
    """
    end, context = object(), copy_context()  # files opened there are recorded as if opened here
    with ThreadPoolExecutor(1) as pool:
        if threads:
            pool.submit(torch.set_num_threads, threads)
        item = next(items, end)
        while item is not end:
            next_item = pool.submit(context.run, next, items, end)
            yield item  # pyright: ignore[reportReturnType]
            item = next_item.result()
