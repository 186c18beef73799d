"""A loaded network as a velocity field, with its name, its shape and what was assumed of it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import Tensor

from floracle.core.fields import Convention, TranslatedField
from floracle.core.point_set import NO_LABEL
from floracle.run.errors import InputError

from .convention import describe_convention
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

    def __call__(self, x: Tensor, t: Tensor, labels: Tensor | None = None) -> Tensor:
        """The velocity [b, *shape] at samples x [b, *shape], times t [b], labels int64 [b]."""
        self.check_shape(x)
        self.check_labels(labels)
        return self.translated(x, t, labels)

    @property
    def needs_labels(self) -> bool:
        """Whether every sample needs one of its labels; False where it does not say."""
        return self.classes is not None and self.translated.convention.null_label is None

    def check_shape(self, x: Tensor) -> None:
        """Refuse samples of another shape than the network's."""
        shape = tuple(x.shape[1:])
        if self.shape is None or shape == self.shape:
            return
        if shape[:1] != self.shape[:1]:
            takes = _shape_text(self.shape)
            if self.any_size:
                takes = f"{self.shape[0]} channels of any size"
            raise InputError(
                f"{self.name} takes {takes} (channels first), but these samples are"
                f" {_shape_text(shape)}; use data of the kind it was trained on, for a latent"
                f" model the latents of its autoencoder"
            )
        if not self.any_size:
            raise InputError(
                f"{self.name} takes {_shape_text(self.shape)}, but these samples are"
                f" {_shape_text(shape)}; use data of the size it was trained on"
            )

    def check_labels(self, labels: Tensor | None) -> None:
        """Refuse labels that the network does not have."""
        if self.classes is None:
            return
        if self.needs_labels and (labels is None or bool((labels == NO_LABEL).any())):
            raise InputError(
                f"{self.name} has no null label, so every sample needs a label from 0 to"
                f" {self.classes - 1}; pass labels"
            )
        if labels is None:
            return
        unknown = labels[(labels >= self.classes) | (labels < NO_LABEL)]
        if len(unknown):
            raise InputError(
                f"{self.name} has the labels 0 to {self.classes - 1}, and -1 for none, got"
                f" {int(unknown[0])}"
            )


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
) -> ModelField:
    """A network as a field, its convention among what was assumed."""
    translated = TranslatedField(PlacedNetwork(network, device, dtype, name), convention)
    text = "; ".join([*assumed, describe_convention(convention)])
    return ModelField(translated, name, text, shape, any_size, classes)


def _shape_text(shape: tuple[int, ...]) -> str:
    return " × ".join(map(str, shape)) or "single numbers"


def _value_text(value: object) -> str:
    if isinstance(value, Tensor):
        return str(list(value.shape))
    if isinstance(value, (tuple, list)):
        return f"a {type(value).__name__} of {len(value)}"
    return f"a {type(value).__name__}"
