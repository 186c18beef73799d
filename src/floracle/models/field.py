"""A loaded network as a velocity field that says what it is and what was assumed of it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import Tensor

from floracle.core.fields import TranslatedField
from floracle.core.point_set import NO_LABEL
from floracle.run.errors import InputError

from .convention import Convention
from .identity_facts import APART


@dataclass(frozen=True)
class ModelField:
    """A network seen as a field; made by `load_model`.

    Samples may be on any device and of any floating point type; velocities come back as they came.
    """

    translated: TranslatedField
    name: str = field(metadata=APART)
    assumed: str = field(metadata=APART)
    """What was taken for granted, as text for people."""
    shape: tuple[int, ...] | None = field(default=None, metadata=APART)
    """The shape of one sample; None where the network does not say."""
    any_size: bool = field(default=False, metadata=APART)
    """Whether only the channels of the shape are binding."""
    classes: int | None = field(default=None, metadata=APART)
    """How many labels it knows, the null label apart; None where it does not say."""

    def __call__(self, x: Tensor, t: Tensor, labels: Tensor | None = None) -> Tensor:
        """The velocity [b, *shape] at samples x [b, *shape], times t [b], labels int64 [b]."""
        self.check_shape(x)
        self.check_labels(labels)
        return self.translated(x, t, labels)

    @property
    def needs_labels(self) -> bool:
        """Whether every sample needs one of its labels; False where it does not say."""
        return self.classes is not None and self.translated.null is None

    def check_shape(self, x: Tensor) -> None:
        """Refuse samples that the network was not made for."""
        given, known = tuple(x.shape[1:]), self.shape
        if known is None or given == known:
            return
        if given[:1] != known[:1]:
            raise InputError(
                f"{self.name} works on {_words(known)} with {known[0]} channels, but these samples"
                f" are {_words(given)}; take the latents of the autoencoder it was trained with"
            )
        if not self.any_size:
            raise InputError(
                f"{self.name} works on {_words(known)}, but these samples are {_words(given)};"
                f" take data of the size it was trained on"
            )

    def check_labels(self, labels: Tensor | None) -> None:
        """Refuse labels that the network does not know."""
        if self.classes is None:
            return
        if self.needs_labels and (labels is None or bool((labels == NO_LABEL).any())):
            raise InputError(
                f"{self.name} has no null label, so every sample needs one of its labels, 0 to"
                f" {self.classes - 1}"
            )
        if labels is None or not len(labels):
            return
        wrong = (labels >= self.classes) | (labels < NO_LABEL)
        if bool(wrong.any()):
            raise InputError(
                f"{self.name} knows the labels 0 to {self.classes - 1} and -1 for none, got"
                f" {int(labels[wrong][0])}"
            )


@dataclass(frozen=True)
class Placed:
    """A network asked where it is and in its own type, whatever samples come."""

    network: Callable[..., Tensor]
    device: torch.device
    dtype: torch.dtype | None
    """None: in the type that samples come in."""
    name: str = field(default="the network", metadata=APART)

    def __call__(self, x: Tensor, t: Tensor, *labels: Tensor) -> Tensor:
        """The network's output, on the device and in the type of x."""
        given = x.to(self.device, self.dtype or x.dtype)
        said = self.network(given, t.to(self.device), *(some.to(self.device) for some in labels))
        if not isinstance(said, Tensor) or said.shape != x.shape:
            raise InputError(
                f"{self.name} has to return a tensor like its samples, {list(x.shape)}, but"
                f" returned {_shown(said)}; wrap it so that it returns the prediction alone"
            )
        return said.to(x.device, x.dtype)


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
    placed = Placed(network, device, dtype, name)
    said = "; ".join([*assumed, convention.words()])
    return ModelField(convention.field(placed), name, said, shape, any_size, classes)


def _words(shape: tuple[int, ...]) -> str:
    return " × ".join(map(str, shape)) or "single numbers"


def _shown(value: object) -> str:
    if isinstance(value, Tensor):
        return str(list(value.shape))
    if isinstance(value, (tuple, list)):
        return f"{len(value)} things"
    return f"a {type(value).__name__}"
