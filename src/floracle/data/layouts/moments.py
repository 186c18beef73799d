"""Points that were stored as Gaussians: rows [2C, ...] = [mean ‖ std] or [mean ‖ log variance].

An autoencoder maps a picture to a Gaussian N(mean, std²) with a std for every value. A training
point is its mean, one draw from it, or the Gaussian itself. Log variances are clamped to
[−30, 20], as in the autoencoders of latent diffusion (Rombach et al. 2022); std = exp(logvar / 2).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from floracle.core.seeds import noise
from floracle.data.rows.rows import ComputedRows, Key, Rows, map_rows, row_numbers
from floracle.run.errors import InputError

from .content import LayoutContent, ReadOptions

MIN_LOG_VARIANCE, MAX_LOG_VARIANCE = -30.0, 20.0  # of its DiagonalGaussianDistribution


@dataclass(frozen=True)
class MomentReading:
    """Stored rows as points."""

    points: Rows  # as stored, [N, *shape]
    identity: Rows  # all that tells two rows apart: the points, or [mean ‖ std] of Gaussians
    stds: Rows | None = None  # of Gaussians, their standard deviations as stored, [N, *shape]
    wide: Rows | None = None
    """What points were converted from, where they are no longer as stored."""


def read_moments(content: LayoutContent, options: ReadOptions, name: str) -> MomentReading:
    """Rows as points; where they are moments, the option `moments` says what becomes of them."""
    rows = content.rows
    if content.moments is None:
        if options.moments is not None:
            raise InputError(
                f"{name} holds points, so moments={options.moments!r} says nothing; if its"
                " channels are [mean ‖ std], say layout='mean-std', or 'mean-logvar'"
            )
        return MomentReading(rows, rows)
    meaning = options.require_moments(name)
    if len(rows.shape) < 2 or rows.shape[1] % 2 or not rows.dtype.is_floating_point:
        raise InputError(
            f"{name} holds {rows.dtype} {[*rows.shape]}; moments are floats [N, 2C, ...]"
        )
    if meaning == "mean":
        means = _halve(rows, 0)
        return MomentReading(means, means)
    read_stds = _std_of_log_variance if content.moments == "logvar" else partial(_check_std, name)
    gaussians = map_rows(rows, partial(_mean_and_std, read_stds), dtype=torch.float32)
    if meaning == "gaussian":
        return MomentReading(_halve(gaussians, 0), gaussians, _halve(gaussians, 1), rows)
    shape = _halve(gaussians, 0).shape
    draws = ComputedRows(shape, torch.float32, partial(_draw, gaussians, shape[1:]))
    return MomentReading(draws, draws, wide=rows)


def _halve(rows: Rows, half: int) -> ComputedRows:
    """Half of the channels of rows [N, 2C, ...]: 0 for the means, 1 for the rest."""
    count, channels, *axes = rows.shape
    shape = (count, channels // 2, *axes)
    return map_rows(rows, lambda block: block.chunk(2, dim=1)[half], shape=shape)


def _mean_and_std(read_stds: Callable[[Tensor], Tensor], stored: Tensor) -> Tensor:
    mean, second = stored.float().chunk(2, dim=1)  # [n, C, ...] each
    return torch.cat([mean, read_stds(second)], 1)


def _std_of_log_variance(log_variance: Tensor) -> Tensor:
    return (log_variance.clamp(MIN_LOG_VARIANCE, MAX_LOG_VARIANCE) * 0.5).exp()


def _check_std(name: str, std: Tensor) -> Tensor:
    if (std < 0).any():
        raise InputError(
            f"{name} holds negative standard deviations; if they are log variances, say"
            " layout='mean-logvar'"
        )
    return std


def _draw(gaussians: Rows, shape: tuple[int, ...], key: Key) -> Tensor:
    """Mean + std · ε; ε of row i comes from seed i, so a row is the same in every block."""
    mean, std = gaussians[key].chunk(2, dim=1)
    return mean + std * noise(row_numbers(key, len(gaussians)).tolist(), shape)
