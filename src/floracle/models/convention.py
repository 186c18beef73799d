"""Conventions in words: those of other projects by name, and one's own as key=value pairs.

    load_model("my_code:network", convention="predicts=data,noise_time=1000,data_time=0")

Code and command line use the same words, the fields of `floracle.core.fields.Convention`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from floracle.core.fields import Convention, with_fields
from floracle.core.paths import LINEAR, PATHS, QUANTITIES, ProbabilityPath
from floracle.run.errors import InputError, suggestion

DATA_MINUS_NOISE = Convention()
NOISE_MINUS_DATA = Convention(noise_time=1, data_time=0)
CONVENTIONS = {
    "lightningdit": DATA_MINUS_NOISE,
    "sit": DATA_MINUS_NOISE,
    "torchcfm": DATA_MINUS_NOISE,
    "flow_matching": DATA_MINUS_NOISE,
    "jit": Convention(predicts="data"),
    "repa": NOISE_MINUS_DATA,
    "rae": NOISE_MINUS_DATA,
    "flux": NOISE_MINUS_DATA,
    "sd3": Convention(noise_time=1000, data_time=0),
}
"""The conventions of other projects, without their null labels; see docs/conventions.md."""

CLOCKS = {"t": (0, 1), "s": (1, 0), "sigma": (1, 0), "timestep": (1000, 0)}
"""`clock=` of version 0.1 by name: noise_time and data_time."""


def parse_convention(given: Convention | Mapping[str, Any] | str) -> Convention:
    """A convention from a project's name, words like "predicts=data,null_label=10", or a mapping.

    A project's name may be followed by words: "sd3,null_label=1000".
    """
    if isinstance(given, Convention):
        return given
    start, words = Convention(), given
    if isinstance(given, str):
        name, *pairs = [word.strip() for word in given.split(",")]
        if "=" in name:
            pairs = [name, *pairs]
        elif name in CONVENTIONS:
            start = CONVENTIONS[name]
        else:
            raise InputError(f"unknown convention {name!r}; {suggestion(name, CONVENTIONS)}")
        split = (pair.partition("=") for pair in pairs)
        words = {key.strip(): value.strip() for key, _, value in split}
    assert isinstance(words, Mapping)
    fields = {key: _read_field(key, value) for key, value in words.items()}
    try:
        return with_fields(start, **fields)
    except ValueError as error:
        raise InputError(f"convention: {error}") from error


def _read_field(key: str, value: Any) -> Any:
    """The value of one field of a convention, from its plain value."""
    if key not in READERS:
        raise InputError(f"a convention has no {key!r}; {suggestion(key, READERS)}")
    try:
        return READERS[key](value)
    except (ValueError, TypeError) as error:
        raise InputError(f"cannot read {key}={value} of a convention: {error}") from error


def _read_quantity(value: Any) -> str:
    if value not in QUANTITIES:
        raise ValueError(suggestion(str(value), QUANTITIES))
    return value


def _read_path(value: Any) -> ProbabilityPath:
    if isinstance(value, ProbabilityPath):
        return value
    if value not in PATHS:
        raise ValueError(suggestion(str(value), PATHS))
    return PATHS[value]


def _read_null_label(value: Any) -> int | None:
    return None if value in (None, "none", "None", "") else int(value)


def _read_clock(value: Any) -> Any:
    if not isinstance(value, str):
        return value
    if value in CLOCKS:
        return CLOCKS[value]
    if value.count(":") != 1:
        raise ValueError(f"write noise_time=… and data_time=…, or {suggestion(value, CLOCKS)}")
    return tuple(map(float, value.split(":")))


READERS: dict[str, Callable[[Any], Any]] = {
    "predicts": _read_quantity,
    "noise_time": float,
    "data_time": float,
    "null_label": _read_null_label,
    "path": _read_path,
    "sign": int,
    # of version 0.1, until 0.3
    "clock": _read_clock,
    "null": _read_null_label,
}
"""How each word of a convention is read."""


def convention_settings(convention: Convention) -> dict[str, Any]:
    """A convention as JSON values, as network files hold it; a user's own path has none.

    `clock` and `null` are the words of version 0.1, whose files and readers stay valid.
    """
    if PATHS.get(convention.path.name) != convention.path:
        raise InputError(
            f"cannot save the path {convention.path.name}; paths that can be saved: {[*PATHS]}"
        )
    return {
        "predicts": convention.predicts,
        "clock": [convention.noise_time, convention.data_time],
        "path": convention.path.name,
        "sign": convention.sign,
        "null": convention.null_label,
    }


def convention_from_settings(settings: Mapping[str, Any]) -> Convention:
    """The inverse of `convention_settings`."""
    noise_time, data_time = settings["clock"]
    plain = {"noise_time": noise_time, "data_time": data_time, "null_label": settings["null"]}
    others = ("predicts", "path", "sign")
    return parse_convention(plain | {key: settings[key] for key in others})


def describe_convention(convention: Convention) -> str:
    """All of a convention as a sentence for people."""
    negative = "the negative of " if convention.sign == -1 else ""
    quantity = f"the {convention.predicts}"
    if convention.predicts == "velocity" and convention.path == LINEAR:
        quantity = "data − noise" if convention.towards_data else "noise − data"
    null = "no null label"
    if convention.null_label is not None:
        null = f"null label {convention.null_label}"
    return (
        f"predicts {negative}{quantity} on the {convention.path.name} path, its time is"
        f" {convention.noise_time:g} at noise and {convention.data_time:g} at data, {null}"
    )


def convention_words(convention: Convention) -> str:
    """The words that declare a convention, such as "predicts=data,null_label=10".

    Of the fields that are as by default only `predicts` is written.
    """
    words = []
    for key in ("predicts", "noise_time", "data_time", "null_label", "path", "sign"):
        value = getattr(convention, key)
        if key != "predicts" and value == getattr(DATA_MINUS_NOISE, key):
            continue
        shown = value.name if isinstance(value, ProbabilityPath) else value
        words.append(f"{key}={shown:g}" if isinstance(shown, float) else f"{key}={shown}")
    return ",".join(words)
