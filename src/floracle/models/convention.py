"""Conventions in words: those of other projects by name, and one's own as key=value pairs.

    load_model("my_code:network", convention="predicts=data,noise_time=1000,data_time=0")

Code and command line use the same words, the fields of `floracle.core.fields.Convention`.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Mapping
from dataclasses import fields as fields_of
from typing import Any

from floracle.core.fields import Convention, with_fields
from floracle.core.paths import (
    COSINE,
    LINEAR,
    PATHS,
    QUANTITIES,
    TRIGONOMETRIC,
    ProbabilityPath,
)
from floracle.run.errors import InputError, suggestion

OURS = DATA_MINUS_NOISE = Convention()
ADDED_FIELDS = ("noise_scale", "min_time_left")
"""Fields since 0.2, which files without them have as by default."""
NOISE_MINUS_DATA = Convention(noise_time=1, data_time=0)
CONVENTIONS = {
    "lightningdit": DATA_MINUS_NOISE,
    "sit": DATA_MINUS_NOISE,
    "torchcfm": DATA_MINUS_NOISE,
    "flow_matching": DATA_MINUS_NOISE,
    "jit": Convention(predicts="data", min_time_left=0.05),
    "repa": NOISE_MINUS_DATA,
    "rae": NOISE_MINUS_DATA,
    "flux": NOISE_MINUS_DATA,
    "sd3": Convention(noise_time=1000, data_time=0),
}
"""The conventions of other projects, without their null labels; see docs/conventions.md."""

NICHOL_DHARIWAL = "nichol-dhariwal"
PATH_WORDS = {
    "linear": LINEAR,
    "trigonometric": TRIGONOMETRIC,
    NICHOL_DHARIWAL: COSINE,
}
"""The words for paths that mean the same beside every project."""
TRANSPORT_PATHS = {"linear": LINEAR, "gvp": TRIGONOMETRIC}
PATHS_OF_PROJECTS = {
    "sit": TRANSPORT_PATHS,
    "lightningdit": TRANSPORT_PATHS,
    "rae": TRANSPORT_PATHS,
    "repa": {"linear": LINEAR, "cosine": TRIGONOMETRIC},
    "flow_matching": {"condot": LINEAR, "cosine": TRIGONOMETRIC},
}
"""The words that a project itself has for paths; they count where its name stands before them."""
TWO_COSINES = (
    "write path=trigonometric for α = sin πt/2 (SiT's GVP; the cosine of REPA and flow_matching),"
    f" or path={NICHOL_DHARIWAL} for the schedule of Nichol & Dhariwal"
)
QUANTITIES_OF_PROJECTS = {
    **{"x": "data", "x0": "data", "x_0": "data", "x1": "data", "x_1": "data"},
    **{"x_start": "data", "sample": "data", "eps": "noise", "epsilon": "noise"},
}
"""What a prediction is called elsewhere. x0 and x1 are each the data in half of the literature."""
V_PREDICTIONS = ("v", "v_prediction")

CLOCKS = {"t": (0, 1), "s": (1, 0), "sigma": (1, 0), "timestep": (1000, 0)}
"""`clock=` of version 0.1 by name: noise_time and data_time."""


def parse_convention(given: Convention | Mapping[str, Any] | str) -> Convention:
    """A convention from a project's name, words like "predicts=data,null_label=10", or a mapping.

    A project's name may be followed by words: "sd3,null_label=1000".
    """
    if isinstance(given, Convention):
        return given
    start, words, project = Convention(), given, ""
    if isinstance(given, str):
        name, *pairs = [word.strip() for word in given.split(",")]
        if "=" in name:
            pairs = [name, *pairs]
        elif name in CONVENTIONS:
            start, project = CONVENTIONS[name], name
        else:
            raise InputError(f"unknown convention {name!r}; {suggestion(name, CONVENTIONS)}")
        words = _split_words(pairs)
    if not isinstance(words, Mapping):
        raise InputError(f"a convention is words or a mapping, got a {type(given).__name__}")
    fields = {key: _read_field(key, value, project) for key, value in words.items()}
    if fields.get("predicts", "data") != "data":
        fields.setdefault("min_time_left", 0.0)  # of a project that predicts the data
    try:
        return with_fields(start, **fields)
    except ValueError as error:
        raise InputError(f"convention: {error}") from error


def _split_words(pairs: list[str]) -> dict[str, str]:
    """The words key=value by their key, each once."""
    words = {}
    for pair in pairs:
        key, equals, value = (part.strip() for part in pair.partition("="))
        if not equals:
            raise InputError(
                f"a convention is one name and words like null_label=10, got {pair!r}"
            )
        if key in words:
            raise InputError(f"a convention says {key}= twice: {words[key]} and {value}")
        words[key] = value
    return words


def _read_field(key: str, value: Any, project: str) -> Any:
    """The value of one field of a convention, from its plain value."""
    if key not in READERS:
        raise InputError(f"a convention has no {key!r}; {suggestion(key, READERS)}")
    try:
        if key == "path":
            return _read_path(value, project)
        if key == "clock" and project and value in CLOCKS:
            raise ValueError(f"{project} has times of its own; write noise_time=… and data_time=…")
        return READERS[key](value)
    except (ValueError, TypeError) as error:
        raise InputError(f"cannot read {key}={value} of a convention: {error}") from error


def _read_quantity(value: Any) -> str:
    if value in V_PREDICTIONS:
        raise ValueError(
            "velocity is the change of x in time; the v-prediction of diffusers, α ε − σ x, is"
            " −2/π of the velocity of the trigonometric path: wrap the network to return that"
        )
    if value in QUANTITIES_OF_PROJECTS:
        raise ValueError(f"write predicts={QUANTITIES_OF_PROJECTS[value]}")
    if value not in QUANTITIES:
        raise ValueError(suggestion(str(value), QUANTITIES))
    return value


def _read_path(value: Any, project: str = "") -> ProbabilityPath:
    """A path from its word: one that the project before it has, or one of ours."""
    if isinstance(value, ProbabilityPath):
        return value
    words = PATH_WORDS | PATHS_OF_PROJECTS.get(project, {})
    word = str(value).lower() if project else str(value)
    if word == "cosine" and word not in words:
        if project:
            raise ValueError(
                f"cosine is two paths, and {project} has none of that name; {TWO_COSINES}"
            )
        warnings.warn(
            f"path=cosine is read as path={NICHOL_DHARIWAL}; {TWO_COSINES}; the old word ends with"
            f" 0.3",
            FutureWarning,
            stacklevel=4,
        )
        return COSINE
    if word not in words:
        raise ValueError(suggestion(str(value), words))
    return words[word]


def _read_number(value: Any) -> float:
    number = float(value)
    if not math.isfinite(number):
        raise ValueError("it must be finite")
    return number


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
    "noise_time": _read_number,
    "data_time": _read_number,
    "null_label": _read_null_label,
    "path": _read_path,
    "sign": int,
    "noise_scale": _read_number,
    "min_time_left": _read_number,
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
    added = {name: getattr(convention, name) for name in ADDED_FIELDS}
    return {
        "predicts": convention.predicts,
        "clock": [convention.noise_time, convention.data_time],
        "path": convention.path.name,
        "sign": convention.sign,
        "null": convention.null_label,
        **{name: value for name, value in added.items() if value != getattr(OURS, name)},
    }


def convention_from_settings(settings: Mapping[str, Any]) -> Convention:
    """The inverse of `convention_settings`."""
    noise_time, data_time = settings["clock"]
    words = {"noise_time": noise_time, "data_time": data_time, "null_label": settings["null"]}
    words |= {key: settings[key] for key in ("predicts", "sign")}
    words |= {key: settings[key] for key in ADDED_FIELDS if key in settings}
    path = settings["path"]
    return parse_convention(words | {"path": PATHS.get(path, path)})


def describe_convention(convention: Convention) -> str:
    """All of a convention as a sentence for people."""
    negative = "the negative of " if convention.sign == -1 else ""
    quantity = f"the {convention.predicts}"
    if convention.predicts == "velocity" and convention.path == LINEAR:
        quantity = "data − noise" if convention.towards_data else "noise − data"
    null = "no null label"
    if convention.null_label is not None:
        null = f"null label {convention.null_label}"
    more = ""
    if convention.noise_scale != 1:
        more += f", noise of deviation {convention.noise_scale:g}"
    if convention.min_time_left:
        more += f", 1 − t is at least {convention.min_time_left:g} where data − x is divided by it"
    if convention.first_time:
        more += f"; {start_note(convention)}"
    return (
        f"predicts {negative}{quantity} on the {word_of(convention.path)} path, its time is"
        f" {convention.noise_time:g} at noise and {convention.data_time:g} at data, {null}{more}"
    )


def start_note(convention: Convention) -> str:
    """What is done before the first time at which a velocity follows from the prediction."""
    return (
        f"at t = 0 no velocity follows from the {convention.predicts}, so before"
        f" t = {convention.first_time:g} samples go towards the data that it predicts there"
    )


def word_of(value: object) -> str:
    """A value as it is declared: a path by its word of one meaning, a user's own by its name."""
    if isinstance(value, ProbabilityPath):
        return next((word for word, path in PATH_WORDS.items() if path == value), value.name)
    return f"{value:g}" if isinstance(value, float) else str(value)


def convention_words(convention: Convention) -> str:
    """The words that declare a convention, such as "predicts=data,null_label=10".

    Of the fields that are as by default only `predicts` is written.
    """
    words = []
    for field in fields_of(convention):
        value = getattr(convention, field.name)
        if field.name != "predicts" and value == field.default:
            continue
        words.append(f"{field.name}={word_of(value)}")
    return ",".join(words)
