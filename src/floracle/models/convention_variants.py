"""The other ways to read a field that somebody has declared: every mistake that people make.

Of a translated network its clock, sign and prediction are exchanged; of any other field only its
times in [0, 1] and its sign, so that a clock that runs too slowly cannot be put right.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Literal, NamedTuple

from torch import Tensor

from floracle.core.clock import Clock
from floracle.core.fields import TranslatedField, VelocityField
from floracle.core.paths import QUANTITIES

from .convention import Opposite, declared
from .field import ModelField

DECLARED = "as declared"
SCALE = 1000
"""Steps of a diffusion, the factor between the clocks that are in use."""
Saying = Literal[
    "as declared",
    "flipped in time",
    "wrong sign",
    "wrong time scale",
    "wrong prediction",
]


class ConventionVariant(NamedTuple):
    """One way to read a field."""

    says: Saying
    words: str
    field: VelocityField
    advice: str = ""

    @property
    def convention(self) -> str:
        """All of it as words that can be declared; empty for what is no translated network."""
        found = self.field.translated if isinstance(self.field, ModelField) else self.field
        return declared(found) if isinstance(found, TranslatedField) else ""


@dataclass(frozen=True)
class Retimed:
    """A field asked at other times, its sign turned where asked."""

    field: VelocityField
    time: Callable[[Tensor], Tensor]
    sign: int = 1

    def __call__(self, x: Tensor, t: Tensor, labels: Tensor | None = None) -> Tensor:
        """The velocity at the other times."""
        return self.sign * self.field(x, self.time(t), labels)


def convention_variants(field: VelocityField) -> list[ConventionVariant]:
    """All ways to read it, the declared one first."""
    if isinstance(field, ModelField):
        return [
            reading._replace(field=replace(field, translated=reading.field))
            for reading in of_translated(field.translated)
        ]
    return of_translated(field) if isinstance(field, TranslatedField) else of_any(field)


def of_translated(field: TranslatedField) -> list[ConventionVariant]:
    """Another clock, sign or prediction of the same network."""
    noise, data = field.clock.noise, field.clock.data
    opposite = isinstance(field.model, Opposite)
    turned = field.model.model if isinstance(field.model, Opposite) else Opposite(field.model)
    sign = f"sign={1 if opposite else -1}"
    flipped = replace(field, clock=Clock(noise=data, data=noise))
    found = [
        ConventionVariant(DECLARED, DECLARED, field),
        ConventionVariant(
            "wrong sign", "wrong sign", replace(field, model=turned), f"Declare {sign}."
        ),
        ConventionVariant(
            "flipped in time",
            "flipped in time",
            flipped,
            f"Declare clock={data:g}:{noise:g}.",
        ),
        ConventionVariant(
            "flipped in time",
            "flipped in time, its sign kept",
            replace(flipped, model=turned),
            f"Declare clock={data:g}:{noise:g},{sign}.",
        ),
    ]
    for factor, pace in ((SCALE, "fast"), (1 / SCALE, "slow")):
        for start, end, also in ((noise, data, ""), (data, noise, ", and flipped")):
            clock = Clock(noise=start * factor, data=end * factor)
            advice = f"Declare clock={clock.noise:g}:{clock.data:g}."
            words = f"a clock {SCALE} times as {pace}{also}"
            found.append(
                ConventionVariant("wrong time scale", words, replace(field, clock=clock), advice)
            )
    for quantity in QUANTITIES:
        if quantity != field.predicts:
            words, advice = f"predicts the {quantity}", f"Declare predicts={quantity}."
            other = replace(field, predicts=quantity)
            found.append(ConventionVariant("wrong prediction", words, other, advice))
    return found


def of_any(field: VelocityField) -> list[ConventionVariant]:
    """The same field at other times in [0, 1], or with its sign turned."""
    slow = "It reads times as if they were larger or smaller than they are."
    return [
        ConventionVariant(DECLARED, DECLARED, field),
        ConventionVariant(
            "wrong sign", "wrong sign", Retimed(field, lambda t: t, -1), "Turn its sign."
        ),
        ConventionVariant(
            "flipped in time",
            "flipped in time",
            Retimed(field, lambda t: 1 - t, -1),
            "Ask it at 1 − t and turn its sign.",
        ),
        ConventionVariant(
            "flipped in time",
            "flipped in time, its sign kept",
            Retimed(field, lambda t: 1 - t),
            "Ask it at 1 − t.",
        ),
        ConventionVariant(
            "wrong time scale",
            f"a clock {SCALE} times as slow",
            Retimed(field, lambda t: t / SCALE),
            slow,
        ),
        ConventionVariant(
            "wrong time scale",
            f"a clock {SCALE} times as slow, counted from the data",
            Retimed(field, lambda t: 1 - (1 - t) / SCALE),
            slow,
        ),
    ]
