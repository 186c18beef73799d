"""The rows and random numbers of each image: a function of the seed and the image's number alone.

Epochs are permutations of the rows, so no row is seen twice before all were seen once; rows that
carry weights are drawn in proportion to them instead. Times, dropped labels and noise are drawn
for the whole batch of all processes, and each takes its share: any number of processes sees the
same numbers. Nothing is padded. On a GPU noise comes from the GPU's generator, which has others.
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


def generator_for(seed: int, purpose: Purpose, number: int = 0) -> torch.Generator:
    """The generator of that draw, on the CPU."""
    return generator(seed_for(seed, purpose, number))


@dataclass(frozen=True, eq=False)
class DataOrder:
    """The order in which the rows of data are seen."""

    count: int
    """Rows of the data."""
    seed: int
    shares: Tensor | None = None
    """Cumulative weights, float64 [count], where rows carry weights."""

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
            uniform = batch_uniforms(self.seed, "rows", images.start, len(images))
            return torch.searchsorted(self.shares, uniform).clamp(max=self.count - 1)
        rows, image = [], images.start
        while image < images.stop:  # a batch may reach into the next epochs
            epoch, offset = divmod(image, self.count)
            order = permutation(self.count, self.seed, epoch)
            rows.append(order[offset : offset + images.stop - image])
            image += len(rows[-1])
        return torch.cat(rows)


@lru_cache(maxsize=2)
def permutation(count: int, seed: int, epoch: int) -> Tensor:
    """The rows in the order of an epoch, int64 [count]."""
    return torch.randperm(count, generator=generator_for(seed, "rows", epoch))


def batch_uniforms(seed: int, purpose: Purpose, number: int, count: int) -> Tensor:
    """Numbers in [0, 1) for a whole batch, float64 [count]."""
    return torch.rand(count, dtype=torch.float64, generator=generator_for(seed, purpose, number))


def batch_noise(
    seed: int, step: int, count: int, shape: Sequence[int], *, device: torch.device
) -> Tensor:
    """The noise of the whole batch of a step, float32 [count, *shape], drawn where it is used."""
    if device.type == "cpu":
        return torch.randn(count, *shape, generator=generator_for(seed, "noise", step))
    source = torch.Generator(device).manual_seed(seed_for(seed, "noise", step))
    return torch.randn(count, *shape, generator=source, device=device)
