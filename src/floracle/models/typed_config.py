"""Settings in files of other projects, read by a schema: every key has a reader, none a `get`.

A reader takes a value as JSON, YAML or a pickle gives it. It returns the value, or raises a
ValueError that says what the value must be. A key that no reader knows is not lost: `unread` names
it, so that the user learns of a setting that this version does not follow.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from floracle.run.errors import InputError

Reader = Callable[[Any], Any]
Schema = Mapping[str, Reader]
MAX_COUNT = 2**20
"""No width, side or vocabulary of a network is larger; sizes stay comparable within 64 bits."""
MAX_SHOWN = 60  # characters of a value in a message
MAX_UNREAD_SHOWN = 4


def read_settings(values: object, schema: Schema, source: object) -> dict[str, Any]:
    """The values of a schema's keys, those that are there; `source` says where they stand."""
    if not isinstance(values, Mapping):
        raise InputError(
            f"{source} is {show(values)}, not a table of settings; correct the file, or fetch it"
            f" again"
        )
    settings = {}
    for key, read in schema.items():
        if key not in values:
            continue
        try:
            settings[key] = read(values[key])
        except ValueError as error:
            raise InputError(
                f"{source}: {key} is {show(values[key])}, but must be {error}; correct the file,"
                f" or fetch it again"
            ) from error
    return settings


def check_argument(name: str, value: object, read: Reader) -> Any:
    """The value of an argument of a function, by the same readers."""
    try:
        return read(value)
    except ValueError as error:
        raise InputError(f"{name} is {show(value)}, but must be {error}") from error


def unread(values: Mapping[str, Any], *schemas: Schema, section: str = "") -> list[str]:
    """The settings that no schema has, as one phrase for people in a list, or an empty list.

    Keys that begin with an underscore are notes of the library that wrote the file, and None sets
    nothing.
    """
    known = {key for schema in schemas for key in schema}
    left = [
        f"{section}{show(key, quotes=False)} = {show(value)}"
        for key, value in values.items()
        if key not in known and value is not None and not str(key).startswith("_")
    ]
    if not left:
        return []
    more = len(left) - MAX_UNREAD_SHOWN
    names = ", ".join(left[:MAX_UNREAD_SHOWN]) + (f" and {more} more" if more > 0 else "")
    return [f"settings that are not read: {names}"]


def show(value: object, *, quotes: bool = True) -> str:
    """A value for a message: short, in one line, whatever it is."""
    if not isinstance(value, (str, int, float, bool, type(None))):
        return f"a {type(value).__name__}"
    try:
        text = ascii(value) if quotes or not isinstance(value, str) else ascii(value)[1:-1]
    except ValueError:  # Python writes no whole numbers of more than 4,300 digits
        return "a number of thousands of digits"
    return text if len(text) <= MAX_SHOWN else text[: MAX_SHOWN - 1] + "…"


# Readers ------------------------------------------------------------------------------------


def count(minimum: int = 1, maximum: int = MAX_COUNT) -> Reader:
    """A whole number in these bounds."""

    def read(value: Any) -> int:
        if type(value) is not int or not minimum <= value <= maximum:
            raise ValueError(f"a whole number from {minimum} to {maximum:,}")
        return value

    return read


def number(value: Any) -> float:
    """A finite number."""
    if type(value) not in (int, float) or abs(value) > 1e300 or not math.isfinite(value):
        raise ValueError("a finite number")
    return float(value)


def positive(value: Any) -> float:
    """A finite number above 0."""
    try:
        return _above_zero(number(value))
    except ValueError as error:
        raise ValueError("a finite number above 0") from error


def _above_zero(value: float) -> float:
    if value <= 0:
        raise ValueError
    return value


def share(value: Any) -> float:
    """A number from 0 to 1."""
    if type(value) not in (int, float) or not 0 <= value <= 1:
        raise ValueError("a number from 0 to 1")
    return float(value)


def boolean(value: Any) -> bool:
    """True or false, and not a word for it."""
    if type(value) is not bool:
        raise ValueError("true or false")
    return value


def text(value: Any) -> str:
    """Any text."""
    if not isinstance(value, str):
        raise ValueError("text")
    return value


def one_of(*allowed: Any) -> Reader:
    """One of a few values, because others are not supported."""

    def read(value: Any) -> Any:
        if not any(type(value) is type(choice) and value == choice for choice in allowed):
            raise ValueError(" or ".join(map(show, allowed)) + " for this version to follow it")
        return value

    return read


def optional(read: Reader) -> Reader:
    """What another reader takes, or nothing."""
    return lambda value: None if value is None else read(value)


def several(read: Reader) -> Reader:
    """A list of what another reader takes, as a tuple."""

    def read_all(value: Any) -> tuple[Any, ...]:
        if not isinstance(value, Sequence) or isinstance(value, (str, bytes)):
            raise ValueError("a list")
        try:
            return tuple(read(item) for item in value)
        except ValueError as error:
            raise ValueError(f"a list, each {error}") from error

    return read_all


def table(value: Any) -> Mapping[str, Any]:
    """A table of further settings."""
    if not isinstance(value, Mapping):
        raise ValueError("a table of settings")
    return value


def anything(value: Any) -> Any:
    """Whatever it is: no number depends on it."""
    return value


def unused(names: str) -> dict[str, Reader]:
    """Keys, in one text, that a project writes and on which no number of its networks depends."""
    return dict.fromkeys(names.split(), anything)
