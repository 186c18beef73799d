"""Guidance: a field pushed away from a reference, inside an interval of times.

    v = v_ref + w (v_label − v_ref)             (Ho & Salimans 2022; w = 1 changes nothing)

The reference is the field itself without labels (classifier-free guidance), or another field
(autoguidance, Karras et al. 2024). With an oracle for the field this is the guidance of a perfect
model of the set.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from floracle.core.fields import VelocityField, evaluate
from floracle.core.point_set import NO_LABEL
from floracle.core.time_conventions import time_convention
from floracle.run.errors import InputError, suggestion

from .grid import SAME_TIME

CHANNEL_CONVENTIONS = {"three": 3}
"""Channels that are guided by convention: the code of DiT, SiT and LightningDiT has [:, :3]."""


@dataclass(frozen=True)
class Guided:
    """A field with guidance; made by `guided`."""

    field: VelocityField
    scale: float
    """w."""
    interval: tuple[float, float]
    channels: int | None
    """The first channels, which are guided; None for all."""
    reference: VelocityField | None
    """None for the field itself without labels."""

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
        # v_label + (w − 1)(v_label − v_ref), the formula above; only where t is guided
        push = (self.scale - 1) * (velocity[inside] - reference)
        if self.channels is not None:
            push[:, self.channels :] = 0
        pushed = velocity.clone()
        pushed[inside] += push
        return pushed

    def inside(self, t: Tensor) -> Tensor:
        """Which times [b] are guided; the interval is closed, up to 1e-12."""
        low, high = self.interval
        return (t >= low - SAME_TIME) & (t <= high + SAME_TIME)

    def _both(
        self, x: Tensor, t: Tensor, labels: Tensor | None, inside: Tensor
    ) -> tuple[Tensor, Tensor]:
        """The field's velocity [b, *shape], and the reference's where it is guided."""
        guided_x, guided_t = x[inside], t[inside.to(t.device)]
        if self.reference is not None:
            velocity = evaluate(self.field, x, t, labels)  # the reference gets them after it
            guided_labels = None if labels is None else labels[inside.to(labels.device)]
            reference = self.reference(guided_x, guided_t, guided_labels)
            if reference.shape != guided_x.shape:
                raise InputError(
                    f"the reference of guidance answers samples {list(guided_x.shape)} with"
                    f" velocities {list(reference.shape)}; take a field of the same shape"
                )
            return velocity, reference
        assert labels is not None
        # one evaluation of a larger batch: the labelled samples, then the guided ones unlabelled
        null = torch.full((len(guided_x),), NO_LABEL, dtype=labels.dtype, device=labels.device)
        both = self.field(
            torch.cat([x, guided_x]), torch.cat([t, guided_t]), torch.cat([labels, null])
        )
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

    - `scale`: w of the formula, not w − 1.
    - `interval`: Closed, in t; outside only the field itself is evaluated (Kynkäänniemi et al.
      2024, there stated in noise levels: `guidance_interval`).
    - `channels`: How many channels are guided, from the first on; "three" as in DiT, SiT and
      LightningDiT.
    - `reference`: The field to be pushed away from, which gets the labels; by default the field
      itself without labels, in the same batch.
    """
    low, high = interval
    if not 0 <= low < high <= 1:
        raise InputError(
            f"a guidance interval lies in 0 <= low < high <= 1, got {low:g} to {high:g}"
        )
    if not abs(scale) < float("inf"):
        raise InputError(f"a guidance scale is a finite number, got {scale:g}")
    count = count_guided_channels(channels)
    return Guided(field, float(scale), (float(low), float(high)), count, reference)


def count_guided_channels(channels: int | str | None) -> int | None:
    """The number of guided channels; None for all."""
    if isinstance(channels, str):
        if channels not in CHANNEL_CONVENTIONS:
            hint = suggestion(channels, CHANNEL_CONVENTIONS)
            raise InputError(f"there is no convention of channels {channels!r}; {hint}")
        return CHANNEL_CONVENTIONS[channels]
    if channels is not None and channels < 1:
        raise InputError(
            f"channels counts those that are guided and is at least 1, got {channels}"
        )
    return channels


def evaluations_per_velocity(field: VelocityField, t: float) -> int:
    """The evaluations of a network or oracle that one velocity of the field at t takes."""
    if not isinstance(field, Guided):
        return 1
    unguided = evaluations_per_velocity(field.field, t)
    if field.scale == 1 or not field.inside(torch.tensor(t, dtype=torch.float64)):
        return unguided
    if field.reference is None:
        return 2 * unguided
    return unguided + evaluations_per_velocity(field.reference, t)


def guidance_interval(clock: str, low: float, high: float) -> tuple[float, float]:
    """The interval of t that a clock reads as low to high.

    Most clocks run from data to noise, so that their smaller end is our later one: EDM's (.34,
    1.02] is [.495, .746] here. Ours are closed, which differs only on a grid with that very time.

    - `clock`: t, s, sigma (SD3, Flux: 1 − t), timestep, edm ((1 − t) / t, beside data of deviation
      1), edm2 (half of that), logsnr, alphabar or dit.
    """
    if math.isnan(low) or math.isnan(high) or not low < high:
        raise InputError(f"an interval has a lower end and a higher one, got {low:g} to {high:g}")
    try:
        times = time_convention(clock)
        first, last = sorted((times.float_to_t(low), times.float_to_t(high)))
    except ValueError as error:
        raise InputError(f"guidance interval: {error}") from error
    return first, last
