"""SiT's words for a path and a prediction, which LightningDiT and REPA share."""

from __future__ import annotations

from typing import cast

from floracle.core.paths import LINEAR, QUANTITIES, TRIGONOMETRIC, Quantity
from floracle.models.convention import Convention
from floracle.run.errors import InputError, suggestion

PATHS = {"linear": LINEAR, "gvp": TRIGONOMETRIC, "cosine": TRIGONOMETRIC}
"""REPA's "cosine" is SiT's "GVP": α = sin(πt/2), σ = cos(πt/2)."""


def transport(path_type: object, prediction: object, *, where: object) -> Convention:
    """The convention that they stand for, in our clock."""
    path, predicts = str(path_type).lower(), str(prediction).lower()
    if path == "vp":
        raise InputError(
            f"{where} was trained on SiT's VP path, which has data left in it at t = 0; it cannot"
            f" be read as a field here. Linear and GVP can"
        )
    if path not in PATHS:
        raise InputError(f"{where}: there is no path {path_type!r}; {suggestion(path, PATHS)}")
    if predicts not in QUANTITIES:
        raise InputError(
            f"{where}: there is no prediction {prediction!r}; {suggestion(predicts, QUANTITIES)}"
        )
    return Convention(predicts=cast(Quantity, predicts), path=PATHS[path])
