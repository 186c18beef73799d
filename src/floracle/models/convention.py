"""What a network means by its numbers: its prediction, its clock, its path, its null label.

Projects' names stand for their conventions; who brings a network of their own says theirs:

    load_model("my_code:network", convention="predicts=data,clock=1000:0,null=10")
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, cast

from torch import Tensor

from floracle.core.clock import OURS, Clock
from floracle.core.fields import TranslatedField
from floracle.core.paths import LINEAR, PATHS, QUANTITIES, ProbabilityPath, Quantity
from floracle.run.errors import InputError, suggestion

CLOCKS = {
    "t": OURS,
    "s": Clock(noise=1, data=0),
    "sigma": Clock(noise=1, data=0),
    "timestep": Clock(noise=1000, data=0),
}
"""The clocks that are linear in ours, by the names that `floracle convert-time` has for them."""


@dataclass(frozen=True)
class Convention:
    """How to read a network as a velocity field."""

    predicts: Quantity = "velocity"
    clock: Clock = OURS
    """What it reads at noise and at data."""
    path: ProbabilityPath = LINEAR
    sign: int = 1
    """−1 where it predicts the opposite of what the other words say."""
    null: int | None = None
    """Its label for "no label"; None where it has none."""

    def __post_init__(self) -> None:
        if self.predicts not in QUANTITIES:
            known = suggestion(self.predicts, QUANTITIES)
            raise InputError(f"a network cannot predict {self.predicts!r}; {known}")
        if self.sign not in (1, -1):
            raise InputError(f"the sign of a prediction is 1 or -1, got {self.sign}")

    def field(self, model: Callable[..., Tensor]) -> TranslatedField:
        """A network that works by this convention, as a field."""
        signed = model if self.sign == 1 else Opposite(model)
        return TranslatedField(signed, self.predicts, self.clock, self.path, self.null)

    def words(self) -> str:
        """All of it as a sentence."""
        opposite = "the opposite of " if self.sign == -1 else ""
        meaning = f"the {self.predicts}"
        if self.predicts == "velocity" and self.path == LINEAR:
            meaning = "data − noise" if self.clock.forward else "noise − data"
        known = "no null label" if self.null is None else f"null label {self.null}"
        return (
            f"predicts {opposite}{meaning} on the {self.path.name} path, reads the time"
            f" {self.clock.noise:g} at noise and {self.clock.data:g} at data, {known}"
        )

    def settings(self) -> dict[str, Any]:
        """As plain values; a path of one's own has none."""
        if PATHS.get(self.path.name) != self.path:
            raise InputError(
                f"the path {self.path.name} cannot be written down; known: {[*PATHS]}"
            )
        return {
            "predicts": self.predicts,
            "clock": [self.clock.noise, self.clock.data],
            "path": self.path.name,
            "sign": self.sign,
            "null": self.null,
        }


@dataclass(frozen=True)
class Opposite:
    """A model with its prediction's sign turned."""

    model: Callable[..., Tensor]

    def __call__(self, *given: Tensor) -> Tensor:
        """The opposite of what the model says."""
        return -self.model(*given)


def declared(field: TranslatedField) -> str:
    """The words by which a network is read as this field, such as "predicts=data,clock=0:1"."""
    words = [f"predicts={field.predicts}", f"clock={field.clock.noise:g}:{field.clock.data:g}"]
    if field.path != LINEAR:
        words.append(f"path={field.path.name}")
    if isinstance(field.model, Opposite):
        words.append("sign=-1")
    if field.null is not None:
        words.append(f"null={field.null}")
    return ",".join(words)


_TOWARDS_DATA = Convention()
_TOWARDS_NOISE = Convention(clock=Clock(noise=1, data=0))
CONVENTIONS = {
    "lightningdit": _TOWARDS_DATA,
    "sit": _TOWARDS_DATA,
    "torchcfm": _TOWARDS_DATA,
    "flow_matching": _TOWARDS_DATA,
    "jit": Convention(predicts="data"),
    "repa": _TOWARDS_NOISE,
    "rae": _TOWARDS_NOISE,
    "flux": _TOWARDS_NOISE,
    "sd3": Convention(clock=Clock(noise=1000, data=0)),
}
"""The conventions of other projects, without their null labels; see docs/conventions.md."""


def convention_of(asked: Convention | Mapping[str, Any] | str) -> Convention:
    """A convention from a project's name, words like "predicts=data,clock=1:0", or a mapping."""
    if isinstance(asked, Convention):
        return asked
    if isinstance(asked, Mapping):
        return replace(Convention(), **{name: _part(name, asked[name]) for name in asked})
    name, *rest = [word.strip() for word in asked.split(",")]
    start = Convention()
    if "=" in name:
        rest = [name, *rest]
    elif name in CONVENTIONS:
        start = CONVENTIONS[name]
    else:
        raise InputError(f"there is no convention {name!r}; {suggestion(name, CONVENTIONS)}")
    parts = [word.partition("=") for word in rest]
    return replace(start, **{key.strip(): _part(key.strip(), value) for key, _, value in parts})


def _part(name: str, value: Any) -> Any:
    """One part of a convention from its plain value."""
    readers: dict[str, Callable[[Any], Any]] = {
        "predicts": str,
        "clock": _clock,
        "path": _path,
        "sign": int,
        "null": lambda null: None if null in (None, "none", "None", "") else int(null),
    }
    if name not in readers:
        raise InputError(f"a convention has no {name!r}; {suggestion(name, readers)}")
    try:
        return readers[name](value)
    except (ValueError, TypeError) as error:
        raise InputError(f"{name}={value} of a convention is not readable: {error}") from error


def _clock(value: Any) -> Clock:
    if isinstance(value, Clock):
        return value
    if isinstance(value, str) and ":" not in value:
        if value not in CLOCKS:
            raise ValueError(f"write NOISE:DATA, its times there, or {suggestion(value, CLOCKS)}")
        return CLOCKS[value]
    noise, data = value.split(":") if isinstance(value, str) else value
    return Clock(float(noise), float(data))


def _path(value: Any) -> ProbabilityPath:
    if isinstance(value, ProbabilityPath):
        return value
    if value not in PATHS:
        raise ValueError(suggestion(cast(str, value), PATHS))
    return PATHS[value]
