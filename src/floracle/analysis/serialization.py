"""Measurements as values and arrays, and back: what is tensors goes to arrays, the rest to values.

What is read back is looked at before it is believed: a name that is missing, a value of another
kind or an array of another shape is a mistake that names it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import fields
from typing import Any

from torch import Tensor

from floracle.run.errors import InputError
from floracle.run.results import Results

APART = ("settings", "provenance")
"""Fields that results have a place of their own for."""


def as_results(found: Any) -> Results:
    """A frozen dataclass as results; named tuples become objects, tuples lists."""
    parts = {each.name: getattr(found, each.name) for each in fields(found)}
    settings, known = (parts.pop(name) for name in APART)
    arrays = {name: part for name, part in parts.items() if isinstance(part, Tensor)}
    values = {name: _plain(part) for name, part in parts.items() if name not in arrays}
    values = {name: part for name, part in values.items() if part is not None}
    return Results(found.kind, settings, values, arrays, known)


def _plain(part: Any) -> Any:
    named = getattr(part, "_asdict", None)
    if named is not None:
        return named()
    return list(part) if isinstance(part, tuple) else part


@contextmanager
def reading(kind: str) -> Iterator[None]:
    """Whatever is wrong with saved results while they are read is one mistake that says so."""
    try:
        yield
    except (KeyError, TypeError, ValueError, AttributeError, IndexError) as error:
        told = f"{error.args[0]!r} is missing" if isinstance(error, KeyError) else str(error)
        raise InputError(
            f"these are not whole results of {kind} ({told}); compute them again"
        ) from error


def check_kind(kind: str, found: Results) -> None:
    """Refuse results of something else, and settings that are none."""
    if found.kind != kind:
        raise ValueError(f"they are of {found.kind!r}")
    for name in APART:
        if not isinstance(getattr(found, name), Mapping):
            raise TypeError(f"the {name} are no names with values")


def check_shapes(arrays: Mapping[str, Tensor], shapes: Mapping[str, str]) -> None:
    """Refuse arrays unless they have shapes like "b K", a letter being the same size everywhere.

    A last "…" stands for any number of axes.
    """
    sizes: dict[str, int] = {}
    for name, axes in shapes.items():
        letters, shape = axes.replace("…", "").split(), tuple(arrays[name].shape)
        open_end = axes.endswith("…")
        if len(shape) < len(letters) or (len(shape) > len(letters) and not open_end):
            raise ValueError(f"{name} has shape {list(shape)}, not [{axes}]")
        for letter, size in zip(letters, shape, strict=False):
            known = int(letter) if letter.isdigit() else sizes.setdefault(letter, size)
            if size != known:
                raise ValueError(
                    f"{name} has shape {list(shape)}, not [{words}], {letter}={known}"
                )


def number(value: Any) -> Any:
    """A number as it is; anything else is refused."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise TypeError(f"{value!r} is no number")
    return value


def words(value: Any) -> tuple[str, ...]:
    """A list of words."""
    if not isinstance(value, (list, tuple)) or not all(isinstance(each, str) for each in value):
        raise TypeError(f"{value!r} is no list of words")
    return tuple(value)


def truths(value: Any) -> tuple[bool, ...]:
    """A list of truth values."""
    if not isinstance(value, (list, tuple)) or not all(isinstance(each, bool) for each in value):
        raise TypeError(f"{value!r} is no list of truth values")
    return tuple(value)


def check_ends(ends: Tensor, dims: int) -> None:
    """Refuse ends [n, K, *shape] of points with another number of dimensions."""
    if ends[0, 0].numel() != dims:
        raise ValueError(f"ends have {ends[0, 0].numel()} dimensions, not {dims}")
