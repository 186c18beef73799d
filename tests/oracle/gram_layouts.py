"""Sources that are easy or hard for a matrix of inner products, and what is drawn from them."""

from __future__ import annotations

import torch

EXACT = 1e-10
TIMES = torch.tensor(
    [0, 1e-3, 0.03, 0.1, 0.2, 0.3, 0.5, 0.7, 0.9, 0.97, 0.99, 0.999, 0.9999], dtype=torch.float64
)
LAYOUTS = (
    "plain",
    "weighted",
    "merged",
    "near 1e-2",
    "near 1e-4",
    "near 1e-6",
    "ball 1e-2",
    "ball 1e-4",
    "nested",
    "chain",
    "two clouds",
    "far",
    "far near",
)


def laid_out(points_source, layout, count=120, dims=72):
    """Sources whose class 1 is easy or hard for a matrix of inner products."""
    drawn_by = torch.Generator().manual_seed(8)
    cloud = torch.randn(count, dims, generator=drawn_by) * torch.linspace(1, 0.1, dims)
    nudge, half = torch.randn(count, dims, generator=drawn_by), count // 2
    labels, weights = torch.arange(count) % 2, None
    size = float(layout.split()[-1]) if layout[-1].isdigit() else 1e-3
    if layout == "weighted":
        weights = torch.rand(count, generator=drawn_by, dtype=torch.float64) + 0.05
    elif layout == "merged":
        cloud[7], cloud[21], cloud[35] = cloud[1], cloud[1], cloud[3]
    elif layout.startswith("ball"):
        cloud[:100] = cloud[0] + size * nudge[:100]
    elif layout == "nested":
        cloud[:80] = cloud[0] + 3e-3 * nudge[:80]
        cloud[40:80] = cloud[:40] + 3e-5 * nudge[40:80]
    elif layout == "chain":
        cloud[:80] = cloud[0] + 1e-3 * torch.arange(80)[:, None] * cloud[1]
    elif layout == "two clouds":
        cloud += 100 * (2 * (torch.arange(count) // 2 % 2)[:, None] - 1)
    if "near" in layout:
        cloud[half:] = cloud[:half] + size * nudge[half:]
    if "far" in layout:
        cloud += 100
    return points_source(cloud, labels, weights)


def atoms_of(data, label):
    """The points float64 [n, D] of a class, their rows and weights."""
    atoms = data.atoms(label)
    return data.take(atoms.rows).flatten(1).double(), atoms.rows, atoms.weights


def drawn_pairs(data, label, count=8, seed=1):
    """Rows ∝ weight and their noise float32."""
    atoms, drawn_by = data.atoms(label), torch.Generator().manual_seed(seed)
    chosen = torch.multinomial(atoms.weights, count, replacement=True, generator=drawn_by)
    return atoms.rows[chosen], torch.randn(count, *data.shape, generator=drawn_by)


def entropy_of(weights):
    return -torch.special.xlogy(weights, weights).sum(1)
