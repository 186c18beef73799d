"""Guidance: a field pushed away from a reference, inside an interval of times.

    v = v_ref + w (v_label − v_ref)             (Ho & Salimans 2022; w = 1 changes nothing)

The reference is the field itself without labels, or another field (autoguidance, Karras et al.
2024). With an oracle for the field this is the guidance that a perfect model of the set would get.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from floracle.core.fields import VelocityField
from floracle.run.errors import Mistake


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
        velocity = self.field(x, t, labels)
        inside = (t >= self.interval[0]) & (t <= self.interval[1])
        if self.scale == 1 or not inside.any():
            return velocity
        inside = inside.to(x.device)
        velocity = velocity.clone()
        velocity[inside] = self._pushed(
            velocity[inside], x[inside], t[inside.to(t.device)], labels, inside
        )
        return velocity

    def _pushed(
        self, velocity: Tensor, x: Tensor, t: Tensor, labels: Tensor | None, inside: Tensor
    ) -> Tensor:
        reference = self.field if self.reference is None else self.reference
        given = None if self.reference is None or labels is None else labels[inside]
        away = (self.scale - 1) * (velocity - reference(x, t, given))
        if self.channels is not None:
            away[:, self.channels :] = 0
        return velocity + away


def guided(
    field: VelocityField,
    scale: float,
    *,
    interval: tuple[float, float] = (0.0, 1.0),
    channels: int | None = None,
    reference: VelocityField | None = None,
) -> VelocityField:
    """Push samples towards their labels; scale 1 changes nothing.

    The interval is in t, closed, and outside it only the field itself is evaluated (Kynkäänniemi
    et al. 2024, there stated in noise levels). `channels` guides only the first so many (3 in the
    code of DiT, SiT and LightningDiT). A `reference` field is asked with the labels; without one
    it is the field itself, asked without them.
    """
    low, high = interval
    if not 0 <= low < high <= 1:
        raise Mistake(f"a guidance interval lies in 0 <= low < high <= 1, got {low:g} to {high:g}")
    if not abs(scale) < float("inf"):
        raise Mistake(f"a guidance scale is a finite number, got {scale:g}")
    if channels is not None and channels < 1:
        raise Mistake(f"channels counts those that are guided and is at least 1, got {channels}")
    return Guided(field, float(scale), (float(low), float(high)), channels, reference)
