"""Whether a network fits samples, labels and a data set: the checks of all that evaluate networks.

`train` has a network of its own, `sample`, `loss`, `mix` and `probe` loaded ones; what one of them
refuses, all do.
"""

from __future__ import annotations

from torch import Tensor

from floracle.core.point_set import NO_LABEL, PointSet, classes
from floracle.run.errors import InputError


def check_shape(
    name: str, expected: tuple[int, ...] | None, shape: tuple[int, ...], *, any_size: bool = False
) -> None:
    """Refuse samples of another shape than the network's; None where it does not say."""
    if expected is None or shape == expected:
        return
    if shape[:1] != expected[:1]:
        takes = _shape_text(expected)
        if any_size:
            takes = f"{expected[0]} channels of any size"
        raise InputError(
            f"{name} takes {takes} (channels first), but these samples are {_shape_text(shape)};"
            f" use data of the kind it was trained on, for a latent model the latents of its"
            f" autoencoder"
        )
    if not any_size:
        raise InputError(
            f"{name} takes {_shape_text(expected)}, but these samples are {_shape_text(shape)};"
            f" use data of the size it was trained on"
        )


def check_labels(
    name: str, labels: Tensor | None, *, count: int | None, null_label: int | None
) -> None:
    """Refuse labels that a network of `count` classes does not have; None: it does not say."""
    if count is None:
        return
    if null_label is None and (labels is None or bool((labels == NO_LABEL).any())):
        raise InputError(
            f"{name} has no null label, so every sample needs a label from 0 to {count - 1}; pass"
            f" labels"
        )
    if labels is None:
        return
    unknown = labels[(labels >= count) | (labels < NO_LABEL)]
    if len(unknown):
        raise InputError(
            f"{name} has the labels 0 to {count - 1}, and -1 for none, got {int(unknown[0])}"
        )


def check_classes(name: str, data: PointSet, *, count: int | None, null_label: int | None) -> None:
    """Refuse data with a class that the network does not have, or that it takes for none."""
    existing = classes(data)
    if count is not None and existing and existing[-1] >= count:
        raise InputError(
            f"{name} knows {count} classes, 0 to {count - 1}, but the data has the label"
            f" {existing[-1]}; take the data it was trained on, or its labels"
        )
    if null_label in existing:
        raise InputError(
            f"null_label={null_label} of {name} is a class of the data; the null label is one that"
            f" no row has"
        )


def _shape_text(shape: tuple[int, ...]) -> str:
    return " × ".join(map(str, shape)) or "single numbers"
