"""Results as values and arrays, and back: tensors become arrays, everything else values.

What is read is checked before it is used: a missing name, a value of another type or an array of
another shape is an error that names it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import fields
from typing import Any

from torch import Tensor

from floracle.run.errors import InputError
from floracle.run.results import Results

SEPARATE_FIELDS = ("settings", "provenance")
"""Fields that `Results` holds beside values and arrays."""


def dataclass_to_results(result: Any) -> Results:
    """A frozen dataclass as results: named tuples as objects, tuples as lists, without None."""
    parts = {field.name: getattr(result, field.name) for field in fields(result)}
    settings, provenance = (parts.pop(name) for name in SEPARATE_FIELDS)
    arrays = {name: part for name, part in parts.items() if isinstance(part, Tensor)}
    values = {
        name: _to_json(part)
        for name, part in parts.items()
        if name not in arrays and part is not None
    }
    return Results(result.kind, settings, values, arrays, provenance)


def _to_json(value: Any) -> Any:
    as_object = getattr(value, "_asdict", None)
    if as_object is not None:
        return as_object()
    return list(value) if isinstance(value, tuple) else value


@contextmanager
def damage_is_reported(kind: str) -> Iterator[None]:
    """Turn whatever is wrong with saved results while they are read into one `InputError`."""
    try:
        yield
    except (KeyError, TypeError, ValueError, AttributeError, IndexError) as error:
        reason = f"{error.args[0]!r} is missing" if isinstance(error, KeyError) else str(error)
        raise InputError(
            f"these are not whole results of {kind} ({reason}); compute them again"
        ) from error


def check_kind(kind: str, results: Results) -> None:
    """Refuse results of another kind, and settings that are no mapping."""
    if results.kind != kind:
        raise ValueError(f"they are of {results.kind!r}")
    for name in SEPARATE_FIELDS:
        if not isinstance(getattr(results, name), Mapping):
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
            expected = int(letter) if letter.isdigit() else sizes.setdefault(letter, size)
            if size != expected:
                raise ValueError(
                    f"{name} has shape {list(shape)}, not [{axes}] with {letter} = {expected}"
                )


def check_number(value: Any) -> Any:
    """A number as it is; anything else is refused."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise TypeError(f"{value!r} is no number")
    return value


def check_strings(value: Any) -> tuple[str, ...]:
    """A list of strings, as a tuple."""
    return _check_list(value, str, "strings")


def check_bools(value: Any) -> tuple[bool, ...]:
    """A list of truth values, as a tuple."""
    return _check_list(value, bool, "truth values")


def _check_list(value: Any, kind: type, name: str) -> tuple:
    if not isinstance(value, (list, tuple)) or not all(isinstance(item, kind) for item in value):
        raise TypeError(f"{value!r} is no list of {name}")
    return tuple(value)


def check_sample_dims(samples: Tensor, dims: int) -> None:
    """Refuse samples [n, K, *shape] with another number of dimensions."""
    if samples[0, 0].numel() != dims:
        raise ValueError(f"samples have {samples[0, 0].numel()} dimensions, not {dims}")
