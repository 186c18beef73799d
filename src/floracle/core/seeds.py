"""Noise by sample number: row i depends on seed i alone, on every machine and batch size."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor


def noise(
    seeds: Iterable[int],
    shape: Sequence[int],
    *,
    device: torch.device | str | None = None,
    dtype: torch.dtype = torch.float32,
) -> Tensor:
    """Standard normal noise [len(seeds), *shape], one seed for each sample.

    It is drawn on the CPU, whatever the `device`: a GPU draws other numbers from the same seed.
    """
    seeds = [int(seed) for seed in seeds]
    samples = torch.empty(len(seeds), *shape, dtype=dtype)
    for sample, seed in zip(samples, seeds, strict=True):
        sample.normal_(generator=generator(seed))
    return samples.to(device) if device is not None else samples


def generator(seed: int) -> torch.Generator:
    """A CPU generator that starts from one seed in [0, 2³²)."""
    if not 0 <= seed < 2**32:  # torch's CPU generator drops the bits above, so seeds would repeat
        raise ValueError(f"seeds must lie in [0, 2**32), got {seed}")
    return torch.Generator().manual_seed(seed)
