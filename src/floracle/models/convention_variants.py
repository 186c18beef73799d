"""The other ways to read a field that somebody has declared: every mistake that people make.

Of a translated network the times, sign and prediction are exchanged; of any other field only its
times in [0, 1] and its sign. A field that counts time too slowly cannot be corrected from outside.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Literal, NamedTuple

from torch import Tensor

from floracle.core.fields import Convention, TranslatedField, VelocityField
from floracle.core.paths import QUANTITIES

from .convention import PATH_WORDS, convention_words, word_of
from .field import ModelField

DECLARED = "as declared"
TIMESTEPS = 1000
"""The factor between the times in use: diffusion steps against σ or t."""
VariantKind = Literal[
    "as declared",
    "flipped in time",
    "wrong sign",
    "wrong time scale",
    "wrong prediction",
    "wrong path",
    "wrong noise scale",
    "wrong factor",
]
NEAR_KINDS: tuple[VariantKind, ...] = ("wrong path", "wrong noise scale")
"""Readings that may be as good as the declared one, as two paths of nearly the same times are."""
NOISE_SCALES = (0.5, 0.8, 1.25, 2.0)
"""Factors of the declared noise scale that are tried."""


class ConventionVariant(NamedTuple):
    """One way to read a field."""

    kind: VariantKind
    words: str
    """What is different, in words for people."""
    field: VelocityField
    advice: str = ""

    @property
    def convention(self) -> str:
        """All of it as words that can be declared; empty for what is no translated network."""
        field = self.field.translated if isinstance(self.field, ModelField) else self.field
        return convention_words(field.convention) if isinstance(field, TranslatedField) else ""


@dataclass(frozen=True)
class RetimedField:
    """A field evaluated at other times, times a sign."""

    field: VelocityField
    time: Callable[[Tensor], Tensor]
    sign: int = 1

    def __call__(self, x: Tensor, t: Tensor, labels: Tensor | None = None) -> Tensor:
        """The velocity at the other times."""
        return self.sign * self.field(x, self.time(t), labels)


def convention_variants(field: VelocityField) -> list[ConventionVariant]:
    """All ways to read a field, the declared one first."""
    if isinstance(field, ModelField):
        return [
            variant._replace(field=replace(field, translated=variant.field))
            for variant in _translated_variants(field.translated)
        ]
    return (
        _translated_variants(field)
        if isinstance(field, TranslatedField)
        else _field_variants(field)
    )


def _translated_variants(field: TranslatedField) -> list[ConventionVariant]:
    """Other times, another sign or another prediction of the same network."""
    declared = field.convention
    noise, data = declared.noise_time, declared.data_time
    other_sign: dict[str, Any] = {"sign": -declared.sign}
    flipped: dict[str, Any] = {"noise_time": data, "data_time": noise}

    changes: list[tuple[VariantKind, str, dict[str, Any]]] = [
        ("wrong sign", "wrong sign", other_sign),
        ("flipped in time", "flipped in time", flipped),
        # A velocity turns around with its time; this one does not.
        ("flipped in time", "flipped in time, its sign kept", flipped | other_sign),
    ]
    for factor, pace in ((TIMESTEPS, "large"), (1 / TIMESTEPS, "small")):
        for start, end, also in ((noise, data, ""), (data, noise, ", and flipped")):
            scaled = {"noise_time": start * factor, "data_time": end * factor}
            words = f"times {TIMESTEPS} times as {pace}{also}"
            changes.append(("wrong time scale", words, scaled))
    for quantity in QUANTITIES:
        if quantity != declared.predicts:
            fields = {"predicts": quantity, **_without_clamp(declared)}
            changes.append(("wrong prediction", f"predicts the {quantity}", fields))
    for word, path in PATH_WORDS.items():
        if path != declared.path:
            fields = {"path": path, **_without_clamp(declared)}
            changes.append(("wrong path", f"on the {word} path", fields))
    for factor in NOISE_SCALES:
        scale = declared.noise_scale * factor
        fields = {"noise_scale": scale}
        changes.append(("wrong noise scale", f"noise of deviation {scale:g}", fields))
    return [
        ConventionVariant(DECLARED, DECLARED, field),
        *(
            ConventionVariant(
                kind,
                words,
                replace(field, convention=replace(declared, **fields)),
                f"Declare {_shown(fields)}.",
            )
            for kind, words, fields in changes
        ),
    ]


def _without_clamp(convention: Convention) -> dict[str, float]:
    """Fields without the clamp, which data on the linear path alone has."""
    return {"min_time_left": 0.0} if convention.min_time_left else {}


def _shown(fields: dict[str, Any]) -> str:
    return ",".join(f"{key}={word_of(value)}" for key, value in fields.items())


def _field_variants(field: VelocityField) -> list[ConventionVariant]:
    """The same field at other times in [0, 1], or with its sign turned."""
    slow = "It takes times for larger or smaller ones than they are."
    rows: list[tuple[VariantKind, str, Callable[[Tensor], Tensor], int, str]] = [
        ("wrong sign", "wrong sign", lambda t: t, -1, "Turn its sign."),
        (
            *("flipped in time", "flipped in time", lambda t: 1 - t, -1),
            "Evaluate it at 1 − t and turn its sign.",
        ),
        (
            *("flipped in time", "flipped in time, its sign kept", lambda t: 1 - t, 1),
            "Evaluate it at 1 − t.",
        ),
        (
            *("wrong time scale", f"times {TIMESTEPS} times as small", lambda t: t / TIMESTEPS, 1),
            slow,
        ),
        (
            "wrong time scale",
            f"times {TIMESTEPS} times as small, counted from the data",
            lambda t: 1 - (1 - t) / TIMESTEPS,
            1,
            slow,
        ),
    ]
    return [
        ConventionVariant(DECLARED, DECLARED, field),
        *(
            ConventionVariant(kind, words, RetimedField(field, time, sign), advice)
            for kind, words, time, sign, advice in rows
        ),
        *(
            ConventionVariant(
                "wrong noise scale",
                f"noise of deviation {scale:g}",
                TranslatedField(partial(_with_labels, field), Convention(noise_scale=scale)),
                f"Take it through as_field(…, noise_scale={scale:g}).",
            )
            for scale in NOISE_SCALES
        ),
    ]


def _with_labels(
    field: VelocityField, x: Tensor, t: Tensor, labels: Tensor | None = None
) -> Tensor:
    """The field as a model, which is called without labels where there are none."""
    return field(x, t, labels)
