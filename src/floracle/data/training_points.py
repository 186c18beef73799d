"""What a network remembers of the points it was trained on, to compare other data with them.

A network of bytes brought to [−1, 1], or of the latents of one autoencoder, is none of floats of
[0, 1] or of another autoencoder, and no shape tells them apart. Networks that are trained here
keep the statistics of their points; `check_points` compares them wherever data and such a network
meet.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Mapping
from typing import Any

import torch

from floracle.core.point_set import PointSet
from floracle.run.errors import InputError

from .channel_statistics import Channels
from .store import Store
from .units import Units, compare_units

STATISTICS = ("mean", "std", "low", "high")


def describe_points(data: PointSet) -> dict[str, Any] | None:
    """What a network keeps of its training points, as JSON values; None of what is no store."""
    if not isinstance(data, Store):
        return None
    channels = {name: getattr(data.channels, name).tolist() for name in STATISTICS}
    return {"count": len(data), **channels, "autoencoder": data.autoencoder}


def autoencoder_of(source: object) -> str:
    """Whose latents data holds or a network was trained on; "" where that is unknown."""
    if isinstance(source, Store):
        return source.autoencoder
    points = getattr(source, "points", None)
    return points.get("autoencoder", "") if isinstance(points, Mapping) else ""


def check_points(field: object, data: PointSet) -> str:
    """Refuse data in another unit or latent space than a field was trained in.

    Returns what may be meant, "" where nothing is to be said: fields that keep nothing of their
    training points are not compared.
    """
    points = getattr(field, "points", None)
    if not isinstance(points, Mapping) or not isinstance(data, Store):
        return ""
    trained, given = autoencoder_of(field), data.autoencoder
    name = getattr(field, "name", "the network")
    if trained and given and trained != given:
        raise InputError(
            f"{name} was trained on latents of {trained}, and {data.name} holds those of {given};"
            " encode the data with the autoencoder of the network"
        )
    channels = Channels(*(torch.tensor(points[key], dtype=torch.float64) for key in STATISTICS))
    if len(channels.mean) != len(data.channels.mean):
        return ""  # another shape, which the network itself refuses
    # As points, whatever they are stored as: that is what a network sees.
    mismatch = compare_units(
        Units(points["count"], channels),
        Units(len(data), data.channels),
        names=("network's training", "given"),
    )
    if mismatch is None:
        return ""
    sentence = f"{name} and {data.name} do not fit: {mismatch.sentence}"
    if mismatch.certain:
        raise InputError(sentence)
    return sentence


def check_all_points(fields: Iterable[object], data: PointSet) -> None:
    """`check_points` of several fields; what may be meant is a warning."""
    for field in fields:
        if remark := check_points(field, data):
            warnings.warn(remark, stacklevel=3)
