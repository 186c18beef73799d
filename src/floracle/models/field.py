"""A loaded network as a velocity field, with its name, its shape and what was assumed of it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from floracle.core.fields import Convention, TranslatedField, VelocityField, name_of
from floracle.core.point_set import PointSet
from floracle.run.errors import InputError

from .convention import describe_convention
from .data_fit import check_classes, check_labels, check_shape
from .identity_facts import NOT_IDENTITY


@dataclass(frozen=True)
class ModelField:
    """A network seen as a field; made by `load_model`.

    Samples may be on any device and of any floating point type; velocities come back as they came.
    """

    translated: TranslatedField
    name: str = field(metadata=NOT_IDENTITY)
    assumed: str = field(metadata=NOT_IDENTITY)
    """What was assumed of the network, as text for people."""
    shape: tuple[int, ...] | None = field(default=None, metadata=NOT_IDENTITY)
    """The shape of one sample; None where the network does not say."""
    any_size: bool = field(default=False, metadata=NOT_IDENTITY)
    """Whether only the channels of the shape are binding."""
    classes: int | None = field(default=None, metadata=NOT_IDENTITY)
    """How many labels it has, without the null label; None where it does not say."""
    points: Mapping[str, Any] | None = field(default=None, metadata=NOT_IDENTITY)
    """Statistics of its training points (`data.training_points`); None where it keeps none."""

    def __call__(self, x: Tensor, t: Tensor, labels: Tensor | None = None) -> Tensor:
        """The velocity [b, *shape] at samples x [b, *shape], times t [b], labels int64 [b]."""
        self.check_shape(x)
        self.check_labels(labels)
        return self.translated(x, t, labels)

    @property
    def convention(self) -> Convention:
        """How the network is read."""
        return self.translated.convention

    @property
    def needs_labels(self) -> bool:
        """Whether every sample needs one of its labels; False where it does not say."""
        if self.convention.null_label is not None:
            return False
        network = getattr(self.translated.model, "network", None)
        return self.classes is not None or getattr(network, "needs_labels", False)

    def check_shape(self, x: Tensor) -> None:
        """Refuse samples of another shape than the network's."""
        check_shape(self.name, self.shape, tuple(x.shape[1:]), any_size=self.any_size)

    def check_labels(self, labels: Tensor | None) -> None:
        """Refuse labels that the network does not have."""
        null_label = self.convention.null_label
        check_labels(self.name, labels, count=self.classes, null_label=null_label)


def check_fit(field: VelocityField, data: PointSet, *, text: bool = False) -> None:
    """Refuse data of another shape than a network's, or of other classes.

    The labels of a network with a `text` are its prompts. Guided fields, and those seen on another
    path, are checked inside.
    """
    if isinstance(field, ModelField):
        check_shape(field.name, field.shape, tuple(data.shape), any_size=field.any_size)
    if isinstance(field, ModelField | TranslatedField) and not text:
        count = field.classes if isinstance(field, ModelField) else None
        null_label = field.convention.null_label
        check_classes(name_of(field), data, count=count, null_label=null_label)
    for inner in (getattr(field, "field", None), getattr(field, "reference", None)):
        if inner is not None:
            check_fit(inner, data, text=text)


@dataclass(frozen=True)
class PlacedNetwork:
    """A network evaluated on its own device and in its own type, whatever samples come."""

    network: Callable[..., Tensor]
    device: torch.device
    dtype: torch.dtype | None
    """None: the type of the samples."""
    name: str = field(default="the network", metadata=NOT_IDENTITY)

    def __call__(self, x: Tensor, t: Tensor, *labels: Tensor) -> Tensor:
        """The network's output, on the device and in the type of x."""
        output = self.network(
            x.to(self.device, self.dtype or x.dtype),
            t.to(self.device),
            *(tensor.to(self.device) for tensor in labels),
        )
        if not isinstance(output, Tensor) or output.shape != x.shape:
            raise InputError(
                f"{self.name} must return a tensor of the shape of its samples, {list(x.shape)},"
                f" but returned {_value_text(output)}; wrap it to return the prediction alone"
            )
        if not output.is_floating_point():
            raise InputError(
                f"{self.name} must return floating point numbers, but returned {output.dtype};"
                f" wrap it to return them"
            )
        return output.to(x.device, x.dtype)


def model_field(
    network: Callable[..., Tensor],
    convention: Convention,
    *,
    name: str,
    assumed: list[str],
    device: torch.device,
    dtype: torch.dtype | None,
    shape: tuple[int, ...] | None = None,
    any_size: bool = False,
    classes: int | None = None,
    points: Mapping[str, Any] | None = None,
) -> ModelField:
    """A network as a field, its convention among what was assumed."""
    translated = TranslatedField(PlacedNetwork(network, device, dtype, name), convention)
    text = "; ".join([*assumed, describe_convention(convention)])
    return ModelField(translated, name, text, shape, any_size, classes, points)


def _value_text(value: object) -> str:
    if isinstance(value, Tensor):
        return str(list(value.shape))
    if isinstance(value, (tuple, list)):
        return f"a {type(value).__name__} of {len(value)}"
    return f"a {type(value).__name__}"
