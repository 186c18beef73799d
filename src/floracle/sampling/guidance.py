"""Guidance: a field pushed away from a reference, inside an interval of times.

    v = v_ref + w (v_label − v_ref)             (Ho & Salimans 2022; w = 1 changes nothing)

The reference is the field itself without labels, or another field (autoguidance, Karras et al.
2024). With an oracle for the field this is the guidance that a perfect model of the set would get.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from floracle.core.fields import VelocityField
from floracle.core.point_set import NO_LABEL
from floracle.run.errors import InputError, suggestion

from .grid import SAME

HABITS = {"three": 3}
"""How many channels are guided by habit: the code of DiT, SiT and LightningDiT has [:, :3]."""


@dataclass(frozen=True)
class Guided:
    """A field with guidance around it; made by `guided`."""

    field: VelocityField
    scale: float
    interval: tuple[float, float]
    channels: int | None
    reference: VelocityField | None

    def __call__(self, x: Tensor, t: Tensor, labels: Tensor | None = None) -> Tensor:
        """The guided velocity [b, *shape] at samples x [b, *shape], times t [b]."""
        if labels is None and self.reference is None and self.scale != 1:
            raise InputError(
                "guidance pushes samples towards their labels, but none were given; give labels,"
                " or a reference field to be pushed away from"
            )
        inside = self.inside(t).to(x.device)
        if self.scale == 1 or not inside.any():
            return self.field(x, t, labels)
        velocity, reference = self._both(x, t, labels, inside)
        away = (self.scale - 1) * (velocity[inside] - reference)
        if self.channels is not None:
            away[:, self.channels :] = 0
        pushed = velocity.clone()
        pushed[inside] += away
        return pushed

    def inside(self, t: Tensor) -> Tensor:
        """Which times [b] are guided; one within 1e-12 of an end is taken for it."""
        low, high = self.interval
        return (t >= low - SAME) & (t <= high + SAME)

    def guides(self, t: float) -> bool:
        """Whether there is anything to evaluate at this time beside the field."""
        return self.scale != 1 and bool(self.inside(torch.tensor(t, dtype=torch.float64)))

    def _both(
        self, x: Tensor, t: Tensor, labels: Tensor | None, inside: Tensor
    ) -> tuple[Tensor, Tensor]:
        """The field's velocity [b, …], and the reference's where it is guided."""
        away, then = x[inside], t[inside.to(t.device)]
        if self.reference is not None:
            velocity = self.field(x, t, labels)
            given = None if labels is None else labels[inside.to(labels.device)]
            return velocity, _alike(self.reference(away, then, given), away)
        assert labels is not None
        without = torch.full((len(away),), NO_LABEL, dtype=labels.dtype, device=labels.device)
        both = self.field(torch.cat([x, away]), torch.cat([t, then]), torch.cat([labels, without]))
        return both[: len(x)], both[len(x) :]


def guided(
    field: VelocityField,
    scale: float,
    *,
    interval: tuple[float, float] = (0.0, 1.0),
    channels: int | Literal["three"] | None = None,
    reference: VelocityField | None = None,
) -> Guided:
    """Push samples towards their labels; scale 1 changes nothing.

    The interval is in t, closed, and outside it only the field itself is evaluated (Kynkäänniemi
    et al. 2024, there stated in noise levels: `interval_in`). `channels` guides only the first so
    many, "three" as the code of DiT, SiT and LightningDiT has it. A `reference` field is asked
    with the labels; without one it is the field itself without them, in the same batch.
    """
    low, high = interval
    if not 0 <= low < high <= 1:
        raise InputError(
            f"a guidance interval lies in 0 <= low < high <= 1, got {low:g} to {high:g}"
        )
    if not abs(scale) < float("inf"):
        raise InputError(f"a guidance scale is a finite number, got {scale:g}")
    count = channels_of(channels)
    return Guided(field, float(scale), (float(low), float(high)), count, reference)


def channels_of(channels: int | str | None) -> int | None:
    """How many channels are guided; None for all."""
    if isinstance(channels, str):
        if channels not in HABITS:
            raise InputError(f"there is no habit {channels!r}; {suggestion(channels, HABITS)}")
        return HABITS[channels]
    if channels is not None and channels < 1:
        raise InputError(
            f"channels counts those that are guided and is at least 1, got {channels}"
        )
    return channels


def evaluations_at(field: VelocityField, t: float) -> int:
    """How many velocities of a network or oracle one velocity of the field at t takes."""
    if not isinstance(field, Guided):
        return 1
    own = evaluations_at(field.field, t)
    if not field.guides(t):
        return own
    return own + (own if field.reference is None else evaluations_at(field.reference, t))


def _alike(velocity: Tensor, x: Tensor) -> Tensor:
    if velocity.shape != x.shape:
        raise InputError(
            f"the reference of guidance answers samples {list(x.shape)} with velocities"
            f" {list(velocity.shape)}; take a field of the same shape"
        )
    return velocity
