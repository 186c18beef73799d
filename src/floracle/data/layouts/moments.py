"""Samples that were stored as Gaussians: rows [2C, ...] = [mean ‖ std] or [mean ‖ log variance].

An autoencoder maps a picture to a Gaussian N(mean, std²) with a std for every value. A point is
its mean, one draw from it, or the Gaussian itself. Log variances are clamped to [−30, 20], as the
autoencoders of latent diffusion do (Rombach et al. 2022), and std = exp(logvar / 2).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from floracle.core.seeds import noise
from floracle.run.errors import InputError

from .content import Key, LayoutContent, Rows
from .read_options import ReadOptions

LOWEST, HIGHEST = -30.0, 20.0


@dataclass(frozen=True, eq=False)
class Gaussians:
    """Stored moments [N, 2C, ...] as [mean ‖ std], float32."""

    rows: Rows
    logarithmic: bool
    name: str
    dtype: torch.dtype = torch.float32

    @property
    def shape(self) -> tuple[int, ...]:
        """[N, 2C, ...]."""
        return tuple(self.rows.shape)

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, key: Key, /) -> Tensor:
        mean, second = self.rows[key].float().chunk(2, dim=1)
        if self.logarithmic:
            second = (second.clamp(LOWEST, HIGHEST) * 0.5).exp()
        elif (second < 0).any():
            raise InputError(
                f"{self.name} holds negative standard deviations; if they are log variances, say"
                " layout='mean-logvar'"
            )
        return torch.cat([mean, second], 1)


@dataclass(frozen=True, eq=False)
class Half:
    """The first or second half of the channels: means, or standard deviations."""

    rows: Rows
    second: bool = False

    @property
    def shape(self) -> tuple[int, ...]:
        """[N, C, ...]."""
        count, channels, *rest = self.rows.shape
        return (count, channels // 2, *rest)

    @property
    def dtype(self) -> torch.dtype:
        """As stored."""
        return self.rows.dtype

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, key: Key, /) -> Tensor:
        return self.rows[key].chunk(2, dim=1)[self.second]


@dataclass(frozen=True, eq=False)
class Draws:
    """One draw from every Gaussian; that of row i is its own and comes from seed i."""

    gaussians: Gaussians
    dtype: torch.dtype = torch.float32

    @property
    def shape(self) -> tuple[int, ...]:
        """[N, C, ...]."""
        return Half(self.gaussians).shape

    def __len__(self) -> int:
        return len(self.gaussians)

    def __getitem__(self, key: Key, /) -> Tensor:
        rows = torch.arange(len(self))[key] if isinstance(key, slice) else key
        mean, std = self.gaussians[key].chunk(2, dim=1)
        return mean + std * noise(rows.tolist(), self.shape[1:])


def check_moments(rows: Rows, name: object) -> None:
    """Refuse what cannot be halved into means and the rest."""
    floating = rows.dtype.is_floating_point
    if len(rows.shape) < 2 or rows.shape[1] % 2 or not floating:
        shape = list(rows.shape)
        raise InputError(f"{name} holds {rows.dtype} {shape}; moments are floats [N, 2C, ...]")


@dataclass(frozen=True)
class MomentReading:
    """Stored rows as points."""

    points: Rows
    """As stored, [N, *shape]."""
    whole: Rows
    """All that tells two rows apart: the points, or [mean ‖ std] of Gaussians."""
    stds: Rows | None = None
    """As stored, [N, *shape]; of Gaussians alone."""


def read_moments(content: LayoutContent, asked: ReadOptions, name: str) -> MomentReading:
    """What moments become, which the user says; all else is read as it is."""
    if content.moments is None:
        if asked.moments is not None:
            raise InputError(
                f"{name} holds points, so moments={asked.moments!r} says nothing; if its channels"
                " are [mean ‖ std], say layout='mean-std', or 'mean-logvar'"
            )
        return MomentReading(content.rows, content.rows)
    meaning = asked.holds_gaussians(name)
    check_moments(content.rows, name)
    if meaning == "mean":
        means = Half(content.rows)
        return MomentReading(means, means)
    gaussians = Gaussians(content.rows, content.moments == "logvar", name)
    if meaning == "sample":
        draws = Draws(gaussians)
        return MomentReading(draws, draws)
    return MomentReading(Half(gaussians), gaussians, Half(gaussians, second=True))
