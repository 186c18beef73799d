"""Which rows and which random numbers an image gets: a function of the seed and its number alone.

Epochs are permutations of the rows, so nothing is seen twice before everything was seen once;
rows that carry weights are drawn in proportion to them instead. Times, dropped labels and noise
are drawn for the whole batch of all processes, and each takes its share: any number of them
sees the same numbers. Nothing is padded. On the CPU noise comes from the CPU's generator, on a GPU
from the GPU's own, whose numbers are others.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal, get_args

import torch
from torch import Tensor

from floracle.core.seeds import generator
from floracle.run.errors import InputError

Purpose = Literal["rows", "times", "drops", "noise", "bank", "begin", "look", "inside"]
PURPOSES: tuple[Purpose, ...] = get_args(Purpose)


def seed_for(seed: int, purpose: Purpose, number: int = 0) -> int:
    """A seed in [0, 2³²) for the `number`-th draw of a purpose; numbers of one never repeat."""
    first = seed * 0x9E3779B1 + (PURPOSES.index(purpose) + 1) * 0x85EBCA6B
    return (first + number) % 2**32


def drawing(seed: int, purpose: Purpose, number: int = 0) -> torch.Generator:
    """The generator of that draw, on the CPU."""
    return generator(seed_for(seed, purpose, number))


@dataclass(frozen=True, eq=False)
class DataOrder:
    """The order in which the rows of data are seen."""

    count: int
    """Rows of the data."""
    seed: int
    shares: Tensor | None = None
    """How far weights have added up, float64 [count], where rows carry them."""

    @classmethod
    def of(cls, count: int, seed: int, weights: Tensor | None = None) -> DataOrder:
        """The order of so many rows, or of rows by weight."""
        if not count:
            raise InputError("there is nothing to train on: the data has no rows")
        shares = None if weights is None else (weights.double() / weights.sum()).cumsum(0)
        return cls(count, seed, shares)

    def rows(self, images: range) -> Tensor:
        """The rows int64 of consecutive images, counted from the beginning of the run."""
        if self.shares is not None:
            drawn = torch.rand(
                len(images),
                dtype=torch.float64,
                generator=drawing(self.seed, "rows", images.start),
            )
            return torch.searchsorted(self.shares, drawn).clamp(max=self.count - 1)
        parts, at = [], images.start
        while at < images.stop:
            epoch, place = divmod(at, self.count)
            some = permutation(self.count, self.seed, epoch)[place : place + images.stop - at]
            parts.append(some)
            at += len(some)
        return torch.cat(parts)


@lru_cache(maxsize=2)
def permutation(count: int, seed: int, epoch: int) -> Tensor:
    """The rows in the order of an epoch, int64 [count]."""
    return torch.randperm(count, generator=drawing(seed, "rows", epoch))


def uniforms(seed: int, purpose: Purpose, step: int, count: int) -> Tensor:
    """Numbers in [0, 1) for the whole batch of a step, float64 [count]."""
    return torch.rand(count, dtype=torch.float64, generator=drawing(seed, purpose, step))


def noise_of(
    seed: int, step: int, count: int, shape: Sequence[int], *, device: torch.device
) -> Tensor:
    """The noise of the whole batch of a step, float32 [count, *shape], drawn where it is used."""
    if device.type == "cpu":
        return torch.randn(count, *shape, generator=drawing(seed, "noise", step))
    source = torch.Generator(device).manual_seed(seed_for(seed, "noise", step))
    return torch.randn(count, *shape, generator=source, device=device)
