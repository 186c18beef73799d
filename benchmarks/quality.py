"""How good samples of a trained network are, by a measure of our own: pixels alone are seen.

The Fréchet distance to held-out data is taken over the leading principal coordinates of the
training set; it is not comparable with published FID. Copies are counted by nearest neighbours.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from scipy.linalg import sqrtm

import floracle
from floracle.core.point_set import classes

COORDINATES = 64
TOGETHER = 500


def principal(points: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """The mean and the leading directions [D, k] of points [n, D]."""
    mean = points.mean(0)
    torch.manual_seed(0)  # the directions are found by random projections
    _, _, directions = torch.svd_lowrank(points - mean, COORDINATES, niter=4)
    return mean, directions


def frechet(one: torch.Tensor, other: torch.Tensor) -> float:
    """Between Gaussians fitted to features [n, k]."""
    (a, ca), (b, cb) = ((x.mean(0), np.cov(x, rowvar=False)) for x in (one.numpy(), other.numpy()))
    return float(((a - b) ** 2).sum() + np.trace(ca + cb - 2 * sqrtm(ca @ cb).real))


def drawn(folder: Path, data: floracle.Store, count: int, device: str) -> torch.Tensor:
    """Samples of a run's network, classes in turn, [n, D]."""
    network = floracle.load_model(folder, device=device)
    grid, known = floracle.time_grid(50), classes(data) or [-1]
    parts = []
    for start in range(0, count, TOGETHER):
        seeds = range(start, min(start + TOGETHER, count))
        labels = torch.tensor([known[seed % len(known)] for seed in seeds])
        begin = floracle.noise(seeds, data.shape).to(device)
        parts.append(floracle.sample(network, begin, grid, labels=labels).flatten(1).cpu())
    return torch.cat(parts)


def copied(points: torch.Tensor, samples: torch.Tensor, device: str) -> float:
    """The share of samples whose nearest point is nearer than a third of the second.

    The points are distinct: of a point that is there twice no copy would be seen.
    """
    points, copies = points.to(device), 0
    for some in samples.to(device).split(TOGETHER):
        near = torch.cdist(some, points).topk(2, dim=1, largest=False).values
        copies += int((near[:, 0] < near[:, 1] / 3).sum())
    return copies / len(samples)
