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
    """Standard normal noise [len(seeds), *shape], one seed a sample, drawn on the CPU."""
    seeds = [int(seed) for seed in seeds]
    drawn = torch.empty(len(seeds), *shape, dtype=dtype)
    for row, seed in zip(drawn, seeds, strict=True):
        row.normal_(generator=generator(seed))
    return drawn.to(device) if device is not None else drawn


def generator(seed: int) -> torch.Generator:
    """A CPU generator that starts from one seed in [0, 2³²)."""
    if not 0 <= seed < 2**32:  # torch's CPU generator drops the bits above, so seeds would repeat
        raise ValueError(f"seeds lie in [0, 2**32), got {seed}")
    return torch.Generator().manual_seed(seed)
