"""Points that need no file: the embedded digits, and a Gaussian cloud of known spectrum."""

from __future__ import annotations

import re
from collections.abc import Sequence

import torch
from torch import Tensor

from floracle.core.seeds import generator
from floracle.run.errors import InputError

from .content import LayoutContent

GAUSSIAN = re.compile(r"gaussian:(\d{1,12})x(\d{1,9})(?::(\d{1,18}))?")
# A linear map of the cloud's seed, so that its points are never the noise of a sample number.
SEED_FACTOR, SEED_OFFSET = 0x9E3779B1, 0x7F4A7C15
Spectrum = float | Sequence[float] | Tensor


def open_digits() -> LayoutContent:
    """The 1797 digits [1, 8, 8] that come with scikit-learn, 0..16 mapped to [−1, 1]."""
    from sklearn.datasets import load_digits

    images, labels = load_digits(return_X_y=True)
    points = torch.from_numpy(images).float().reshape(-1, 1, 8, 8) / 8 - 1  # exact in float32
    return LayoutContent(points, "digits", torch.from_numpy(labels).long())


def open_gaussian(name: str, budget: int) -> LayoutContent:
    """The cloud that a name like gaussian:1000x8 or gaussian:1000x8:3 describes."""
    match = GAUSSIAN.fullmatch(name)
    if not match:
        raise InputError(f"{name!r} is no Gaussian cloud; write gaussian:POINTSxDIMS or ...:SEED")
    points, dims, seed = (int(number or 0) for number in match.groups())
    if 4 * points * dims > budget:
        raise InputError(f"{name} takes {points * dims >> 18} MiB; memory is {budget >> 20} MiB")
    return LayoutContent(gaussian(points, dims, seed=seed), "gaussian")


def gaussian(points: int, dims: int, *, spectrum: Spectrum | None = None, seed: int = 0) -> Tensor:
    """Normal points float32 [points, dims] with independent coordinates, drawn from one seed.

    The spectrum holds their variances [dims]; a number a means k^−a for k = 1 ... dims; None, 1.
    """
    if points < 1 or dims < 1:
        raise InputError(f"a cloud of {points} points in {dims} dimensions is empty")
    stream = generator((seed * SEED_FACTOR + SEED_OFFSET) % 2**32)
    cloud = torch.randn(points, dims, generator=stream)
    return cloud if spectrum is None else cloud.mul_(_variances(spectrum, dims).sqrt().float())


def _variances(spectrum: Spectrum, dims: int) -> Tensor:
    if isinstance(spectrum, (int, float)):
        return torch.arange(1, dims + 1, dtype=torch.float64) ** -float(spectrum)
    variances = torch.as_tensor(spectrum, dtype=torch.float64)
    if variances.shape != (dims,) or not (variances.isfinite() & (variances >= 0)).all():
        raise InputError(f"a spectrum holds {dims} variances, finite and not negative")
    return variances
